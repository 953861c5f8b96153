"""What a benchmark measures: the cells, and how each is opened.

A cell is a bundle at one resolution on one runtime, with a number of threads and frames per call.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from depthmask import runtimes as known_runtimes
from depthmask.accuracy import PredictionLike
from depthmask.bench.latency import TimedPrediction
from depthmask.bench.memory import PeakMemory
from depthmask.bench.result import runner_name
from depthmask.bundle import Bundle, Precision
from depthmask.errors import UnavailableError, UsageError
from depthmask.frames import Resolution, UInt8Array
from depthmask.pipeline import Pipeline, Prediction

DEFAULT_RUNTIMES = ("onnxruntime", "openvino")
_MEMORY_TIMEOUT_SECONDS = 120


@dataclass(frozen=True)
class Request:
    """One cell to be measured."""

    bundle: Bundle
    resolution: Resolution
    runtime: str
    device: str
    threads: int | None
    """None: the runtime's own choice."""
    batch: int = 1
    """Frames per call."""

    @property
    def precision(self) -> Precision:
        """What runs; torch runs float32 whatever the bundle's graphs are in."""
        return "fp32" if self.runtime == "torch" else self.bundle.manifest.precision

    @property
    def label(self) -> str:
        """For people."""
        runner = runner_name(self.runtime, self.device, self.threads, self.batch)
        return f"{self.bundle.path.resolve().name} {self.resolution} {runner}"


class GridPrediction(PredictionLike, TimedPrediction, Protocol):
    """Maps and timings."""


class GridPipeline(Protocol):
    """What the grid needs of a `Pipeline`."""

    @property
    def open_ms(self) -> float:
        """What opening took."""

    def __call__(self, frame_HW3: UInt8Array, /) -> GridPrediction:
        """Predict one frame, (H,W,3) uint8 RGB."""

    def close(self) -> None:
        """Release it."""


@dataclass(frozen=True)
class OpenedCell:
    """An opened pipeline and the device that it is really on."""

    pipeline: GridPipeline
    device: str


Opener = Callable[[Request], OpenedCell]
MemoryMeter = Callable[[Request], PeakMemory]
"""Gives a cell's peak memory."""


def all_cells(
    bundles: Sequence[Bundle],
    *,
    resolutions: Sequence[Resolution] | None = None,
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[Precision] | None = None,
    device: str = "auto",
    threads: Sequence[int | None] = (None,),
    batches: Sequence[int] = (1,),
) -> list[Request]:
    """Every combination; `precisions` leaves out the bundles of others.

    Raises:
        UsageError: an unknown runtime, a resolution that a bundle lacks, a precision that no bundle
            has, a batch below 1, or nothing at all to measure.
        UnavailableError: no runtime was named and none is installed.
    """
    for batch in batches:
        if batch < 1:
            raise UsageError(f"a batch must be 1 or more frames, but got {batch}")
    chosen = [b for b in bundles if not precisions or b.manifest.precision in precisions]
    held = {bundle.manifest.precision for bundle in bundles}
    for precision in precisions or ():
        if precision not in held:
            raise UsageError(
                f"a bundle in {precision} must be given to measure it, but they are in"
                f" {', '.join(sorted(held)) or 'none'}. Try"
                f" `dmx export{'' if precision == 'fp32' else f' --{precision}'}`"
            )
    requests = [
        Request(bundle, resolution, runtime, device, count, batch)
        for bundle in chosen
        for resolution in _resolutions(bundle, resolutions)
        for runtime in _runtimes(runtimes, bundle.manifest.precision)
        for count in threads
        for batch in batches
    ]
    if not requests:
        raise UsageError("a benchmark must have 1 or more bundles and resolutions, but has none")
    return requests


def open_pipeline(request: Request) -> OpenedCell:
    """Open a cell's pipeline.

    Raises:
        UnavailableError: the runtime, the device or frames in batches are not to be had.
        UsageError: a batch is larger than the export allowed.
        InputError: the bundle's graph cannot be opened.
    """
    if request.batch > 1 and not request.bundle.manifest.dynamic_batch:
        raise UnavailableError(
            "a batch needs a bundle that takes several frames in one call, but this one takes 1. Try"
            " `dmx export --dynamic-batch`"
        )
    request.bundle.check_batch(request.batch)
    pipeline = Pipeline.open(
        request.bundle.path,
        request.runtime,
        request.device,
        request.threads,
        resolution=request.resolution,
        check_files=False,  # `open_bundle` did, and hashing would count as opening
    )
    device = pipeline.runtime.device
    if request.batch > 1:
        return OpenedCell(_InBatches(pipeline, request.batch), device)
    return OpenedCell(pipeline, device)


class Preloading:
    """Opens each runtime's first cell twice: the first time loads its library, which is not timed."""

    def __init__(self, open_cell: Opener) -> None:
        self._open_cell = open_cell
        self._loaded: set[str] = set()

    def __call__(self, request: Request) -> OpenedCell:
        """Open a cell."""
        if request.runtime not in self._loaded:
            self._open_cell(request).pipeline.close()
            self._loaded.add(request.runtime)
        return self._open_cell(request)


def peak_memory(request: Request) -> PeakMemory:
    """Run `bench.memory` on a cell; memory is no reason to fail it."""
    # -P: the user's folder may hold a depthmask of its own.
    command = [sys.executable, "-P", "-m", "depthmask.bench.memory"]
    cell = (request.bundle.path.resolve(), request.resolution, request.runtime, request.device)
    command += [*map(str, cell), str(request.threads or 0), str(request.batch)]
    try:
        done = subprocess.run(
            command, capture_output=True, check=True, timeout=_MEMORY_TIMEOUT_SECONDS
        )
        # The last line: a runtime's library may have printed before it.
        return msgspec.json.decode(done.stdout.splitlines()[-1], type=PeakMemory)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError, LookupError):
        return PeakMemory()


class _InBatches:
    """A pipeline that is asked about one frame and predicts it so many times in one call."""

    def __init__(self, pipeline: Pipeline, batch: int) -> None:
        self._pipeline = pipeline
        self._batch = batch
        self.open_ms = pipeline.open_ms

    def __call__(self, frame_HW3: UInt8Array) -> Prediction:
        prediction = self._pipeline.run_batch([frame_HW3] * self._batch)[0]
        whole_ms = {name: self._batch * ms for name, ms in prediction.timings_ms.items()}
        return Prediction(prediction.mask_HW, prediction.depth_HW, whole_ms)

    def close(self) -> None:
        self._pipeline.close()


def _resolutions(bundle: Bundle, asked: Sequence[Resolution] | None) -> tuple[Resolution, ...]:
    if not asked:
        return bundle.manifest.resolutions
    return tuple(bundle.graph(resolution).resolution for resolution in asked)


def _runtimes(asked: Sequence[str] | None, precision: Precision) -> tuple[str, ...]:
    if asked:
        for name in asked:
            if name not in known_runtimes.names():
                known = ", ".join(known_runtimes.names())
                raise UsageError(f"a runtime must be one of {known}, but got {name!r}")
        return tuple(asked)
    able = set(known_runtimes.installed()) & set(known_runtimes.for_precision(precision))
    found = tuple(name for name in DEFAULT_RUNTIMES if name in able)
    if not found:
        raise UnavailableError(
            "a benchmark needs a runtime, but none is installed. Try `pip install 'depthmask[cpu]'`"
        )
    return found
