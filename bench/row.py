"""One cell in the making: opened, checked, warmed up and timed, step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import NamedTuple

import numpy as np

from depthmask.accuracy import AccuracyResult, accuracy
from depthmask.bench.cells import GridPipeline, MemoryMeter, OpenedCell, Opener, Request
from depthmask.bench.conditions import ConditionsMeter
from depthmask.bench.data import Data
from depthmask.bench.gpu_conditions import GpuMeter
from depthmask.bench.latency import LatencyMeter, LatencyResult
from depthmask.bench.memory import PeakMemory
from depthmask.bench.nvml import open_gpu
from depthmask.bench.open_loop import OpenLoopResult, measure_under_load
from depthmask.bench.result import Agreement, Cell, Status
from depthmask.bundle import REFERENCE_FILE
from depthmask.errors import DepthmaskError, InputError, UnavailableError
from depthmask.export.reference import Reference
from depthmask.flicker import FlickerResult, flicker
from depthmask.frames import FloatArray, UInt8Array, to_frame
from depthmask.video.clip import Clip


class Judgement(NamedTuple):
    """How good a cell's outputs are; None: the data or the bundle has nothing to judge that by."""

    accuracy: AccuracyResult | None = None
    agreement: Agreement | None = None
    flicker: FlickerResult | None = None


Judged = dict[tuple[str, str, str, str], Judgement]
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
        self._judgement = Judgement()
        self._frames: Sequence[UInt8Array] = ()
        self._load: tuple[OpenLoopResult, ...] = earlier.load if earlier else ()

    def attempt(self, step: Callable[[Row], None]) -> None:
        """Take a step; whatever a runtime raises is this row's problem and not the others'."""
        try:
            step(self)
        except UnusableSamplesError:
            raise
        except Exception as error:
            self.status, self._problem = problem_of(error)

    def open(self, opener: Opener, frames: Sequence[UInt8Array], stack: ExitStack) -> None:
        """Open the pipeline and time its first inference."""
        self._opened = opener(self.request)
        stack.callback(self._opened.pipeline.close)
        self._frames = frames
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

    def check(self, judged: Judged, data: Data, limit: int | None) -> None:
        """Compare with the fp32 PyTorch chain, and with the labels or from frame to frame."""
        earlier = self._earlier
        if earlier is not None and earlier.status == "ok":
            self._judgement = Judgement(earlier.accuracy, earlier.agreement, earlier.flicker)
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
            judged[key] = _judgement(self._opened.pipeline, data, limit, agreement)
        self._judgement = judged[key]

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

    def load(self, arrivals_per_s: float, seconds: float) -> None:
        """Let frames arrive at this rate, unless that was measured before the interruption."""
        if any(one.arrivals_per_s == arrivals_per_s for one in self._load):
            return
        assert self._opened is not None
        pipeline = self._opened.pipeline
        pipeline(self._frames[0])  # back into the caches, after another cell
        found = measure_under_load(pipeline, self._frames, arrivals_per_s, seconds=seconds)
        self._load = (*self._load, found)

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
            accuracy=self._judgement.accuracy if complete else None,
            agreement=self._judgement.agreement if complete else None,
            flicker=self._judgement.flicker if complete else None,
            load=self._load if complete else (),
        )


def problem_of(error: Exception) -> tuple[Status, str]:
    """What a row says of an error, in one line."""
    text = " ".join(str(error).split())
    status: Status = "unavailable" if isinstance(error, UnavailableError) else "failed"
    return status, text if isinstance(error, DepthmaskError) else f"{type(error).__name__}: {text}"


def _judgement(
    pipeline: GridPipeline, data: Data, limit: int | None, agreement: Agreement | None
) -> Judgement:
    try:
        if isinstance(data, Clip):
            with closing(data.images()) as images:
                return Judgement(None, agreement, flicker(pipeline, images, data.name))
        found = accuracy(pipeline, data, limit) if data.labelled else None
        return Judgement(found, agreement)
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
