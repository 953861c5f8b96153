"""What `dmx export --to web` may be told, and what is said about the browser's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from depthmask.commands.options import PathType, console
from depthmask.commands.target_kind import TargetKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from depthmask.bundle import Bundle
    from depthmask.export.to_web import WebOptions

_OPTIONS = (
    click.option(
        "--ort-web",
        type=PathType(),
        metavar="FOLDER|TGZ",
        help="onnxruntime-web for --to web, where npm cannot fetch it.",
    ),
    click.option(
        "--webgpu",
        is_flag=True,
        help="--to web also for GPUs: larger, and used where there is one.",
    ),
)


def _chosen(options: Mapping[str, Any]) -> WebOptions:
    from depthmask.export.to_web import WebOptions

    return WebOptions(ort_web=options["ort_web"], webgpu=options["webgpu"])


def _show(bundle: Bundle) -> None:
    """Two lines on the folder, where the bundle has one."""
    from rich.markup import escape

    from depthmask.export.to_web import WEB_FOLDER, WEB_MANIFEST_FILE, read_web_manifest

    if f"{WEB_FOLDER}/{WEB_MANIFEST_FILE}" not in bundle.manifest.files:
        return
    made = read_web_manifest(bundle.path / WEB_FOLDER)
    packed_bytes = made.download.brotli_bytes
    packed = (
        f"{packed_bytes / 1e6:.1f} MB with brotli"
        if packed_bytes is not None
        else "without .br files: neither Python's brotli nor node is here"
    )
    console.print(
        f"{escape(str(bundle.path / WEB_FOLDER))}/ runs in the browser: {made.runtime.name}"
        f" {made.runtime.version}, {made.precision}, {made.download.raw_bytes / 1e6:.1f} MB to load,"
        f" {packed}."
    )
    console.print("Host it anywhere: docs/browser.md says how, and which headers make it fast.")


WEB = TargetKind(names=("web",), title="--to web", options=_OPTIONS, chosen=_chosen, show=_show)
