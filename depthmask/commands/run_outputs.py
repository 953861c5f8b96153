"""What `dmx run` draws, and where to: its options, their checks, and the sink that they name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from depthmask.commands.options import NAMES, together
from depthmask.errors import UsageError
from depthmask.frames import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from depthmask.presets import ChainSpec
    from depthmask.video.cutout import Background
    from depthmask.video.frame import Source
    from depthmask.video.http_sink import HttpAddress
    from depthmask.video.sinks import Sink

Kind = Literal["window", "folder", "video", "lines", "http"]
_OTHER_SUFFIXES = frozenset({".avi", ".webm", ".gif", ".json"})
_GREEN = "#00ff00"


@dataclass(frozen=True)
class Output:
    """Where to, and which views, checked as far as can be without opening anything."""

    kind: Kind
    views: tuple[str, ...]
    """Empty for lines."""
    path: Path | None = None
    """None for a window, an address and standard output."""
    address: HttpAddress | None = None
    background: Background | None = None


output_options = together(
    click.option(
        "--view",
        "views",
        type=NAMES,
        help="overlay, mask, depth, side (frame, mask and depth beside each other), blur (the"
        " background out of focus) or cutout, with commas for several in a folder. By default"
        " overlay, mask and depth for a folder, else overlay.",
    ),
    click.option(
        "--background",
        metavar="'#RRGGBB'|PICTURE|transparent",
        help="Of cutout. By default transparent in a folder, else green.",
    ),
    click.option(
        "--out",
        metavar="FOLDER|FILE|-|http://127.0.0.1:PORT/",
        help="A folder for PNG files; a .mp4 or .mkv file; a .jsonl file (- is standard output) for a"
        " line of numbers a frame; an address of this machine to serve Motion JPEG on. Without it a"
        " video is shown in a window.",
    ),
)
"""--view, --background and --out."""


def check_output(
    source: str,
    out: str | None,
    views: tuple[str, ...] | None,
    background: str | None,
    *,
    overwrite: bool,
) -> Output:
    """What can be refused before anything but the background's picture is opened.

    Raises:
        UsageError: an option cannot be used, goes not with another, or the output exists.
        InputError: the background's picture cannot be read.
        OutputError: the output cannot be written.
    """
    from depthmask.video.http_sink import HttpAddress
    from depthmask.video.overlay import VIEWS

    unknown = [view for view in views or () if view not in VIEWS]
    if unknown or views == ():
        raise UsageError(
            f"--view must be one or several of {', '.join(VIEWS)}, but got {','.join(unknown) or 'none'}"
        )
    kind = _kind(out)
    _check_views(views, kind)
    path = None if out is None or out == "-" or kind == "http" else Path(out)
    if path is not None:
        _check_apart(source, path)
        _check_path(kind, path, overwrite=overwrite)
    chosen = views or (("overlay", "mask", "depth") if kind == "folder" else ("overlay",))
    return Output(
        kind,
        () if kind == "lines" else chosen,
        path,
        HttpAddress.parse(out) if out is not None and kind == "http" else None,
        _background(background, chosen, kind),
    )


def check_source(source: Source, output: Output) -> None:
    """What depends on the source's kind, before the bundle is opened.

    Raises:
        UsageError: this source cannot go there.
    """
    from depthmask.video.sinks import has_display

    if source.kind == "images":
        if output.kind == "window":
            raise UsageError("--out must be given for photographs. Try --out out/")
        if output.kind not in ("folder", "lines"):
            raise UsageError(
                f"--out must be a folder for photographs, but got {output.path or output.address}. Try"
                " --out out/"
            )
    elif output.kind == "window" and not has_display():
        raise UsageError(
            "--out must be given, as there is no display for a window. Try --out out.mp4"
        )


def make_sink(chain: ChainSpec, source: Source, output: Output, *, overwrite: bool) -> Sink:
    """What the frames go to."""
    from depthmask.video.http_sink import HttpSink
    from depthmask.video.lines_sink import LinesSink
    from depthmask.video.overlay import Look
    from depthmask.video.sinks import STEADY_SHARE, FolderSink, WindowSink
    from depthmask.video.video_file import VideoSink

    look = Look(chain.kind, chain.depth_unit, background=output.background)
    if output.kind == "lines":
        return LinesSink(output.path, look)
    view = output.views[0]
    if output.address is not None:
        return HttpSink(output.address, view, look)
    if output.path is None:
        return WindowSink(view, look, f"depthmask: {source.name}")
    if output.kind == "video":
        return VideoSink(output.path, view, look, fps=source.fps, overwrite=overwrite)
    share = 1.0 if source.kind == "images" else STEADY_SHARE
    return FolderSink(output.path, output.views, look, overwrite=overwrite, share=share)


def _kind(out: str | None) -> Kind:
    from depthmask.video.video_file import VIDEO_SUFFIXES

    if out is None:
        return "window"
    if re.match(r"https?:", out, re.IGNORECASE):
        return "http"
    suffix = Path(out).suffix.lower()
    if out == "-" or suffix == ".jsonl":
        return "lines"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in IMAGE_SUFFIXES | _OTHER_SUFFIXES:
        raise UsageError(
            "--out must be a folder, or a file that ends in"
            f" {', '.join(sorted(VIDEO_SUFFIXES))} or .jsonl, but got {out}"
        )
    return "folder"


def _check_views(views: tuple[str, ...] | None, kind: Kind) -> None:
    if views is not None and kind == "lines":
        raise UsageError(
            "--view must not be given with lines of numbers, which show no picture, but got"
            f" {','.join(views)}"
        )
    if views is not None and len(views) > 1 and kind != "folder":
        raise UsageError(
            f"--view must be one, as the output is no folder, but got {','.join(views)}. Try --view side, or"
            " a folder"
        )


def _check_path(kind: Kind, path: Path, *, overwrite: bool) -> None:
    from depthmask import output_files
    from depthmask.video.sinks import check_folder
    from depthmask.video.video_file import check_video_target

    if kind == "video":
        check_video_target(path, overwrite=overwrite)
    elif kind == "lines":
        output_files.check_output(path, overwrite=overwrite)
    else:
        check_folder(path, overwrite=overwrite)


def _check_apart(source: str, out: Path) -> None:
    """The output must not replace the source."""
    from depthmask.video.sources import local_paths

    target = out.resolve()
    for origin in (path.resolve() for path in local_paths(source)):
        if origin == target or target in origin.parents:
            raise UsageError(
                f"--out must not replace the source {source}, but got {out}. Try another --out"
            )


def _background(text: str | None, views: tuple[str, ...], kind: Kind) -> Background | None:
    from depthmask.video.cutout import Background

    if "cutout" not in views or kind == "lines":
        if text is not None:
            raise UsageError(
                f"--background must go with --view cutout, but the view is {','.join(views)}"
            )
        return None
    background = Background.parse(text or ("transparent" if kind == "folder" else _GREEN))
    if background is None and kind != "folder":
        raise UsageError(
            "--background must be a colour or a picture where the output is no folder, as only PNG files can"
            f" be transparent, but got {text}"
        )
    return background
