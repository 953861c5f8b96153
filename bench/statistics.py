"""How sure a latency is: intervals of medians and percentiles, and whether two recordings differ.

Latencies on a shared machine are neither independent nor steady. Other programs come and go, clocks
move, and the level stays shifted for seconds; medians of blocks of a recording spread hardly less when
the blocks are made ten times as long (1/f noise, as in clocks: Allan 1966). What follows from that:

- Whole blocks of neighbouring samples are drawn and not single samples (Künsch 1989, moving blocks;
  Politis & Romano 1992, in a circle), so that a resampled recording has the dependence of the real one.
- A block is 2.4 s or longer, and a sixth of the recording or longer. Block lengths chosen from the
  data's autocorrelation (Politis & White 2004) assume that it dies out well within the recording; in
  simulations of 1/f noise and of level shifts, they and blocks of a tenth called 8 % to 25 % of
  comparisons of equals different (10 s, 99 %), and this choice 0 % to 5 % (30 s: 0 % to 8 %). Few, long
  blocks are the batches of simulation practice (Schmeiser 1982). Where the noise is white they cost
  little: intervals are 1.7 times as wide (four blocks) or 1.2 times (six) as with ten.
- A recording in rounds, with pauses between them, has its rounds as blocks, or sixths of its rounds;
  what must be long enough is then the time with the pauses.
- So few blocks show less spread than there is, and their spread is uncertain itself. Resampled
  deviations are therefore stretched by sqrt(n / (n - 1)) for n blocks, the bias, and by the ratio of
  Student's quantile with n - 1 degrees of freedom to the normal one (2.3 at 99 % and four blocks); the
  degrees of freedom of the two recordings are not added up (the safe choice in Welch's test).
- Where a fixed piece of work was timed beside the frames, what it explains of the shifts is taken out of
  both recordings' medians first (`bench.equal_speed`).
- No recording knows what changes between it and the next: a program's layout in memory alone moves it
  by a percent or two (Mytkowicz et al. 2009, "Producing wrong data without doing anything obviously
  wrong!"). So a difference counts only where it is larger than a tolerance, too.

Everything is deterministic by its seed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from depthmask.bench.equal_speed import at_equal_speed
from depthmask.errors import UsageError

CONFIDENCE = 0.99
TOLERANCE = 0.02
MIN_BLOCKS, MAX_BLOCKS = 3, 6
MIN_BLOCK_SECONDS = 2.4
"""The level stays shifted for seconds. 10 s, or a sample less, have four blocks."""
SAMPLES_BEYOND = 10

_MEDIAN = 0.5
_OFFSETS = 8  # a moving block begins at every eighth of its length
_LEAST_CONFIDENCE, _MOST_CONFIDENCE = 0.5, 0.999
_MIN_RESAMPLES = 1000
_RESAMPLES_BEYOND = 10  # the interval's end, on each side

Verdict = Literal["faster", "slower", "no difference shown", "cannot tell"]
FloatVector = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recording:
    """Latencies in the order in which they were taken, in one piece or in rounds."""

    samples_ms: FloatVector
    rounds: IntArray | None = None
    """Which round a sample is of, in ascending order; None: there were no pauses."""
    elapsed_s: float | None = None
    """From the first sample to the last, pauses between the rounds included; None: there were none."""
    speed_ms: FloatVector | None = None
    """What a fixed piece of work took at about the time of each sample (`bench.speed_probe`)."""

    def __post_init__(self) -> None:
        samples_ms = np.asarray(self.samples_ms, np.float64)
        if samples_ms.ndim != 1 or not samples_ms.size:
            raise UsageError(f"a recording must be 1 or more samples, but got {samples_ms.shape}")
        if not (np.isfinite(samples_ms).all() and samples_ms.min() > 0):
            raise UsageError("every latency must be a number of milliseconds above 0")
        object.__setattr__(self, "samples_ms", samples_ms)
        if self.rounds is not None:
            rounds = np.asarray(self.rounds, np.int64)
            if rounds.shape != samples_ms.shape or (np.diff(rounds) < 0).any():
                raise UsageError("rounds must be one ascending number per sample")
            object.__setattr__(self, "rounds", rounds)
        if self.speed_ms is not None and self.speed_ms.shape != samples_ms.shape:
            raise UsageError("speed_ms must be one number of milliseconds per sample")

    @property
    def seconds(self) -> float:
        """What it took, pauses included."""
        return float(self.samples_ms.sum()) / 1000 if self.elapsed_s is None else self.elapsed_s

    @property
    def blocks(self) -> int:
        """How many blocks it has: its rounds, or the parts that are long enough; 6 at most."""
        long_enough = int(self.seconds / MIN_BLOCK_SECONDS + 1e-9)
        return min(self._round_count or MAX_BLOCKS, MAX_BLOCKS, long_enough)

    def shortcoming(self, share: float) -> str | None:
        """Why it allows no interval of a percentile; None where it does."""
        count = self.samples_ms.size
        if not carries(count, share):
            return f"{count} samples, which do not carry p{100 * share:g}"
        if self.blocks >= MIN_BLOCKS:
            return None
        return f"{self.seconds:.2f} s, where {MIN_BLOCKS * MIN_BLOCK_SECONDS:g} s are needed"

    def pieces(self) -> tuple[IntArray, int]:
        """Which piece each sample is of, and how many neighbouring pieces are a block.

        Rounds are blocks as they are, several together where there are more than six; a recording in
        one piece is cut finer, so that blocks can begin in many places.
        """
        if self._round_count:
            return self._numbered_rounds() * self.blocks // self._round_count, 1
        count = self.samples_ms.size
        pieces = min(self.blocks * _OFFSETS, count)
        return np.arange(count) * pieces // count, max(1, round(pieces / self.blocks))

    @property
    def _round_count(self) -> int:
        """0 where they are too few to be blocks."""
        if self.rounds is None:
            return 0
        count = int(self._numbered_rounds()[-1]) + 1
        return count if count >= MIN_BLOCKS else 0

    def round_medians_ms(self) -> FloatVector:
        """Of each round, in order; of a recording in one piece, its only one."""
        if self.rounds is None:
            return np.array([np.median(self.samples_ms)])
        starts = np.flatnonzero(np.diff(self._numbered_rounds())) + 1
        return np.array([np.median(part) for part in np.split(self.samples_ms, starts)])

    def _numbered_rounds(self) -> IntArray:
        """From 0 on, without gaps."""
        assert self.rounds is not None
        return np.cumsum(np.diff(self.rounds, prepend=self.rounds[:1]) > 0, dtype=np.int64)

    def __repr__(self) -> str:
        return f"Recording({self.samples_ms.size} samples, {self.seconds:.1f} s)"


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity and where it lies with a given confidence, all in the same unit."""

    value: float
    lower: float
    upper: float


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How a percentile of recording b differs from that of recording a. Changes are b / a - 1."""

    share: float
    """Which percentile: 0.5 for the median."""
    a_ms: float
    b_ms: float
    change: float
    """At equal speed of the machine where `machine_change` is known, else as measured."""
    lower: float | None
    """The interval's ends; None where a recording allows no interval."""
    upper: float | None
    verdict: Verdict
    machine_change: float | None = None
    """How much longer the fixed work took during b, which was taken out; None: nothing was."""
    remark: str | None = None
    """Why there is no interval."""


def carries(count: int, share: float) -> bool:
    """Say whether so many samples carry a percentile: the median from 20, p90 from 100, p99 from 1,000.

    Ten samples must lie beyond it, on its rarer side. Then the upper end of its distribution-free 99 %
    interval (order statistics: David & Nagaraja 2003, section 7.1; the count beyond is about Poisson)
    is the third largest sample, and no single hiccup decides it. With six beyond it would be the
    largest sample, and with five there is none.

    Raises:
        UsageError: the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"a percentile must be a share between 0 and 1, but got {share}")
    return round(count * min(share, 1 - share), 6) >= SAMPLES_BEYOND


def quantile_interval(
    recording: Recording, share: float = _MEDIAN, *, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval | None:
    """Give a percentile in ms (by default the median) with its interval.

    None where the recording is too short for an interval or does not carry the percentile.

    Raises:
        UsageError: the confidence or the share is out of range.
    """
    check_levels(confidence)
    if recording.shortcoming(share):
        return None
    generator = np.random.default_rng(seed)
    value_ms = float(np.quantile(recording.samples_ms, share))
    deviations = _deviations(recording, share, confidence, generator)
    below, above = _ends(deviations, confidence, recording.blocks)
    return Interval(
        value=value_ms, lower=value_ms * math.exp(below), upper=value_ms * math.exp(above)
    )


def compare_quantile(
    a: Recording,
    b: Recording,
    share: float = _MEDIAN,
    *,
    confidence: float = CONFIDENCE,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Difference:
    """Compare a percentile (by default the median) of two recordings.

    The verdict is `slower` or `faster` where the interval of the change leaves out 0 and the change is
    larger than the tolerance; `no difference shown` where the whole interval is within the tolerance
    (an equivalence test: Schuirmann 1987); and otherwise `cannot tell`.

    Args:
        a: the recording that is compared with.
        b: the one that is faster or slower.
        share: which percentile, between 0 and 1.
        confidence: of the interval, 0.5 to 0.999.
        tolerance: the change, as a share of a, that does not matter.
        seed: of the resampling.

    Raises:
        UsageError: an argument is out of range.
    """
    check_levels(confidence, tolerance)
    a_ms, b_ms = (float(np.quantile(one.samples_ms, share)) for one in (a, b))
    # Tails come from what interrupts a frame, and not from the machine's speed.
    equal = at_equal_speed(a, b) if share == _MEDIAN else None
    a, b = (equal.a, equal.b) if equal else (a, b)
    change = float(np.quantile(b.samples_ms, share) / np.quantile(a.samples_ms, share)) - 1
    lower = upper = None
    verdict: Verdict = "cannot tell"
    remark = _remark(a, b, share)
    if remark is None:
        generator = np.random.default_rng(seed)
        deviations_a = _deviations(a, share, confidence, generator)
        deviations_b = _deviations(b, share, confidence, generator)
        deviations = deviations_b - deviations_a
        if equal:
            deviations += equal.log_error * generator.standard_normal(deviations.size)
        below, above = _ends(deviations, confidence, min(a.blocks, b.blocks))
        lower, upper = ((1 + change) * math.exp(end) - 1 for end in (below, above))
        verdict = judge(change, lower, upper, tolerance)
    return Difference(
        share=share,
        a_ms=a_ms,
        b_ms=b_ms,
        change=change,
        lower=lower,
        upper=upper,
        verdict=verdict,
        machine_change=equal.machine_change if equal else None,
        remark=remark,
    )


def judge(change: float, lower: float, upper: float, tolerance: float) -> Verdict:
    """What an interval of a change says (`compare_quantile`)."""
    if lower > 0 and change > tolerance:
        return "slower"
    if upper < 0 and change < -tolerance:
        return "faster"
    if -tolerance <= lower and upper <= tolerance:
        return "no difference shown"
    return "cannot tell"


def _remark(a: Recording, b: Recording, share: float) -> str | None:
    for name, one in (("A", a), ("B", b)):
        shortcoming = one.shortcoming(share)
        if shortcoming:
            return f"{name} has {shortcoming}"
    return None


def check_levels(confidence: float, tolerance: float = 0) -> None:
    """Refuse a confidence or a tolerance out of range with a UsageError."""
    if not 0 <= tolerance < 1:
        raise UsageError(f"a tolerance must be 0 to below 1, but got {tolerance}")
    if not _LEAST_CONFIDENCE <= confidence <= _MOST_CONFIDENCE:
        raise UsageError(
            f"a confidence must be {_LEAST_CONFIDENCE} to {_MOST_CONFIDENCE}, but got {confidence}"
        )


def _deviations(
    recording: Recording, share: float, confidence: float, generator: np.random.Generator
) -> FloatVector:
    """Logarithms of resampled percentiles over the recording's own, both by the inverse distribution."""
    pieces, block = recording.pieces()
    resamples = max(_MIN_RESAMPLES, round(2 * _RESAMPLES_BEYOND / (1 - confidence)))
    times = _draw(int(pieces[-1]) + 1, block, resamples, generator)
    resampled_ms = _weighted_quantiles(recording.samples_ms, pieces, times, share)
    (own_ms,) = _weighted_quantiles(recording.samples_ms, pieces, np.ones_like(times[:1]), share)
    deviations: FloatVector = np.log(resampled_ms / own_ms)
    return deviations


def _draw(pieces: int, block: int, resamples: int, generator: np.random.Generator) -> IntArray:
    """How often each resample holds each piece, (resamples, pieces): the circular block bootstrap."""
    blocks = -(-pieces // block)
    starts = generator.integers(pieces, size=(resamples, blocks, 1))
    drawn = ((starts + np.arange(block)) % pieces).reshape(resamples, -1)[:, :pieces]
    numbered = drawn + pieces * np.arange(resamples)[:, None]
    return np.bincount(numbered.ravel(), minlength=resamples * pieces).reshape(resamples, pieces)


def _weighted_quantiles(
    samples_ms: FloatVector, pieces: IntArray, times: IntArray, share: float
) -> FloatVector:
    """Per row of `times`, the percentile of the samples, each repeated as often as its piece.

    Bisects the sorted samples for all rows at once, so nothing is ever sorted again.
    """
    order = np.argsort(samples_ms, kind="stable")
    # How many of the k + 1 smallest samples are of each piece.
    below = np.zeros((samples_ms.size, times.shape[1]), np.int32)
    below[np.arange(samples_ms.size), pieces[order]] = 1
    np.cumsum(below, axis=0, out=below)
    wanted = np.maximum(1, np.ceil(share * (times @ below[-1]) - 1e-9))
    first = np.zeros(len(times), np.int64)
    last = np.full(len(times), samples_ms.size - 1)
    while (first < last).any():
        middle = (first + last) // 2
        enough = np.einsum("rp,rp->r", times, below[middle]) >= wanted
        first, last = np.where(enough, first, middle + 1), np.where(enough, middle, last)
    quantiles_ms: FloatVector = samples_ms[order][first]
    return quantiles_ms


def _ends(deviations: FloatVector, confidence: float, blocks: int) -> tuple[float, float]:
    """The ends of the interval around 0, stretched for the few blocks (see the module's docstring)."""
    tail = (1 - confidence) / 2
    student, normal = student_quantile(1 - tail, blocks - 1), NormalDist().inv_cdf(1 - tail)
    stretch = math.sqrt(blocks / (blocks - 1)) * student / normal
    below, above = np.quantile(deviations, [tail, 1 - tail])
    # A percentile of few blocks can lie on one side only; the recording's own is always inside.
    return stretch * min(float(below), 0.0), stretch * max(float(above), 0.0)


def student_quantile(probability: float, degrees: int) -> float:
    """Student's quantile above 0.5, by bisection of its angle, whose tangent is t / sqrt(degrees)."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        if (1 + _student_within(angle, degrees)) / 2 < probability:
            low = angle
        else:
            high = angle
    return math.sqrt(degrees) * math.tan(high)


def _student_within(angle: float, degrees: int) -> float:
    """Student's probability from -t to t in closed form (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    within, term = (angle, sine * cosine) if odd else (0.0, sine)
    for number in range(2 + odd, degrees + 1, 2):
        within += term
        term *= cosine**2 * (number - 1) / number
    return 2 / math.pi * within if odd else within
