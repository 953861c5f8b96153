"""Latency under load: frames that arrive at a fixed rate, as a camera's do, whether or not the last is done.

Each time runs from when the frame was due, not from when the pipeline came round to it: a stall is
charged to every frame that waits behind it. Timing from the start of the work would leave that out
(Tene, "How NOT to Measure Latency", 2013: "coordinated omission").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from depthmask.bench.conditions import ConditionsMeter, between, spoilt_by
from depthmask.bench.latency import Clock, TimedPipeline, quantile_ms
from depthmask.errors import UsageError
from depthmask.frames import UInt8Array

_SPIN_SECONDS = 0.002  # sleeping is not exact: the last stretch is waited awake
_LONGEST = 2.0
"""Of the time that the arrivals take: a queue that has grown so far will not get shorter."""


class OpenLoopResult(msgspec.Struct, frozen=True, kw_only=True):
    """Latency from arrival to result, in milliseconds, at one rate of arrivals."""

    arrivals_per_s: float
    offered: int
    done: int
    sustained: bool
    """Whether no queue grew: among the last tenth of the frames, one was begun within an interval of
    when it was due. (Not the very last one: a single hiccup before it would count.)"""
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    longest_ms: float
    spoilt_by: tuple[str, ...] = ()
    """What else the machine did, where that was so much that the numbers are no fair ones."""
    samples_ms: tuple[float, ...]

    def __repr__(self) -> str:
        return f"OpenLoopResult({self.p50_ms:.2f} ms median at {self.arrivals_per_s:.1f} frames/s)"


def measure_under_load(
    pipeline: TimedPipeline,
    frames: Sequence[UInt8Array],
    arrivals_per_s: float,
    *,
    seconds: float = 5.0,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> OpenLoopResult:
    """Measure an opened, warm pipeline on frames (H,W,3) uint8 RGB that arrive every 1/rate s.

    Raises:
        UsageError: there are no frames, or the rate or the time is not above 0.
    """
    if not frames or not arrivals_per_s > 0 or not seconds > 0:
        raise UsageError(
            f"frames, arrivals_per_s and seconds must be above 0, but got {len(frames)},"
            f" {arrivals_per_s:g} and {seconds:g}"
        )
    offered = max(1, round(seconds * arrivals_per_s))
    conditions = ConditionsMeter()
    before = conditions.now()
    started = clock()
    late_s: list[float] = []
    samples_ms: list[float] = []
    for number in range(offered):
        due = started + number / arrivals_per_s
        _wait_until(due, clock, sleep)
        late_s.append(clock() - due)
        if clock() - started > _LONGEST * seconds:
            break
        pipeline(frames[number % len(frames)])
        samples_ms.append(1000 * (clock() - due))
    return OpenLoopResult(
        arrivals_per_s=arrivals_per_s,
        offered=offered,
        done=len(samples_ms),
        sustained=len(samples_ms) == offered
        and min(late_s[-max(1, offered // 10) :]) <= 1 / arrivals_per_s,
        p50_ms=float(np.median(samples_ms)),
        p90_ms=quantile_ms(samples_ms, 0.9),
        p99_ms=quantile_ms(samples_ms, 0.99),
        longest_ms=max(samples_ms),
        spoilt_by=spoilt_by([between(before, conditions.now())]),
        samples_ms=tuple(round(sample, 4) for sample in samples_ms),
    )


def _wait_until(due: float, clock: Clock, sleep: Callable[[float], None]) -> None:
    while (left := due - clock()) > 0:
        if left > _SPIN_SECONDS:
            sleep(left - _SPIN_SECONDS)
