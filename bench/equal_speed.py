"""Two recordings as if the machine had been equally fast during both.

`bench.speed_probe` times a fixed piece of work beside the frames. Within each recording, the logarithm of
the latency is regressed on that of the work, over medians of windows of a second; what the machine's speed
explains is then taken out of both, to their common mean (regression-adjusted control variates: Lavenberg &
Welch 1981, "A perspective on the use of control variables"). The slope comes from the changes *within* the
recordings alone, so a difference *between* them is never explained away by itself. On a quiet machine
there is nothing to explain: a slope that is not clear is none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from depthmask.bench.statistics import FloatVector, IntArray, Recording

_WINDOW_SECONDS = 1.0
_FEWEST_WINDOWS = 8
_CLEAR = 3.0
"""The slope in standard errors."""
_STEEPEST = 3.0
_JACKKNIFE_GROUPS = 12


@dataclass(frozen=True)
class EqualSpeed:
    """The adjusted recordings."""

    a: Recording
    b: Recording
    machine_change: float
    """How much longer the fixed work took during b, as a share of a."""
    log_error: float
    """What the slope's uncertainty adds to the logarithm of b / a, as a standard deviation."""


def at_equal_speed(a: Recording, b: Recording) -> EqualSpeed | None:
    """Take out what the machine's speed explains; None where that is nothing, or not known."""
    if a.speed_ms is None or b.speed_ms is None:
        return None
    sides = [_Windows.of(a, a.speed_ms), _Windows.of(b, b.speed_ms)]
    speed = np.concatenate([side.speed - side.speed.mean() for side in sides])
    latency = np.concatenate([side.latency - side.latency.mean() for side in sides])
    if speed.size < _FEWEST_WINDOWS or not speed.any():
        return None
    slope = _slope(speed, latency)
    error = _jackknife_error(speed, latency)
    if not slope > _CLEAR * error:
        return None
    slope = min(slope, _STEEPEST)
    apart = sides[1].speed.mean() - sides[0].speed.mean()
    common = sides[0].speed.mean() + apart / 2

    def adjusted(recording: Recording, side: _Windows) -> Recording:
        samples_ms = recording.samples_ms * np.exp(slope * (common - side.of_sample))
        return replace(recording, samples_ms=samples_ms)

    return EqualSpeed(
        adjusted(a, sides[0]),
        adjusted(b, sides[1]),
        float(np.expm1(apart)),
        float(abs(error * apart)),
    )


@dataclass(frozen=True)
class _Windows:
    """Logarithms of medians of W windows, and of the S samples' own window."""

    speed: FloatVector
    latency: FloatVector
    of_sample: FloatVector

    @classmethod
    def of(cls, recording: Recording, speed_ms: FloatVector) -> _Windows:
        window_S = _window_numbers(recording)
        starts = np.flatnonzero(np.diff(window_S, prepend=-1))
        speed, latency = (
            np.log([float(np.median(part)) for part in np.split(values, starts[1:])])
            for values in (speed_ms, recording.samples_ms)
        )
        return cls(speed, latency, speed[window_S])


def _window_numbers(recording: Recording) -> IntArray:
    """From 0 on, without gaps; a window never spans two rounds."""
    second_S = (np.cumsum(recording.samples_ms) / (1000 * _WINDOW_SECONDS)).astype(np.int64)
    new_S = np.diff(second_S, prepend=second_S[:1]) > 0
    if recording.rounds is not None:
        new_S |= np.diff(recording.rounds, prepend=recording.rounds[:1]) > 0
    return np.cumsum(new_S, dtype=np.int64)


def _slope(x: FloatVector, y: FloatVector) -> float:
    return float((x * y).sum() / (x * x).sum())


def _jackknife_error(x: FloatVector, y: FloatVector) -> float:
    """Standard error of the slope, leaving out neighbouring windows together (Künsch 1989)."""
    groups = min(_JACKKNIFE_GROUPS, x.size)
    group = np.arange(x.size) * groups // x.size
    slopes: npt.NDArray[np.float64] = np.array(
        [_slope(x[group != left], y[group != left]) for left in range(groups)]
    )
    return float(np.sqrt((groups - 1) * ((slopes - slopes.mean()) ** 2).mean()))
