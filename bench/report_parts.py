"""What a report shows besides the numbers of its cells: pictures, and the roofline of each graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from depthmask.bench.data import Data
from depthmask.bench.peaks import Peaks, measure_peaks
from depthmask.bench.result import BenchResult, Cell
from depthmask.bench.roofline import Roofline, roofline
from depthmask.bench.sample_pictures import SamplePicture, sample_pictures
from depthmask.bundle import Bundle
from depthmask.pipeline import Pipeline

PICTURES = 4
Tell = Callable[[str], None]


def report_pictures(
    result: BenchResult, bundles: Sequence[Bundle], data: Data, tell: Tell
) -> dict[str, list[SamplePicture]]:
    """Some samples by every graph, on the first runtime that ran it: others agree with it."""
    pictures: dict[str, list[SamplePicture]] = {}
    for bundle, cell in _measured(result, bundles):
        title = f"{cell.bundle} {cell.precision} at {cell.resolution}"
        if title in pictures:
            continue
        tell(f"drawing {title}")
        with Pipeline.open(
            bundle.path,
            cell.runtime,
            cell.device,
            cell.threads,
            resolution=cell.resolution,
            check_files=False,
        ) as pipeline:
            pictures[title] = sample_pictures(pipeline, data, cell.kind, PICTURES)
    return pictures


def report_rooflines(result: BenchResult, bundles: Sequence[Bundle], tell: Tell) -> list[Roofline]:
    """Of each bundle's largest resolution that was measured, on each runtime on the CPU.

    Raises:
        UnavailableError: onnx is not installed.
    """
    largest: dict[tuple[str, str], tuple[Bundle, Cell]] = {}
    for bundle, cell in _measured(result, bundles):
        key = (cell.bundle, cell.runtime)
        before = largest.get(key)
        on_cpu = cell.device == "cpu" and cell.runtime != "torch" and cell.batch == 1
        if on_cpu and (before is None or before[1].resolution < cell.resolution):
            largest[key] = (bundle, cell)
    peaks: dict[int, Peaks] = {}
    found = []
    for bundle, cell in largest.values():
        threads = cell.threads or result.machine.usable_cores
        if threads not in peaks:
            tell("measuring what this machine can do")
            peaks[threads] = measure_peaks(threads)
        tell(f"timing the nodes of {cell.label}")
        found.append(
            roofline(bundle, cell.resolution, cell.runtime, cell.threads, peaks=peaks[threads])
        )
    return found


def _measured(result: BenchResult, bundles: Sequence[Bundle]) -> list[tuple[Bundle, Cell]]:
    by_name = {bundle.path.resolve().name: bundle for bundle in bundles}
    return [(by_name[cell.bundle], cell) for cell in result.cells if cell.latency is not None]
