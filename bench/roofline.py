"""How near a bundle comes to what this machine could do at best, and which nodes take the time.

    python -m depthmask.bench.roofline BUNDLE --runtime onnxruntime --threads 1 --json

The model and what is counted are in `bench.work`, the machine's peaks in `bench.peaks`, the time of every
node in `bench.node_times`. All of it is on the CPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
import msgspec
import numpy as np

from depthmask.bench.graph import DEFAULT_FRAME_SIZE, read_graph
from depthmask.bench.latency import LatencyResult, measure
from depthmask.bench.machine import Machine, this_machine
from depthmask.bench.node_times import RUNTIMES, NodeTimes, check_runtime, node_times
from depthmask.bench.peaks import Peaks, measure_peaks
from depthmask.bench.roofline_table import rich_roofline
from depthmask.bench.script import run_script
from depthmask.bench.work import RooflineShare, Work, count_work, share_of_roofline
from depthmask.bundle import Bundle, Precision, open_bundle
from depthmask.commands import options
from depthmask.errors import UsageError
from depthmask.frames import Resolution
from depthmask.pipeline import Pipeline


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """One graph on one runtime of this machine's CPU, measured against the machine's own peaks."""

    schema: Literal[1] = 1
    bundle: str
    precision: Precision
    height_px: int
    width_px: int
    frame_height_px: int
    frame_width_px: int
    runtime: str
    threads: int | None
    """None: the runtime's own choice; the peaks are then of every core that it may use."""
    machine: Machine
    peaks: Peaks
    work: Work
    inference_p50_ms: float
    """Without profiling; of a graph that takes frames, with its preprocessing."""
    inference_runs: int | None
    """None: the time was measured by the caller."""
    spoilt_by: tuple[str, ...] = ()
    """What else the machine did meanwhile, where that was so much that the time is no fair one."""
    reached: RooflineShare
    node_times: NodeTimes


def roofline(
    bundle: Bundle,
    resolution: Resolution | None = None,
    runtime: str = "onnxruntime",
    threads: int | None = None,
    *,
    frame_size: Resolution = DEFAULT_FRAME_SIZE,
    peaks: Peaks | None = None,
    inference_p50_ms: float | None = None,
    seconds: float = 2.0,
    profiled_runs: int = 20,
) -> Roofline:
    """Measure a graph and the machine, and set the one against the other.

    Args:
        bundle: an opened bundle.
        resolution: of the graph; by default the largest.
        runtime: `onnxruntime` or `openvino`.
        threads: None for the runtime's choice.
        frame_size: of the frame of noise that is predicted, in pixels.
        peaks: of this machine with as many threads; None measures them.
        inference_p50_ms: of one such frame; None measures it.
        seconds: for timing inference, and at most as long before for warming up.
        profiled_runs: for timing nodes.

    Raises:
        UsageError: another runtime, or a resolution that the bundle lacks.
        UnavailableError: the runtime's package, or onnx, is not installed.
        InputError: the graph is damaged.
    """
    check_runtime(runtime)
    machine = this_machine()
    size = bundle.graph(resolution).resolution
    work = count_work(read_graph(bundle, size, frame_size))
    if peaks is None:
        peaks = measure_peaks(threads or machine.usable_cores)
    latency = None
    if inference_p50_ms is None:
        latency = _latency(bundle, size, runtime, threads, frame_size, seconds)
        inference_p50_ms = latency.stage_p50_ms["inference"]
    return Roofline(
        bundle=bundle.path.resolve().name,
        precision=bundle.manifest.precision,
        height_px=size.height,
        width_px=size.width,
        frame_height_px=frame_size.height,
        frame_width_px=frame_size.width,
        runtime=runtime,
        threads=threads,
        machine=machine,
        peaks=peaks,
        work=work,
        inference_p50_ms=inference_p50_ms,
        inference_runs=latency.runs if latency else None,
        spoilt_by=latency.spoilt_by if latency else (),
        reached=share_of_roofline(work, inference_p50_ms, peaks),
        node_times=node_times(
            bundle, size, runtime, threads, runs=profiled_runs, frame_size=frame_size
        ),
    )


def _latency(
    bundle: Bundle,
    resolution: Resolution,
    runtime: str,
    threads: int | None,
    frame_size: Resolution,
    seconds: float,
) -> LatencyResult:
    """Of one frame of noise, again and again."""
    shape = (frame_size.height, frame_size.width, 3)
    frame_HW3 = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    opened = Pipeline.open(
        bundle.path, runtime, "cpu", threads, resolution=resolution, check_files=False
    )
    with opened as pipeline:
        return measure(pipeline, [frame_HW3], min_seconds=seconds, max_warmup_seconds=seconds)


def _one(sizes: tuple[Resolution, ...] | None, option: str) -> Resolution | None:
    if sizes is not None and len(sizes) != 1:
        raise UsageError(f"{option} must be one size, but got {len(sizes)}")
    return sizes[0] if sizes else None


@click.command()
@click.argument("bundle", required=False, type=options.PathType())
@options.resolutions_option
@click.option("--runtime", default=RUNTIMES[0], show_default=True, help=" or ".join(RUNTIMES) + ".")
@options.threads_option
@click.option(
    "--frame-size",
    type=options.RESOLUTIONS,
    help="Of the predicted frame; 480x640 by default.",
)
@click.option("--seconds", type=click.FloatRange(min=0, max=3600), default=2.0, show_default=True)
@options.json_option
def main(
    bundle: Path | None,
    resolutions: tuple[Resolution, ...] | None,
    runtime: str,
    threads: int | None,
    frame_size: tuple[Resolution, ...] | None,
    seconds: float,
    as_json: bool,
) -> None:
    r"""Set a bundle's inference against this machine's peaks, and list the slowest nodes.

    Without a BUNDLE the shipped `lite` is measured, at its largest resolution unless told otherwise.

    \b
    Example:
      python -m depthmask.bench.roofline b/ --resolution 224 --runtime openvino --threads 1
    """
    found = roofline(
        open_bundle(bundle),
        _one(resolutions, "--resolution"),
        runtime,
        threads,
        frame_size=_one(frame_size, "--frame-size") or DEFAULT_FRAME_SIZE,
        seconds=seconds,
    )
    if as_json:
        options.print_json(msgspec.to_builtins(found))
    else:
        options.console.print(rich_roofline(found))


if __name__ == "__main__":
    run_script(main, "roofline")
