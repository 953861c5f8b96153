"""`dmx run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depthmask.commands import live_options, map_options, run_outputs
from depthmask.commands.options import (
    PathType,
    device_option,
    json_option,
    messages,
    overwrite_option,
    print_json,
    resolutions_option,
    runtime_option,
    threads_option,
)
from depthmask.commands.ray_options import check_engine, ray_options
from depthmask.errors import InputError, UsageError
from depthmask.frames import Resolution

if TYPE_CHECKING:
    from depthmask.pipeline import Pipeline
    from depthmask.video.runner import Predictor, RunSummary
    from depthmask.video.sinks import Sink
    from depthmask.video.sources import Source
    from depthmask.video.statistics import RunStatistics

# Each refresh takes some milliseconds from the frames.
_REFRESHES_PER_S = 2


@click.command()
@click.argument("bundle", type=PathType(), required=False)
@click.option(
    "--source",
    "sources",
    required=True,
    multiple=True,
    metavar="FILE|FOLDER|GLOB|0|URL|-|lavfi:GRAPH",
    help="Photographs, a video (- is standard input), a camera by its number or /dev path, an rtsp:// or http://"
    " stream, or a test pattern. With --engine ray also s3://, several of them, shards (.tar), and folders of"
    " videos.",
)
@run_outputs.output_options
@overwrite_option
@runtime_option
@device_option
@click.option(
    "--allow-fallback",
    is_flag=True,
    help="Let ONNX Runtime give another device what the one asked for cannot compute, and say so.",
)
@threads_option
@resolutions_option
@map_options.map_options
@live_options.live_options
@ray_options
@click.option(
    "--workers",
    type=click.IntRange(1, 4096),
    help="On Ray, with --threads CPUs each (1 by default).  [default: all CPUs]",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after N frames.")
@click.option(
    "--no-verify",
    is_flag=True,
    help="Open the bundle without hashing its files: it starts sooner, and damage is not found.",
)
@json_option
def command(
    bundle: Path | None,
    sources: tuple[str, ...],
    views: tuple[str, ...] | None,
    background: str | None,
    out: str | None,
    overwrite: bool,
    runtime: str,
    device: str,
    allow_fallback: bool,
    threads: int | None,
    resolutions: tuple[Resolution, ...] | None,
    smooth_ms: float | None,
    skip_identical: bool,
    no_verify: bool,
    limit: int | None,
    engine: str,
    address: str | None,
    workers: int | None,
    as_json: bool,
    **live: Any,  # noqa: ANN401  (the fields of LiveArguments)
) -> None:
    """Run a bundle (by default the shipped lite) on photographs, a video or a camera.

    A folder gets NAME.overlay.png, NAME.mask.png (8 bit) and NAME.depth.png (16 bit; scale and unit
    in depth.json), at the photo's size. Ctrl-C keeps what a video has so far. docs/views.md shows each view.

    \b
    Examples:
      dmx run --source photos/ --out out/
      dmx run lite-224-fp16 --source clip.mp4 --view overlay --out out.mp4
      dmx run --source 0
      dmx run --source rtsp://camera/stream --out out.mkv --stats stats.json
      dmx run --source clip.mp4 --view blur --smooth-ms 100 --out out.mp4
      dmx run --source photos/ --view cutout --background beach.jpg --out out/
      dmx run --source 0 --view depth --out http://127.0.0.1:8090/
      dmx run --source clip.mp4 --out - | jq .mask.area
      dmx run --source photos/ --source 'clips/*.mp4' --engine ray --out s3://bucket/out
    """
    if engine == "ray":
        from depthmask.commands.run_on_ray import run_on_ray

        run_on_ray(click.get_current_context(), sources, out)
        return
    import cv2

    from depthmask.output_files import check_output
    from depthmask.pipeline import Pipeline
    from depthmask.video.skipping import SkippingIdentical
    from depthmask.video.sources import open_source
    from depthmask.video.statistics import RunStatistics

    # An http address is where Motion JPEG is served, and no store.
    check_engine(engine, address, None if out is None or out.lower().startswith("http") else out)
    source = _one_source(sources, workers)
    arguments = live_options.LiveArguments(**live)
    if arguments.stats is not None:
        check_output(arguments.stats, overwrite=overwrite)
    _check_options(resolutions, out, as_json=as_json)
    output = run_outputs.check_output(source, out, views, background, overwrite=overwrite)
    resolution = resolutions[0] if resolutions else None
    statistics = RunStatistics()
    # The steps overlap already; OpenCV's own threads would only take the cores from the inference.
    cv2.setNumThreads(1)
    with open_source(source, camera=arguments.camera(), live=arguments.live()) as opened:
        run_outputs.check_source(opened, output)
        map_options.check_map_options(opened, smooth_ms, skip_identical=skip_identical)
        with messages.status("opening the bundle"):
            pipeline = Pipeline.open(
                bundle,
                runtime,
                device,
                threads,
                resolution=resolution,
                check_files=not no_verify,
                spin=False,
                allow_fallback=allow_fallback,
            )
        if elsewhere := getattr(pipeline.runtime, "elsewhere", ""):
            _remark(f"a fallback was allowed: ONNX Runtime gave these operators {elsewhere}")
        with pipeline:
            chain = pipeline.manifest.chain
            sink = run_outputs.make_sink(chain, opened, output, overwrite=overwrite)
            predict = SkippingIdentical(pipeline) if skip_identical else pipeline
            summary = _run(
                predict, opened, sink, limit, smooth_ms, arguments.max_age_ms, statistics
            )
            if isinstance(predict, SkippingIdentical):
                _remark(f"{predict.skipped} frames were identical to the one before")
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


def _one_source(sources: tuple[str, ...], workers: int | None) -> str:
    if len(sources) > 1 or workers is not None:
        found = "--workers" if workers is not None else f"{len(sources)} sources"
        raise UsageError(f"--engine local runs one --source, but got {found}. Try --engine ray")
    return sources[0]


def _check_options(
    resolutions: tuple[Resolution, ...] | None, out: str | None, *, as_json: bool
) -> None:
    """What can be refused before anything is opened."""
    if resolutions and len(resolutions) > 1:
        raise UsageError(f"--resolution must be one here, but got {len(resolutions)}")
    if out == "-" and as_json:
        raise UsageError(
            "--json must not go with --out -, as both print on stdout. Try --out out.jsonl"
        )


def _run(
    predict: Predictor,
    source: Source,
    sink: Sink,
    limit: int | None,
    smooth_ms: float | None,
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
    from depthmask.video.smoothing import SmoothedSink

    shown = SmoothedSink(sink, smooth_ms) if smooth_ms else sink
    total = min(filter(None, (limit, source.count)), default=None)
    columns = (TextColumn("running"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    status = TextColumn("{task.fields[statistics]}")
    progress = Progress(
        *columns, status, console=messages, transient=True, refresh_per_second=_REFRESHES_PER_S
    )
    with live_options.stop_on_signals() as stop, shown, progress:
        task = progress.add_task("run", total=total, statistics=_Status(statistics))
        summary = run(
            predict,
            source,
            shown,
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
    out: str | None,
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
        "out": out,
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
