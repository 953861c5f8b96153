"""Bundles x resolutions x runtimes, measured side by side.

Every cell is opened, checked for accuracy and warmed up; then the cells take turns in rounds, so that a
machine that grows hot or busy does so for all of them alike. A cell that fails becomes a row that says
why, and the others go on.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from depthmask import runtimes as known_runtimes
from depthmask.accuracy import AccuracyResult, PredictionLike, accuracy
from depthmask.bench.latency import LatencyMeter, LatencyResult, TimedPrediction
from depthmask.bench.machine import this_machine
from depthmask.bench.result import Agreement, BenchResult, Cell, Status
from depthmask.bundle import Bundle
from depthmask.errors import DepthmaskError, InputError, UnavailableError, UsageError
from depthmask.frames import FloatArray, Resolution, UInt8Array
from depthmask.pipeline import Pipeline
from depthmask.samples import Samples

DEFAULT_RUNTIMES = ("onnxruntime", "openvino")
_TIMED_FRAMES = 8
_COMPARED_FRAMES = 4
_MEMORY_TIMEOUT_SECONDS = 120


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
class Request:
    """One cell to be measured."""

    bundle: Bundle
    resolution: Resolution
    runtime: str
    device: str
    threads: int | None


@dataclass(frozen=True)
class OpenedCell:
    """An opened pipeline and the device that it is really on."""

    pipeline: GridPipeline
    device: str


Opener = Callable[[Request], OpenedCell]
MemoryMeter = Callable[[Request], int | None]
"""Gives a cell's peak memory in bytes; None where it cannot."""
Progress = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and the steps in all."""


def run_grid(
    bundles: Sequence[Bundle],
    *,
    samples: Samples,
    resolutions: Sequence[Resolution] | None = None,
    runtimes: Sequence[str] | None = None,
    device: str = "auto",
    threads: int | None = None,
    seconds: float = 2.0,
    min_runs: int = 30,
    rounds: int = 5,
    max_warmup_seconds: float = 5.0,
    limit: int | None = None,
    frame_size: Resolution | None = None,
    progress: Progress = lambda doing, done, total: None,
    open_cell: Opener | None = None,
    measure_memory: MemoryMeter | None = None,
) -> BenchResult:
    """Measure every bundle at every resolution on every runtime.

    Args:
        bundles: opened bundles, 1 or more.
        samples: the frames; accuracy is measured where they are labelled.
        resolutions: each must be in every bundle; by default all that a bundle holds.
        runtimes: by default those of onnxruntime and openvino that are installed.
        device: `auto`, `cpu` or `cuda`, for every cell.
        threads: for inference; by default the runtime's choice.
        seconds: time samples for at least this long per cell.
        min_runs: and take at least so many.
        rounds: in how many turns.
        max_warmup_seconds: warm a cell up until it is steady, but no longer than this.
        limit: images for accuracy; by default all.
        frame_size: stretch the timed frames to this; by default they are as in the data set.
        progress: told of every step.
        open_cell: how a cell is opened; `Pipeline.open` unless a test brings its own.
        measure_memory: how its memory is measured; by default in a short process of its own.

    Raises:
        UsageError: an unknown runtime, a resolution that a bundle lacks, a setting out of range.
        UnavailableError: no runtime was named and none is installed.
        InputError: a frame or a label cannot be read.
    """
    _check_settings(seconds, min_runs, rounds, limit)
    rows = [
        _Row(Request(bundle, resolution, runtime, device, threads))
        for bundle in bundles
        for resolution in _resolutions(bundle, resolutions)
        for runtime in _runtimes(runtimes)
    ]
    if not rows:
        raise UsageError("a benchmark must have 1 or more bundles and resolutions, but has none")
    frames = _frames(samples, frame_size)
    machine = this_machine()
    references = _References(frames[:_COMPARED_FRAMES])
    opener = _Preloading(open_cell or _open_pipeline)
    memory_meter = measure_memory or _peak_memory_bytes
    turn_runs = -(-min_runs // rounds)
    steps: list[tuple[str, _Row, Callable[[_Row], None]]] = []
    with ExitStack() as stack:
        for row in rows:
            steps.append(("opening", row, lambda row: row.open(opener, frames, stack)))
            steps.append(("accuracy of", row, lambda row: row.check(references, samples, limit)))
            steps.append(("memory of", row, lambda row: row.weigh(memory_meter)))
        steps.extend(
            ("warming up", row, lambda row: row.warm_up(max_warmup_seconds)) for row in rows
        )
        for number in range(1, rounds + 1):
            doing = f"round {number} of {rounds}:"
            steps.extend(
                (doing, row, lambda row: row.sample(seconds / rounds, turn_runs)) for row in rows
            )
        for done, (doing, row, step) in enumerate(steps):
            if row.status == "ok":
                progress(f"{doing} {row.label}", done, len(steps))
                row.attempt(step)
        progress("done", len(steps), len(steps))
        cells = tuple(row.cell() for row in rows)
    return BenchResult(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine,
        data=samples.name,
        frame_sizes=tuple(sorted({f"{frame.shape[0]}x{frame.shape[1]}" for frame in frames})),
        seconds_per_cell=seconds,
        rounds=rounds,
        cells=cells,
    )


class _References:
    """The outputs of the first runtime that ran a graph, for the others to be compared with."""

    def __init__(self, frames: Sequence[UInt8Array]) -> None:
        self._frames = frames
        self._known: dict[tuple[Path, Resolution], tuple[str, list[PredictionLike]]] = {}

    def compare(self, request: Request, pipeline: GridPipeline) -> Agreement | None:
        """None for the one that becomes the reference."""
        key = (request.bundle.path, request.resolution)
        outputs: list[PredictionLike] = [pipeline(frame) for frame in self._frames]
        if key not in self._known:
            self._known[key] = (request.runtime, outputs)
            return None
        runtime, references = self._known[key]
        pairs = list(zip(outputs, references, strict=True))
        return Agreement(
            reference_runtime=runtime,
            frames=len(pairs),
            mask_max_abs=max(_largest(ours.mask_HW - theirs.mask_HW) for ours, theirs in pairs),
            depth_max_rel=max(
                _largest(ours.depth_HW - theirs.depth_HW) / (_largest(theirs.depth_HW) or 1.0)
                for ours, theirs in pairs
            ),
        )


class _Preloading:
    """Opens each runtime's first cell twice: the first time loads its library, which is not timed."""

    def __init__(self, open_cell: Opener) -> None:
        self._open_cell = open_cell
        self._loaded: set[str] = set()

    def __call__(self, request: Request) -> OpenedCell:
        if request.runtime not in self._loaded:
            self._open_cell(request).pipeline.close()
            self._loaded.add(request.runtime)
        return self._open_cell(request)


class _UnusableSamplesError(InputError):
    """A sample cannot be read: no cell's fault, so the benchmark ends."""


class _Row:
    """A cell in the making. After a failed step it is asked for no other."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.status: Status = "ok"
        self._problem: str | None = None
        self._opened: OpenedCell | None = None
        self._meter: LatencyMeter | None = None
        self._latency: LatencyResult | None = None
        self._peak_memory_bytes: int | None = None
        self._accuracy: AccuracyResult | None = None
        self._agreement: Agreement | None = None

    @property
    def label(self) -> str:
        """For progress."""
        request = self.request
        return f"{request.bundle.path.resolve().name} {request.resolution} {request.runtime}"

    def attempt(self, step: Callable[[_Row], None]) -> None:
        """Take a step; whatever a runtime raises is this row's problem and not the others'."""
        try:
            step(self)
        except _UnusableSamplesError:
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
        self._meter = LatencyMeter(self._opened.pipeline, frames)
        self._meter.first()

    def check(self, references: _References, samples: Samples, limit: int | None) -> None:
        """Compare with the other runtimes and with the labels."""
        assert self._opened is not None
        self._agreement = references.compare(self.request, self._opened.pipeline)
        if samples.labelled:
            try:
                self._accuracy = accuracy(self._opened.pipeline, samples, limit)
            except InputError as error:
                raise _UnusableSamplesError(str(error)) from error

    def weigh(self, measure_memory: MemoryMeter) -> None:
        """Before the timing, so that nothing else runs during it."""
        self._peak_memory_bytes = measure_memory(self.request)

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
            precision="fp32" if request.runtime == "torch" else manifest.precision,
            height_px=request.resolution.height,
            width_px=request.resolution.width,
            gmac=request.bundle.graph(request.resolution).gmac,
            runtime=request.runtime,
            device=self._opened.device if self._opened else request.device,
            threads=request.threads,
            status=self.status,
            problem=self._problem,
            peak_memory_bytes=self._peak_memory_bytes if complete else None,
            latency=self._latency if complete else None,
            accuracy=self._accuracy if complete else None,
            agreement=self._agreement if complete else None,
        )


def _open_pipeline(request: Request) -> OpenedCell:
    pipeline = Pipeline.open(
        request.bundle.path,
        request.runtime,
        request.device,
        request.threads,
        resolution=request.resolution,
        check_files=False,  # `open_bundle` did, and hashing would count as opening
    )
    return OpenedCell(pipeline, pipeline.runtime.device)


def _peak_memory_bytes(request: Request) -> int | None:
    """Run `bench.memory` on a cell; memory is no reason to fail it."""
    # -P: the user's folder may hold a depthmask of its own.
    command = [sys.executable, "-P", "-m", "depthmask.bench.memory"]
    cell = (request.bundle.path.resolve(), request.resolution, request.runtime, request.device)
    command += [*map(str, cell), str(request.threads or 0)]
    try:
        done = subprocess.run(
            command, capture_output=True, check=True, timeout=_MEMORY_TIMEOUT_SECONDS
        )
        # The last line: a runtime's library may have printed before it.
        return int(json.loads(done.stdout.splitlines()[-1])["peak_memory_bytes"])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError):
        return None


def _check_settings(seconds: float, min_runs: int, rounds: int, limit: int | None) -> None:
    settings = {"min_runs": min_runs, "rounds": rounds, "limit": 1 if limit is None else limit}
    for name, value in settings.items():
        if value < 1:
            raise UsageError(f"{name} must be 1 or more, but got {value}")
    if not 0 <= seconds < math.inf:
        raise UsageError(f"seconds must be 0 or more, but got {seconds}")


def _resolutions(bundle: Bundle, asked: Sequence[Resolution] | None) -> tuple[Resolution, ...]:
    if not asked:
        return bundle.manifest.resolutions
    return tuple(bundle.graph(resolution).resolution for resolution in asked)


def _runtimes(asked: Sequence[str] | None) -> tuple[str, ...]:
    if asked:
        for name in asked:
            if name not in known_runtimes.names():
                known = ", ".join(known_runtimes.names())
                raise UsageError(f"a runtime must be one of {known}, but got {name!r}")
        return tuple(asked)
    found = tuple(name for name in DEFAULT_RUNTIMES if name in known_runtimes.installed())
    if not found:
        raise UnavailableError(
            "a benchmark needs a runtime, but none is installed. Try `pip install 'depthmask[cpu]'`"
        )
    return found


def _frames(samples: Samples, size: Resolution | None) -> list[UInt8Array]:
    frames = [samples[index].image_HW3 for index in range(min(_TIMED_FRAMES, len(samples)))]
    if size is None:
        return frames
    return [np.asarray(cv2.resize(frame, (size.width, size.height)), np.uint8) for frame in frames]


def _largest(values: FloatArray) -> float:
    return float(np.abs(values).max())
