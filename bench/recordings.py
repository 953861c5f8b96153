"""From a result's samples to recordings, and the intervals of its percentiles."""

from __future__ import annotations

import numpy as np

from depthmask.bench.latency import LatencyResult
from depthmask.bench.result import BenchResult
from depthmask.bench.statistics import Interval, Recording, quantile_interval

PERCENTILES = (0.5, 0.9, 0.99)

Intervals = dict[float, Interval]
"""By percentile as a share, of those that the samples carry and that are long enough."""


def recordings(result: BenchResult) -> list[Recording | None]:
    """Of each cell; None of one without numbers.

    Its turns are rounds only where there were pauses between them: the turns of the other cells.
    """
    seconds = [_seconds(cell.latency) if cell.latency else 0.0 for cell in result.cells]
    several = sum(cell.latency is not None for cell in result.cells) > 1
    return [
        _recording(cell.latency, sum(seconds) - own_s if several else 0.0) if cell.latency else None
        for cell, own_s in zip(result.cells, seconds, strict=True)
    ]


def percentile_intervals(result: BenchResult) -> list[Intervals]:
    """99 % intervals of p50, p90 and p99 of each cell (`bench.statistics`)."""
    found = []
    for recording in recordings(result):
        intervals = {
            share: quantile_interval(recording, share) for share in PERCENTILES if recording
        }
        found.append({share: one for share, one in intervals.items() if one is not None})
    return found


def _recording(latency: LatencyResult, pauses_s: float) -> Recording:
    samples_ms = np.array(latency.samples_ms)
    speed_ms = latency.speed_of_samples_ms
    runs = [turn.runs for turn in latency.turns]
    if not pauses_s or sum(runs) != samples_ms.size:
        return Recording(samples_ms, speed_ms=speed_ms)
    rounds = np.repeat(np.arange(len(runs)), runs)
    return Recording(samples_ms, rounds, pauses_s + _seconds(latency), speed_ms)


def _seconds(latency: LatencyResult) -> float:
    return sum(latency.samples_ms) / 1000
