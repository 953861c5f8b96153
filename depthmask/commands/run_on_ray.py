"""`dmx run --engine ray`: photographs and videos through a cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import MofNCompleteColumn, Progress

from depthmask.commands.options import flag, given_options, messages, print_json
from depthmask.commands.ray_options import check_engine, ray_connection
from depthmask.errors import InputError, UsageError
from depthmask.runtimes import for_precision

if TYPE_CHECKING:
    from depthmask.bundle import Bundle

_HEEDED = frozenset(
    {
        "bundle",
        "sources",
        "views",
        "background",
        "out",
        "overwrite",
        "runtime",
        "device",
        "threads",
        "resolutions",
        "engine",
        "address",
        "workers",
        "as_json",
    }
)


def run_on_ray(context: click.Context, sources: Sequence[str], out: str | None) -> None:
    """Run the command of `context`; its other options are in its `params`.

    Raises:
        UsageError: an option that only a single machine has, or no folder for the outputs.
        InputError: sources could not be done; the others are.

    """
    from depthmask.bundle import open_bundle
    from depthmask.storage import Storage, is_url
    from depthmask.video.cutout import Background
    from depthmask.video.piece_work import PieceWork, first_readable
    from depthmask.video.pieces import plan
    from depthmask.video.run_pieces import check_store, run_pieces
    from depthmask.video.sinks import check_folder

    options = context.params
    _check_options(context)
    check_engine("ray", options["address"], out)
    if out is None or (not is_url(out) and Path(out).suffix):
        raise UsageError(f"--out must be a folder or a URL for --engine ray, but got {out}")
    target = Storage(out) if is_url(out) else Path(out)
    if isinstance(target, Storage):
        check_store(target, overwrite=options["overwrite"])
    else:
        check_folder(target, overwrite=options["overwrite"])
    pieces = plan(sources)
    has_photos = any(piece.kind != "video" for piece in pieces)
    views = _views(options, has_photos=has_photos, has_videos=pieces[0].kind == "video")
    bundle = open_bundle(options["bundle"])
    resolutions = options["resolutions"]
    work = PieceWork(
        # Workers that differ must not choose differently.
        runtime=_runtime(options, bundle),
        device="cpu" if options["device"] == "auto" else options["device"],
        threads=options["threads"] or 1,
        resolution=bundle.graph(resolutions[0] if resolutions else None).resolution,
        views=views,
        background=Background.parse(options["background"] or "transparent"),
        first_photo=first_readable(pieces) if bundle.manifest.chain.depth_unit != "m" else None,
        storage=target if isinstance(target, Storage) else None,
    )
    total = sum(len(piece.files) for piece in pieces)
    started = time.perf_counter()
    bar = Progress(
        *Progress.get_default_columns(),
        MofNCompleteColumn(),
        console=messages,
        transient=True,
        disable=not messages.is_terminal,
    )
    wanted_cpus = options["workers"] and options["workers"] * work.threads
    with ray_connection(options["address"], wanted_cpus) as cpus, bar:
        task = bar.add_task("running", total=total)
        summary = run_pieces(
            pieces,
            bundle,
            work,
            target,
            workers=options["workers"] or max(1, cpus // work.threads),
            overwrite=options["overwrite"],
            progress=lambda files: bar.update(task, completed=files),
        )
    seconds = time.perf_counter() - started
    for reason in summary.failed:
        messages.print(f"left out: {reason}", markup=False, soft_wrap=True)
    messages.print(
        f"{summary.frames} frames of {total} files in {seconds:.1f} s"
        f" ({summary.frames / seconds:.1f} per second) on Ray: {out}",
        markup=False,
        soft_wrap=True,
    )
    if options["as_json"]:
        print_json(
            {
                "sources": list(sources),
                "out": out,
                "files": total,
                "frames": summary.frames,
                "seconds": seconds,
                "frames_per_s": summary.frames / seconds,
                "unreadable": summary.failed,
                "complete": not summary.failed,
            }
        )
    if summary.failed:
        raise InputError(
            f"{len(summary.failed)} of {total} files could not be done; the others are done"
        )


def _runtime(options: Mapping[str, Any], bundle: Bundle) -> str:
    if options["runtime"] != "auto":
        return str(options["runtime"])
    able = for_precision(bundle.manifest.precision)
    return "onnxruntime" if "onnxruntime" in able else able[0]


def _check_options(context: click.Context) -> None:
    if wrong := sorted(given_options(context) - _HEEDED):
        raise UsageError(
            f"{flag(wrong[0])} is of --engine local, but got --engine ray. Leave it out"
        )


def _views(options: Mapping[str, Any], *, has_photos: bool, has_videos: bool) -> tuple[str, ...]:
    """What is drawn.

    Raises:
        UsageError: there is no such view, or several for a video.

    """
    from depthmask.video.overlay import VIEWS

    views: tuple[str, ...] | None = options["views"]
    unknown = [view for view in views or () if view not in VIEWS]
    if unknown or views == ():
        raise UsageError(
            f"--view must be one or several of {', '.join(VIEWS)}, but got {','.join(unknown) or 'none'}"
        )
    if views is not None and len(views) > 1 and has_videos:
        raise UsageError(
            f"--view must be one for videos, but got {','.join(views)}. Try --view side"
        )
    if options["background"] is not None and "cutout" not in (views or ()):
        raise UsageError("--background must go with --view cutout")
    if options["background"] == "transparent" and has_videos:
        raise UsageError(
            "--background must be a colour or a picture for videos, but got transparent"
        )
    return views or (("overlay", "mask", "depth") if has_photos else ("overlay",))
