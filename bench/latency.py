"""Latency of one pipeline: warm up until it is steady, then time single frames one after the other.

A run is one call of the pipeline, from the frame in memory to mask and depth in memory at the frame's
size; reading the frame is not in it. The harness costs two clock reads and two list entries per run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import numpy as np

from depthmask.errors import UsageError
from depthmask.frames import UInt8Array

RUNS_FOR_P99 = 100
STAGES = ("preprocess", "inference", "postprocess")
_WINDOW_RUNS = 5
_WINDOW_SECONDS = 0.1
_STEADY_WITHIN = 0.05

Clock = Callable[[], float]


class TimedPrediction(Protocol):
    """What a run gives back."""

    @property
    def timings_ms(self) -> dict[str, float]:
        """`preprocess`, `inference` and `postprocess`."""


class TimedPipeline(Protocol):
    """What can be measured; a `Pipeline` is one."""

    @property
    def open_ms(self) -> float:
        """What opening took."""

    def __call__(self, frame_HW3: UInt8Array, /) -> TimedPrediction:
        """Predict one frame, (H,W,3) uint8 RGB."""


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
    p90_ms: float
    p99_ms: float | None
    """None below 100 runs, which cannot show it."""
    mean_ms: float
    preprocess_p50_ms: float
    inference_p50_ms: float
    postprocess_p50_ms: float
    throughput_frames_per_s: float
    """Of one frame after the other, without batches or overlap."""
    samples_ms: tuple[float, ...]

    def __repr__(self) -> str:
        return f"LatencyResult({self.p50_ms:.2f} ms median of {self.runs} runs)"


class LatencyMeter:
    """Takes samples of one pipeline, in as many turns as the caller likes."""

    def __init__(
        self,
        pipeline: TimedPipeline,
        frames: Sequence[UInt8Array],
        clock: Clock = time.perf_counter,
    ) -> None:
        if not frames:
            raise UsageError("the frames to measure with must be 1 or more, but there are none")
        self._pipeline = pipeline
        self._frames = frames
        self._clock = clock
        self._next_frame = 0
        self._samples_ms: list[float] = []
        self._stages_ms: list[dict[str, float]] = []
        self._warmup_runs = 0
        self._stable = False
        self._first_ms: float | None = None

    @property
    def runs(self) -> int:
        """Samples taken."""
        return len(self._samples_ms)

    def first(self) -> None:
        """Time the very first call; later calls of this do nothing."""
        if self._first_ms is None:
            self._first_ms = self._run()[0]

    def warm_up(self, max_seconds: float = 5.0) -> None:
        """Run until the median of a window is within 5 % of that of the window before.

        A window is at least 5 runs and 0.1 s. Ends after `max_seconds` in any case.
        """
        self.first()
        end = self._clock() + max_seconds
        before_ms = None
        while not self._stable and self._clock() < end:
            window_ms: list[float] = []
            window_end = self._clock() + _WINDOW_SECONDS
            while len(window_ms) < _WINDOW_RUNS or self._clock() < window_end:
                window_ms.append(self._run()[0])
                if self._clock() >= end:
                    break
            self._warmup_runs += len(window_ms)
            median_ms = float(np.median(window_ms))
            self._stable = (
                before_ms is not None
                and len(window_ms) >= _WINDOW_RUNS
                and abs(median_ms - before_ms) <= _STEADY_WITHIN * before_ms
            )
            before_ms = median_ms

    def sample(self, min_seconds: float, min_runs: int) -> None:
        """Take samples for at least `min_seconds` and `min_runs`; the first run is not counted.

        It brings the pipeline back into the caches after another had its turn.
        """
        self.first()
        self._run()
        end = self._clock() + min_seconds
        taken = 0
        while taken < min_runs or self._clock() < end:
            total_ms, stages_ms = self._run()
            self._samples_ms.append(total_ms)
            self._stages_ms.append(stages_ms)
            taken += 1

    def result(self) -> LatencyResult:
        """Summarise the samples taken.

        Raises:
            UsageError: there is none.
        """
        if not self._samples_ms or self._first_ms is None:
            raise UsageError("a latency must come from 1 or more runs, but none was made")
        samples_ms = np.array(self._samples_ms)
        stage_p50_ms = {
            stage: float(np.median([timings[stage] for timings in self._stages_ms]))
            for stage in STAGES
        }
        p50_ms, p90_ms, p99_ms = (float(np.percentile(samples_ms, share)) for share in (50, 90, 99))
        return LatencyResult(
            runs=len(samples_ms),
            warmup_runs=self._warmup_runs,
            stable=self._stable,
            open_ms=self._pipeline.open_ms,
            first_inference_ms=self._first_ms,
            p50_ms=p50_ms,
            p90_ms=p90_ms,
            p99_ms=p99_ms if len(samples_ms) >= RUNS_FOR_P99 else None,
            mean_ms=float(samples_ms.mean()),
            preprocess_p50_ms=stage_p50_ms["preprocess"],
            inference_p50_ms=stage_p50_ms["inference"],
            postprocess_p50_ms=stage_p50_ms["postprocess"],
            throughput_frames_per_s=1000 * len(samples_ms) / float(samples_ms.sum()),
            samples_ms=tuple(round(float(sample), 4) for sample in samples_ms),
        )

    def _run(self) -> tuple[float, dict[str, float]]:
        frame_HW3 = self._frames[self._next_frame]
        self._next_frame = (self._next_frame + 1) % len(self._frames)
        started = self._clock()
        prediction = self._pipeline(frame_HW3)
        elapsed_ms = 1000 * (self._clock() - started)
        return elapsed_ms, prediction.timings_ms


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
