"""What is measured while frames run: ages, times of the steps, drops; in steady memory."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from depthmask.video.frame import SourceCounts

_BINS_PER_E = 100  # neighbouring bins are 1 % apart
_SMALLEST_MS = 1e-3
_RECENT_FRAMES = 100


class Histogram:
    """Durations in bins of 1 %: a quantile is exact to that."""

    def __init__(self) -> None:
        self.count = 0
        self.largest_ms = 0.0
        # By bin: how many, and their sum, so that equal values come out as they went in.
        self._bins: dict[int, tuple[int, float]] = {}

    def add(self, duration_ms: float) -> None:
        """Count a duration in milliseconds."""
        number = math.floor(_BINS_PER_E * math.log(max(duration_ms, _SMALLEST_MS)))
        count, total_ms = self._bins.get(number, (0, 0.0))
        self._bins[number] = (count + 1, total_ms + duration_ms)
        self.count += 1
        self.largest_ms = max(self.largest_ms, duration_ms)

    def quantile_ms(self, share: float) -> float | None:
        """The duration that a share (0 to 1) of all do not exceed; None where there are none."""
        left = share * self.count
        for number in sorted(self._bins):
            count, total_ms = self._bins[number]
            left -= count
            if left <= 0:
                return total_ms / count
        return None

    def summary(self) -> dict[str, float | int | None]:
        """Count, percentiles and the largest, for a report."""
        return {
            "count": self.count,
            "p50_ms": self.quantile_ms(0.5),
            "p95_ms": self.quantile_ms(0.95),
            "p99_ms": self.quantile_ms(0.99),
            "max_ms": self.largest_ms if self.count else None,
        }


@dataclass(frozen=True)
class Drops:
    """Frames that were not shown, by where they were left out."""

    captured: int = 0
    """They came while the inference before was still at work."""
    handed_over: int = 0
    """They were inferred, but a newer one came before they were drawn or written."""
    late: int = 0
    """They were older than `max_age_ms`."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.captured + self.handed_over + self.late


class RunStatistics:
    """Of one run; written by the loop, and readable at any time by others."""

    def __init__(self) -> None:
        self.frames = 0
        self.late = {"predict": 0, "write": 0}
        """By the step that would have come next."""
        self.handed_over_dropped = 0
        self.source = SourceCounts()
        self.age = Histogram()
        """From capture until shown or written."""
        self.inference = Histogram()
        """The runtime's part of it alone."""
        self.stages = {name: Histogram() for name in ("predict", "draw", "write")}
        self._recent: deque[tuple[float, float | None]] = deque(maxlen=_RECENT_FRAMES)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time one frame's `predict`, `draw` or `write`."""
        began_s = time.perf_counter()
        yield
        self.stages[stage].add(1000 * (time.perf_counter() - began_s))

    def shown(self, captured_s: float | None, inference_ms: float | None) -> None:
        """A frame was shown or written just now."""
        now_s = time.monotonic()
        self.frames += 1
        if inference_ms is not None:
            self.inference.add(inference_ms)
        age_ms = None if captured_s is None else 1000 * (now_s - captured_s)
        if age_ms is not None:
            self.age.add(age_ms)
        self._recent.append((now_s, age_ms))

    @property
    def drops(self) -> Drops:
        """Where frames were left out."""
        return Drops(self.source.dropped, self.handed_over_dropped, sum(self.late.values()))

    @property
    def recent_fps(self) -> float | None:
        """Over the last 100 frames."""
        if len(self._recent) < 2:
            return None
        passed_s = time.monotonic() - self._recent[0][0]
        return (len(self._recent) - 1) / passed_s if passed_s > 0 else None

    def recent_age_ms(self, share: float) -> float | None:
        """A quantile over the last 100 frames."""
        ages_ms = sorted(age_ms for _, age_ms in self._recent if age_ms is not None)
        return ages_ms[min(len(ages_ms) - 1, int(share * len(ages_ms)))] if ages_ms else None
