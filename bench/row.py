"""One cell in the making: opened, checked, warmed up and timed, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from depthmask.accuracy import AccuracyResult, accuracy
from depthmask.bench.cells import GridPipeline, MemoryMeter, OpenedCell, Opener, Request
from depthmask.bench.conditions import ConditionsMeter
from depthmask.bench.gpu_conditions import GpuMeter
from depthmask.bench.latency import LatencyMeter, LatencyResult
from depthmask.bench.memory import PeakMemory
from depthmask.bench.nvml import open_gpu
from depthmask.bench.result import Agreement, Cell, Status
from depthmask.bundle import REFERENCE_FILE
from depthmask.errors import DepthmaskError, InputError, UnavailableError
from depthmask.export.reference import Reference
from depthmask.frames import FloatArray, UInt8Array, to_frame
from depthmask.samples import Samples

Judged = dict[tuple[str, str, str, str], tuple[AccuracyResult | None, Agreement | None]]
"""By what the outputs hang on: not on threads or batches."""


class UnusableSamplesError(InputError):
    """A sample cannot be read: no cell's fault, so the benchmark ends."""


class Row:
    """A cell in the making. After a failed step it is asked for no other."""

    def __init__(self, request: Request, earlier: Cell | None = None) -> None:
        """With `earlier`, the cell of an unfinished benchmark is gone on with."""
        self.request = request
        self.status: Status = "ok"
        self._earlier = earlier
        self._problem: str | None = None
        self._opened: OpenedCell | None = None
        self._meter: LatencyMeter | None = None
        self._latency: LatencyResult | None = None
        self._memory = PeakMemory()
        self._accuracy: AccuracyResult | None = None
        self._agreement: Agreement | None = None

    def attempt(self, step: Callable[[Row], None]) -> None:
        """Take a step; whatever a runtime raises is this row's problem and not the others'."""
        try:
            step(self)
        except UnusableSamplesError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            self.status = "unavailable" if isinstance(error, UnavailableError) else "failed"
            self._problem = (
                text if isinstance(error, DepthmaskError) else f"{type(error).__name__}: {text}"
            )

    def open(self, opener: Opener, frames: Sequence[UInt8Array], stack: ExitStack) -> None:
        """Open the pipeline and time its first inference."""
        self._opened = opener(self.request)
        stack.callback(self._opened.pipeline.close)
        gpu = open_gpu() if self._opened.device == "cuda" else None
        self._meter = LatencyMeter(
            self._opened.pipeline,
            frames,
            conditions=ConditionsMeter(gpu=GpuMeter(gpu) if gpu else None),
            batch=self.request.batch,
        )
        if self._earlier is not None and self._earlier.latency is not None:
            self._meter.go_on_from(self._earlier.latency)
        self._meter.first()

    def check(self, judged: Judged, samples: Samples, limit: int | None) -> None:
        """Compare with the fp32 PyTorch chain and with the labels."""
        if self._earlier is not None and self._earlier.status == "ok":
            self._accuracy, self._agreement = self._earlier.accuracy, self._earlier.agreement
            return
        assert self._opened is not None
        request = self.request
        key = (
            str(request.bundle.path),
            str(request.resolution),
            request.runtime,
            self._opened.device,
        )
        if key not in judged:
            agreement = _agreement(request, self._opened.pipeline)
            judged[key] = (_accuracy(self._opened.pipeline, samples, limit), agreement)
        self._accuracy, self._agreement = judged[key]

    def weigh(self, measure_memory: MemoryMeter) -> None:
        """Before the timing, so that nothing else runs during it."""
        if self._earlier is not None and self._earlier.status == "ok":
            self._memory = PeakMemory(
                host_bytes=self._earlier.peak_memory_bytes,
                device_bytes=self._earlier.peak_device_memory_bytes,
            )
        else:
            self._memory = measure_memory(self.request)

    def warm_up(self, max_seconds: float) -> None:
        """Until steady."""
        assert self._meter is not None
        self._meter.warm_up(max_seconds)

    def sample(self, seconds: float, runs: int) -> None:
        """One turn."""
        assert self._meter is not None
        self._meter.sample(seconds, runs)
        self._latency = self._meter.result()

    def cell(self) -> Cell:
        """What was found; numbers only where every step went well."""
        request, manifest = self.request, self.request.bundle.manifest
        complete = self.status == "ok"
        return Cell(
            bundle=request.bundle.path.resolve().name,
            preset=manifest.chain.preset,
            kind=manifest.chain.kind,
            precision=request.precision,
            height_px=request.resolution.height,
            width_px=request.resolution.width,
            gmac=request.bundle.graph(request.resolution).gmac,
            runtime=request.runtime,
            device=self._opened.device if self._opened else request.device,
            threads=request.threads,
            batch=request.batch,
            status=self.status,
            problem=self._problem,
            peak_memory_bytes=self._memory.host_bytes if complete else None,
            peak_device_memory_bytes=self._memory.device_bytes if complete else None,
            latency=self._latency if complete else None,
            accuracy=self._accuracy if complete else None,
            agreement=self._agreement if complete else None,
        )


def _accuracy(pipeline: GridPipeline, samples: Samples, limit: int | None) -> AccuracyResult | None:
    if not samples.labelled:
        return None
    try:
        return accuracy(pipeline, samples, limit)
    except InputError as error:
        raise UnusableSamplesError(str(error)) from error


def _agreement(request: Request, pipeline: GridPipeline) -> Agreement | None:
    """Over the frames that the bundle carries with PyTorch's outputs; None without them."""
    path, resolution = request.bundle.path / REFERENCE_FILE, request.resolution
    if not path.is_file():
        return None
    reference = Reference.load(path, [resolution])
    mask_errors, depth_errors, depths = [], [], []
    pairs = zip(reference.frames, reference.maps[resolution], strict=True)
    for frame_HW3, (mask_hw, depth_hw) in pairs:
        found = pipeline(frame_HW3)
        height, width = frame_HW3.shape[:2]
        depth_HW = to_frame(depth_hw, height, width)
        mask_errors.append(_largest(found.mask_HW - to_frame(mask_hw, height, width)))
        depth_errors.append(_largest(found.depth_HW - depth_HW))
        depths.append(_largest(depth_HW))
    return Agreement(
        frames=len(depths),
        mask_max_abs=max(mask_errors),
        depth_max_rel=max(depth_errors) / (max(depths) or 1.0),
    )


def _largest(values: FloatArray) -> float:
    return float(np.abs(values).max())
