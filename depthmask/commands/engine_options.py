"""What `dmx export --to tensorrt` and `tensorrt-rtx` may be told, and what is said about engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from depthmask.commands.limit_options import OF_ENGINES
from depthmask.commands.options import NAMES, PathType, console
from depthmask.commands.target_kind import TargetKind
from depthmask.frames import Resolution

if TYPE_CHECKING:
    from collections.abc import Mapping

    from depthmask.bundle import Bundle
    from depthmask.engine import EngineHeader
    from depthmask.export.engines import EngineOptions

_OPTIONS = (
    click.option(
        "--gpu",
        type=NAMES,
        metavar="SM[,...]",
        help="GPU architectures that tensorrt-rtx builds for, as sm86,sm89; by default the one here.",
    ),
    click.option(
        "--workspace-mib",
        type=click.IntRange(min=1),
        help="The most scratch memory that a layer of an engine may take; all of the GPU's by default.",
    ),
    click.option(
        "--builder-level",
        type=click.IntRange(0, 5),
        default=3,
        show_default=True,
        help="How hard TensorRT looks for fast kernels.",
    ),
    click.option(
        "--timing-cache",
        type=PathType(),
        metavar="FILE",
        help="Times of kernels, read and kept for the next build on this GPU; tensorrt only.",
    ),
    click.option(
        "--hardware-compatible",
        type=click.Choice(["same-compute-capability", "ampere-plus"]),
        help="Build for other GPUs too, of this architecture or of sm80 and newer; tensorrt only.",
    ),
    click.option(
        "--version-compatible",
        is_flag=True,
        help="Let newer TensorRTs of the same major version load the engine; tensorrt only.",
    ),
    click.option(
        "--strip-weights",
        is_flag=True,
        help="Leave the weights to the ONNX beside the engine, which gives them back; tensorrt only.",
    ),
)


def _chosen(options: Mapping[str, Any]) -> EngineOptions:
    from depthmask.export.engines import EngineOptions
    from depthmask.export.tensorrt_builder import BuildFlags
    from depthmask.profiles import PROFILE_BATCH

    largest = options["largest"]
    return EngineOptions(
        flavour=options["target"],
        architectures=options["gpu"] or (),
        workspace_mib=options["workspace_mib"],
        level=options["builder_level"],
        largest_batch=options["largest_batch"] or PROFILE_BATCH,
        largest=Resolution.parse(largest) if largest is not None else None,
        flags=BuildFlags(
            timing_cache=options["timing_cache"],
            version_compatible=options["version_compatible"],
            hardware_compatibility=options["hardware_compatible"] or "none",
            strip_weights=options["strip_weights"],
        ),
    )


def print_engines(bundle: Bundle) -> None:
    """One line for each engine, and what the builder warned of."""
    from rich.markup import escape

    from depthmask.engine import PRODUCTS

    for header in bundle.manifest.engines:
        checked = (
            "verified on this GPU"
            if header.verified
            else "not run yet: it was built without its GPU"
        )
        console.print(
            f"{header.file}: {PRODUCTS[header.flavour]} {header.version} for"
            f" {', '.join(header.architectures)}, {header.precision}, {header.size_bytes / 1e6:.1f} MB,"
            f" built in {header.build_s:.1f} s, {checked}{_flags(header)}"
        )
        for warning in header.warnings:
            console.print(f"  builder: {escape(' '.join(warning.split()))}")


def _flags(header: EngineHeader) -> str:
    said = {
        "newer versions load it": header.version_compatible,
        "sm80 and newer run it": header.hardware_compatibility == "ampere-plus",
        "every GPU of its architecture runs it": header.hardware_compatibility
        == "same-compute-capability",
        "its weights are in the ONNX": header.stripped,
    }
    return "".join(f", {words}" for words, is_so in said.items() if is_so)


ENGINES = TargetKind(
    names=("tensorrt", "tensorrt-rtx"),
    title="engines",
    options=_OPTIONS,
    shared=OF_ENGINES,
    chosen=_chosen,
    show=print_engines,
)
