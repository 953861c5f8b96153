"""`dmx run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depthmask.commands import live_options
from depthmask.commands.options import (
    NameList,
    PathType,
    device_option,
    json_option,
    messages,
    out_option,
    overwrite_option,
    print_json,
    resolutions_option,
    runtime_option,
    threads_option,
)
from depthmask.errors import InputError, UsageError
from depthmask.frames import IMAGE_SUFFIXES, Resolution

if TYPE_CHECKING:
    from depthmask.pipeline import Pipeline
    from depthmask.video.runner import RunSummary
    from depthmask.video.sinks import Sink
    from depthmask.video.sources import Source
    from depthmask.video.statistics import RunStatistics

# Each refresh takes some milliseconds from the frames.
_REFRESHES_PER_S = 2


@click.command()
@click.argument("bundle", type=PathType(), required=False)
@click.option(
    "--source",
    required=True,
    metavar="FILE|FOLDER|GLOB|0|URL|-|lavfi:GRAPH",
    help="Photographs, a video (- is standard input), a camera by its number or /dev path, an rtsp:// or http://"
    " stream, or a test pattern.",
)
@click.option(
    "--view",
    "views",
    type=NameList(),
    help="overlay, mask, depth or side, with commas for several in a folder. By default overlay, mask and"
    " depth for a folder, overlay for a video.",
)
@out_option(
    "A folder for PNG files, or a .mp4 or .mkv file. Without it a video is shown in a window."
)
@overwrite_option
@runtime_option
@device_option
@threads_option
@resolutions_option
@live_options.live_options
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N frames.")
@json_option
def command(
    bundle: Path | None,
    source: str,
    views: tuple[str, ...] | None,
    out: Path | None,
    overwrite: bool,
    runtime: str,
    device: str,
    threads: int | None,
    resolutions: tuple[Resolution, ...] | None,
    limit: int | None,
    as_json: bool,
    **live: Any,  # noqa: ANN401  (the fields of LiveArguments)
) -> None:
    """Run a bundle (by default the shipped lite) on photographs, a video or a camera.

    A folder gets NAME.overlay.png, NAME.mask.png (8 bit) and NAME.depth.png (16 bit; scale and unit
    in depth.json), at the photo's size. Ctrl-C keeps what a video has so far.

    \b
    Examples:
      dmx run --source photos/ --out out/
      dmx run lite-224-fp16 --source clip.mp4 --view overlay --out out.mp4
      dmx run --source 0
      dmx run --source rtsp://camera/stream --out out.mkv --stats stats.json
    """
    import cv2

    from depthmask.output_files import check_output
    from depthmask.pipeline import Pipeline
    from depthmask.video.sources import open_source
    from depthmask.video.statistics import RunStatistics

    arguments = live_options.LiveArguments(**live)
    if arguments.stats is not None:
        check_output(arguments.stats, overwrite=overwrite)
    _check_options(views, out, resolutions, source, overwrite=overwrite)
    resolution = resolutions[0] if resolutions else None
    statistics = RunStatistics()
    # The steps overlap already; OpenCV's own threads would only take the cores from the inference.
    cv2.setNumThreads(1)
    with open_source(source, camera=arguments.camera(), live=arguments.live()) as opened:
        _check_destination(opened, out)
        with messages.status("opening the bundle"):
            pipeline = Pipeline.open(
                bundle, runtime, device, threads, resolution=resolution, spin=False
            )
        with pipeline:
            sink = _sink(pipeline, opened, views, out, overwrite=overwrite)
            summary = _run(pipeline, opened, sink, limit, arguments.max_age_ms, statistics)
            document = _report(summary, pipeline, opened, out, statistics)
    if arguments.stats is not None:
        stats = live_options.stats_document(statistics, summary.seconds)
        live_options.write_stats(arguments.stats, document | stats)
    if as_json:
        print_json(document)
    if summary.ended_by is not None:
        raise summary.ended_by
    if summary.unreadable:
        raise InputError(
            f"{len(summary.unreadable)} of {opened.count} could not be read; the others are done"
        )


def _check_options(
    views: tuple[str, ...] | None,
    out: Path | None,
    resolutions: tuple[Resolution, ...] | None,
    source: str,
    *,
    overwrite: bool,
) -> None:
    """What can be refused before anything is opened."""
    from depthmask.video.overlay import VIEWS
    from depthmask.video.sinks import check_folder
    from depthmask.video.video_file import VIDEO_SUFFIXES, check_video_target

    unknown = [view for view in views or () if view not in VIEWS]
    if unknown or views == ():
        raise UsageError(
            f"--view must be one or several of {', '.join(VIEWS)}, but got {','.join(unknown) or 'none'}"
        )
    if resolutions and len(resolutions) > 1:
        raise UsageError(f"--resolution must be one here, but got {len(resolutions)}")
    if out is None:
        _check_one_view(views, "a window")
    elif out.suffix.lower() in VIDEO_SUFFIXES:
        _check_one_view(views, f"a {out.suffix} file")
        _check_apart(source, out)
        check_video_target(out, overwrite=overwrite)
    elif out.suffix.lower() in IMAGE_SUFFIXES | {".avi", ".webm", ".gif"}:
        raise UsageError(
            f"--out must be a folder, or a file that ends in {', '.join(sorted(VIDEO_SUFFIXES))}, but"
            f" got {out}"
        )
    else:
        _check_apart(source, out)
        check_folder(out, overwrite=overwrite)


def _check_one_view(views: tuple[str, ...] | None, where: str) -> None:
    if views is not None and len(views) > 1:
        raise UsageError(
            f"--view must be one for {where}, but got {','.join(views)}. Try --view side, or a folder"
        )


def _check_apart(source: str, out: Path) -> None:
    """The output must not replace the source."""
    from depthmask.video.sources import local_paths

    target = out.resolve()
    for origin in (path.resolve() for path in local_paths(source)):
        if origin == target or target in origin.parents:
            raise UsageError(
                f"--out must not replace the source {source}, but got {out}. Try another --out"
            )


def _check_destination(source: Source, out: Path | None) -> None:
    """What depends on the source's kind, before the bundle is opened."""
    from depthmask.video.sinks import has_display
    from depthmask.video.video_file import VIDEO_SUFFIXES

    if source.kind == "images":
        if out is None:
            raise UsageError("--out must be given for photographs. Try --out out/")
        if out.suffix.lower() in VIDEO_SUFFIXES:
            raise UsageError(
                f"--out must be a folder for photographs, but got {out}. Try --out out/"
            )
    elif out is None and not has_display():
        raise UsageError(
            "--out must be given, as there is no display for a window. Try --out out.mp4"
        )


def _sink(
    pipeline: Pipeline,
    source: Source,
    views: tuple[str, ...] | None,
    out: Path | None,
    *,
    overwrite: bool,
) -> Sink:
    from depthmask.video.overlay import Look
    from depthmask.video.sinks import STEADY_SHARE, FolderSink, WindowSink
    from depthmask.video.video_file import VIDEO_SUFFIXES, VideoSink

    chain = pipeline.manifest.chain
    look = Look(kind=chain.kind, depth_unit=chain.depth_unit)
    if out is None:
        return WindowSink((views or ("overlay",))[0], look, f"depthmask: {source.name}")
    if out.suffix.lower() in VIDEO_SUFFIXES:
        view = (views or ("overlay",))[0]
        return VideoSink(out, view, look, fps=source.fps, overwrite=overwrite)
    share = 1.0 if source.kind == "images" else STEADY_SHARE
    return FolderSink(
        out, views or ("overlay", "mask", "depth"), look, overwrite=overwrite, share=share
    )


def _run(
    pipeline: Pipeline,
    source: Source,
    sink: Sink,
    limit: int | None,
    max_age_ms: float | None,
    statistics: RunStatistics,
) -> RunSummary:
    """Run with a progress bar on stderr."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from depthmask.video.runner import run
    from depthmask.video.sinks import FolderSink

    total = min(filter(None, (limit, source.count)), default=None)
    columns = (TextColumn("running"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    status = TextColumn("{task.fields[statistics]}")
    progress = Progress(
        *columns, status, console=messages, transient=True, refresh_per_second=_REFRESHES_PER_S
    )
    shown = _Status(statistics)
    with live_options.stop_on_signals() as stop, sink, progress:
        task = progress.add_task("run", total=total, statistics=shown)
        summary = run(
            pipeline,
            source,
            sink,
            limit=limit,
            on_frame=lambda done: progress.update(task, completed=done),
            max_age_ms=max_age_ms,
            stop=stop,
            statistics=statistics,
        )
    for error in summary.unreadable:
        _remark(f"left out: {error}")
    for name, pixels in sink.clipped.items() if isinstance(sink, FolderSink) else ():
        _remark(
            f"{name}: {pixels} pixels are beyond what 16 bit hold at this scale (see depth.json)"
        )
    return summary


class _Status:
    """The statistics as a text that is made when it is shown."""

    def __init__(self, statistics: RunStatistics) -> None:
        self._statistics = statistics

    def __str__(self) -> str:
        return live_options.status_text(self._statistics)


def _report(
    summary: RunSummary,
    pipeline: Pipeline,
    source: Source,
    out: Path | None,
    statistics: RunStatistics,
) -> dict[str, Any]:
    """Say what was done; the same for machines."""
    inference = "" if summary.inference_ms is None else f", inference {summary.inference_ms:.1f} ms"
    _remark(
        f"{summary.frames} frames in {summary.seconds:.1f} s ({summary.frames_per_s:.1f} per second"
        f"{inference} in the median) on {pipeline.runtime.name} {pipeline.runtime.device} at"
        f" {pipeline.resolution}" + (f": {out}" if out else "")
    )
    if source.kind == "camera":
        _remark(live_options.final_text(statistics))
    return {
        "source": source.name,
        "kind": source.kind,
        "out": str(out) if out else None,
        "runtime": pipeline.runtime.name,
        "device": pipeline.runtime.device,
        "resolution": str(pipeline.resolution),
        "frames": summary.frames,
        "seconds": summary.seconds,
        "frames_per_s": summary.frames_per_s,
        "inference_median_ms": summary.inference_ms,
        "unreadable": [str(error) for error in summary.unreadable],
        "complete": summary.ended_by is None and not summary.unreadable,
    }


def _remark(text: str) -> None:
    messages.print(text, markup=False, soft_wrap=True)
