"""Latency of one pipeline: warm up until it is steady, then time single frames one after the other.

A run is one call of the pipeline, from the frame in memory to mask and depth in memory at the frame's
size; reading the frame is not in it. The harness costs three clock reads and two list entries per run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import msgspec
import numpy as np

from depthmask.bench.conditions import Conditions, ConditionsMeter, between, spoilt_by
from depthmask.bench.speed_probe import SpeedProbe
from depthmask.bench.statistics import FloatVector, carries
from depthmask.errors import UsageError
from depthmask.frames import UInt8Array

_WINDOW_RUNS = 5
_WINDOW_SECONDS = 0.1
_STEADY_WINDOWS = 3
_STEADY_WITHIN = 0.05
_ENQUEUE = "enqueue"
"""The one part that is not beside the others but within them."""
_ENQUEUE_BOUND = 0.8
"""Of the GPU's time; as in NVIDIA's trtexec (samples/common/sampleReporting.cpp)."""

Clock = Callable[[], float]


class TimedPrediction(Protocol):
    """What a run gives back."""

    @property
    def timings_ms(self) -> dict[str, float]:
        """By stage, in the order in which they run, as `pipeline.Prediction` has them."""


class TimedPipeline(Protocol):
    """What can be measured; a `Pipeline` is one."""

    @property
    def open_ms(self) -> float:
        """What opening took."""

    def __call__(self, frame_HW3: UInt8Array, /) -> TimedPrediction:
        """Predict one frame, (H,W,3) uint8 RGB."""


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Runs without a pause, and what the machine did meanwhile."""

    runs: int
    conditions: Conditions


class LatencyResult(msgspec.Struct, frozen=True, kw_only=True):
    """Latency per frame, in milliseconds, with every raw sample in the order it was taken."""

    runs: int
    warmup_runs: int
    stable: bool
    """Whether the warm-up ended because the latency was steady, not because its time was over."""
    open_ms: float
    first_inference_ms: float
    """The first call that the meter made: of a fresh pipeline, what the first frame waits for."""
    p50_ms: float
    p90_ms: float | None
    """None, as the others, where too few samples lie beyond it (`statistics.carries`)."""
    p95_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    mean_ms: float
    cv: float
    """Standard deviation as a share of the mean."""
    stage_p50_ms: dict[str, float]
    """Median of each stage, in the order in which they run."""
    enqueue_p50_ms: float | None = None
    """Of the host's time for handing the inference to a GPU; None: no GPU, or not known."""
    throughput_frames_per_s: float
    """Of one call after the other, without overlap."""
    turns: tuple[Turn, ...]
    spoilt_by: tuple[str, ...]
    """What else the machine did, where that was so much that the numbers are no fair ones."""
    samples_ms: tuple[float, ...]
    stage_samples_ms: dict[str, tuple[float, ...]]
    speed_at: tuple[int, ...] = ()
    """How many samples had been taken when the fixed piece of work was timed (`bench.speed_probe`)."""
    speed_ms: tuple[float, ...] = ()
    """And what it took."""

    @property
    def speed_of_samples_ms(self) -> FloatVector | None:
        """What the fixed piece of work last took before each sample; None where it was not timed."""
        if not self.speed_at:
            return None
        latest = np.searchsorted(self.speed_at, np.arange(len(self.samples_ms)), side="right") - 1
        return np.asarray(self.speed_ms, np.float64)[np.maximum(latest, 0)]

    @property
    def enqueue_bound(self) -> str | None:
        """In words, where a faster GPU would change little: it waits for the host."""
        host_ms, gpu_ms = self.enqueue_p50_ms, self.stage_p50_ms.get("inference")
        if host_ms is None or gpu_ms is None or host_ms <= _ENQUEUE_BOUND * gpu_ms:
            return None
        return f"bound by enqueueing: {host_ms:.2f} ms of host work for {gpu_ms:.2f} ms on the GPU"

    def __repr__(self) -> str:
        return f"LatencyResult({self.p50_ms:.2f} ms median of {self.runs} runs)"


def quantile_ms(samples_ms: Sequence[float], share: float) -> float | None:
    """A quantile, between the samples linearly; None where they do not carry it."""
    return float(np.quantile(samples_ms, share)) if carries(len(samples_ms), share) else None


class LatencyMeter:
    """Takes samples of one pipeline, in as many turns as the caller likes."""

    def __init__(
        self,
        pipeline: TimedPipeline,
        frames: Sequence[UInt8Array],
        clock: Clock = time.perf_counter,
        conditions: ConditionsMeter | None = None,
        batch: int = 1,
    ) -> None:
        """Measure a pipeline on frames (H,W,3) uint8 RGB, taken in turn.

        `batch` is the number of frames that a call predicts.

        Raises:
            UsageError: there are no frames.
        """
        if not frames:
            raise UsageError("the frames to measure with must be 1 or more, but there are none")
        self._pipeline = pipeline
        self._frames = frames
        self._clock = clock
        self._conditions = conditions or ConditionsMeter()
        self._batch = batch
        self._next_frame = 0
        self._samples_ms: list[float] = []
        self._stages_ms: dict[str, list[float]] = {}
        self._turns: list[Turn] = []
        self._probe = SpeedProbe()
        self._speed_at: list[int] = []
        self._speed_ms: list[float] = []
        self._warmup_runs = 0
        self._stable = False
        self._first_ms: float | None = None

    @property
    def runs(self) -> int:
        """Samples taken."""
        return len(self._samples_ms)

    def go_on_from(self, earlier: LatencyResult) -> None:
        """Keep the samples of an earlier meter of the same cell, and its first inference."""
        self._samples_ms = list(earlier.samples_ms)
        self._stages_ms = {name: list(ms) for name, ms in earlier.stage_samples_ms.items()}
        self._turns = list(earlier.turns)
        self._speed_at, self._speed_ms = list(earlier.speed_at), list(earlier.speed_ms)
        self._warmup_runs = earlier.warmup_runs
        self._first_ms = earlier.first_inference_ms

    def first(self) -> None:
        """Time the very first call; later calls of this do nothing."""
        if self._first_ms is None:
            self._first_ms = self._run()[0]

    def warm_up(self, max_seconds: float = 5.0) -> None:
        """Run until the medians of three windows in a row are within 5 % of each other.

        A window is at least 5 runs and 0.1 s. Ends after `max_seconds` in any case.
        """
        self.first()
        end = self._clock() + max_seconds
        medians_ms: list[float] = []
        while not self._stable and self._clock() < end:
            window_ms: list[float] = []
            window_end = self._clock() + _WINDOW_SECONDS
            while len(window_ms) < _WINDOW_RUNS or self._clock() < window_end:
                window_ms.append(self._run()[0])
                if self._clock() >= end:
                    break
            self._warmup_runs += len(window_ms)
            if len(window_ms) >= _WINDOW_RUNS:
                medians_ms.append(float(np.median(window_ms)))
            last_ms = medians_ms[-_STEADY_WINDOWS:]
            self._stable = len(last_ms) == _STEADY_WINDOWS and all(
                abs(after - before) <= _STEADY_WITHIN * before
                for before, after in pairwise(last_ms)
            )

    def sample(self, min_seconds: float, min_runs: int) -> None:
        """A turn: samples for at least `min_seconds` and `min_runs`; the first run is not counted.

        It brings the pipeline back into the caches after another had its turn.
        """
        self.first()
        self._run()
        before = self._conditions.now()
        end = self._clock() + min_seconds
        taken = 0
        while taken < min_runs or self._clock() < end:
            if (speed_ms := self._probe.due()) is not None:
                self._speed_at.append(len(self._samples_ms))
                self._speed_ms.append(speed_ms)
            total_ms, stages_ms = self._run()
            self._samples_ms.append(total_ms)
            for stage, stage_ms in stages_ms.items():
                self._stages_ms.setdefault(stage, []).append(stage_ms)
            taken += 1
        met = between(before, self._conditions.now(before))
        self._turns.append(Turn(runs=taken, conditions=met))

    def result(self) -> LatencyResult:
        """Summarise the samples taken.

        Raises:
            UsageError: there is none.
        """
        if not self._samples_ms or self._first_ms is None:
            raise UsageError("a latency must come from 1 or more runs, but none was made")
        samples_ms = np.array(self._samples_ms)
        mean_ms = float(samples_ms.mean())
        medians_ms = {name: float(np.median(ms)) for name, ms in self._stages_ms.items()}
        enqueue_p50_ms = medians_ms.pop(_ENQUEUE, None)
        return LatencyResult(
            runs=len(samples_ms),
            warmup_runs=self._warmup_runs,
            stable=self._stable,
            open_ms=self._pipeline.open_ms,
            first_inference_ms=self._first_ms,
            p50_ms=float(np.median(samples_ms)),
            p90_ms=quantile_ms(self._samples_ms, 0.9),
            p95_ms=quantile_ms(self._samples_ms, 0.95),
            p99_ms=quantile_ms(self._samples_ms, 0.99),
            p999_ms=quantile_ms(self._samples_ms, 0.999),
            mean_ms=mean_ms,
            cv=float(samples_ms.std()) / mean_ms if mean_ms > 0 else 0.0,
            stage_p50_ms=medians_ms,
            enqueue_p50_ms=enqueue_p50_ms,
            throughput_frames_per_s=1000 * self._batch * len(samples_ms) / float(samples_ms.sum()),
            turns=tuple(self._turns),
            spoilt_by=spoilt_by([turn.conditions for turn in self._turns]),
            samples_ms=_rounded(self._samples_ms),
            stage_samples_ms={name: _rounded(ms) for name, ms in self._stages_ms.items()},
            speed_at=tuple(self._speed_at),
            speed_ms=_rounded(self._speed_ms),
        )

    def _run(self) -> tuple[float, dict[str, float]]:
        frame_HW3 = self._frames[self._next_frame]
        self._next_frame = (self._next_frame + 1) % len(self._frames)
        started = self._clock()
        prediction = self._pipeline(frame_HW3)
        elapsed_ms = 1000 * (self._clock() - started)
        return elapsed_ms, prediction.timings_ms


def _rounded(samples_ms: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(sample, 4) for sample in samples_ms)


def measure(
    pipeline: TimedPipeline,
    frames: Sequence[UInt8Array],
    *,
    min_seconds: float = 2.0,
    min_runs: int = 30,
    max_warmup_seconds: float = 5.0,
    clock: Clock = time.perf_counter,
) -> LatencyResult:
    """Measure an opened pipeline on frames (H,W,3) uint8 RGB, taken in turn.

    Raises:
        UsageError: there are no frames, or `min_runs` is below 1.
    """
    if min_runs < 1:
        raise UsageError(f"min_runs must be 1 or more, but got {min_runs}")
    meter = LatencyMeter(pipeline, frames, clock)
    meter.warm_up(max_warmup_seconds)
    meter.sample(min_seconds, min_runs)
    return meter.result()
