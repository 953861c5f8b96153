from __future__ import annotations

import msgspec
import numpy as np
import pytest

from depthmask.bench.statistics import (
    Recording,
    carries,
    compare_quantile,
    quantile_interval,
)
from depthmask.errors import UsageError


def white(generator, count, median_ms=10.0):
    return median_ms * np.exp(0.05 * generator.standard_normal(count))


def drifting(generator, count, steady_runs=100, spread=0.05):
    """White noise times a first-order autoregression that forgets in `steady_runs`."""
    keep = np.exp(-1 / steady_runs)
    level, pushes = generator.standard_normal(), generator.standard_normal(count)
    levels = np.empty(count)
    for index, push in enumerate(pushes):
        level = keep * level + np.sqrt(1 - keep**2) * push
        levels[index] = level
    return white(generator, count) * np.exp(spread * levels)


def shifting(generator, count, steady_runs=300, spread=0.05):
    """White noise whose level jumps every `steady_runs` on average."""
    stretch = np.cumsum(generator.random(count) < 1 / steady_runs)
    return white(generator, count) * np.exp(spread * generator.standard_normal(count)[stretch])


NOISES = [white, drifting, shifting]


@pytest.mark.parametrize(
    ("share", "enough"), [(0.5, 20), (0.9, 100), (0.1, 100), (0.99, 1000), (0.999, 10_000)]
)
def test_ten_samples_must_lie_beyond_a_percentile(share, enough):
    assert carries(enough, share)
    assert not carries(enough - 1, share)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_recording_does_not_differ_from_itself(noise, share):
    recording = Recording(noise(np.random.default_rng(0), 3000))
    found = compare_quantile(recording, recording, share)
    assert found.change == 0
    assert found.lower < 0 < found.upper
    assert found.verdict in ("no difference shown", "cannot tell")


def test_what_is_steady_and_equal_is_shown_to_be():
    generator = np.random.default_rng(1)
    found = compare_quantile(*(Recording(white(generator, 3000)) for _ in "ab"))
    assert found.verdict == "no difference shown"
    assert -0.02 < found.lower < found.upper < 0.02


@pytest.mark.parametrize(("factor", "verdict"), [(1.05, "slower"), (1 / 1.05, "faster")])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_five_percent_are_found(factor, verdict, share):
    generator = np.random.default_rng(2)
    a, b = (white(generator, 3000) for _ in "ab")
    found = compare_quantile(Recording(a), Recording(factor * b), share)
    assert found.verdict == verdict
    assert found.lower < factor - 1 < found.upper
    assert found.b_ms / found.a_ms - 1 == pytest.approx(found.change)


def test_five_percent_are_found_in_windows_of_30_s_although_levels_shift():
    generator = np.random.default_rng(3)
    found = [
        compare_quantile(
            Recording(shifting(generator, 3000, spread=0.01)),
            Recording(1.05 * shifting(generator, 3000, spread=0.01)),
        ).verdict
        for _ in range(20)
    ]
    assert found.count("slower") >= 18


@pytest.mark.parametrize("noise", NOISES)
def test_noise_is_not_called_a_change(noise):
    """Neighbouring windows of 10 s, cut from one recording."""
    generator = np.random.default_rng(4)
    alarms = 0
    for _ in range(25):
        both = noise(generator, 2000)
        found = compare_quantile(Recording(both[:1000]), Recording(both[1000:]))
        alarms += found.verdict in ("faster", "slower")
    assert alarms <= 1


@pytest.mark.parametrize("steady_runs", [1, 25])
def test_intervals_hold_the_true_median_as_often_as_they_say(steady_runs):
    generator = np.random.default_rng(5)
    intervals = [
        quantile_interval(Recording(drifting(generator, 1000, steady_runs)), confidence=0.9)
        for _ in range(100)
    ]
    assert np.mean([one.lower <= 10 <= one.upper for one in intervals]) >= 0.9


def test_drift_widens_the_interval():
    """A bootstrap of single samples would not see a difference."""
    generator = np.random.default_rng(6)
    samples_ms = shifting(generator, 2000)
    drifted = quantile_interval(Recording(samples_ms))
    shuffled = quantile_interval(Recording(generator.permutation(samples_ms)))
    assert drifted.value == shuffled.value
    assert drifted.upper - drifted.lower > 4 * (shuffled.upper - shuffled.lower)


def test_rounds_are_the_blocks():
    """Every round has a level of its own, so there is as much to know as there are rounds."""
    generator = np.random.default_rng(7)
    rounds = np.arange(1000) // 100
    levels = np.array([1, 1.3, 1.1, 1, 1.2, 1.3, 1, 1.1, 1.2, 1])
    samples_ms = white(generator, 1000) * levels[rounds]
    by_round = quantile_interval(Recording(samples_ms, rounds, 60.0))
    assert by_round.lower < 10.2
    assert by_round.upper > 12
    # Their numbers are names only.
    assert quantile_interval(Recording(samples_ms, 10 * rounds + 3, 60.0)) == by_round


def test_pauses_between_rounds_count():
    samples_ms = white(np.random.default_rng(8), 200)

    def interval(runs_per_round, elapsed_s):
        rounds = np.arange(200) // runs_per_round
        return quantile_interval(Recording(samples_ms, rounds, elapsed_s))

    assert quantile_interval(Recording(samples_ms)) is None
    assert interval(40, None) is None
    assert interval(40, 7.0) is None
    assert interval(40, 12.0) is not None


def test_without_noise_the_tolerance_decides():
    recording, slower = (Recording(np.full(1000, ms)) for ms in (10.0, 10.1))
    interval = quantile_interval(recording)
    assert (interval.lower, interval.value, interval.upper) == (10, 10, 10)
    within = compare_quantile(recording, slower)
    assert within.lower == pytest.approx(0.01)
    assert within.upper == pytest.approx(0.01)
    assert within.verdict == "no difference shown"
    assert compare_quantile(recording, slower, tolerance=0.005).verdict == "slower"
    assert compare_quantile(slower, recording, tolerance=0.005).verdict == "faster"


def test_a_change_that_may_matter_or_not_cannot_be_told():
    """Its interval leaves out 0, but not what does not matter."""
    generator = np.random.default_rng(9)
    a, b = (white(generator, 3000) for _ in "ab")
    found = compare_quantile(Recording(a), Recording(1.015 * b))
    assert 0 < found.lower < found.change < 0.02 < found.upper
    assert found.verdict == "cannot tell"


@pytest.mark.parametrize(
    ("samples_ms", "share", "remark"),
    [
        ([10.0], 0.5, "1 samples, which do not carry p50"),
        ([1000.0] * 19, 0.5, "19 samples, which do not carry p50"),
        ([100.0] * 999, 0.99, "999 samples, which do not carry p99"),
        ([10.0] * 30, 0.5, "0.30 s, where 7.2 s are needed"),
    ],
)
def test_what_is_too_short_is_not_judged(samples_ms, share, remark):
    enough = Recording(white(np.random.default_rng(0), 3000))
    short = Recording(np.array(samples_ms))
    found = compare_quantile(enough, short, share)
    assert (found.lower, found.upper, found.verdict) == (None, None, "cannot tell")
    assert found.remark == f"B has {remark}"
    assert compare_quantile(short, enough, share).remark == f"A has {remark}"
    assert quantile_interval(short, share) is None


def test_twenty_slow_samples_are_enough():
    samples_ms = white(np.random.default_rng(10), 20, median_ms=1000)
    interval = quantile_interval(Recording(samples_ms))
    assert 850 < interval.lower < interval.value < interval.upper < 1150


def test_a_seed_decides_everything():
    generator = np.random.default_rng(11)
    a, b = (Recording(shifting(generator, 1000)) for _ in "ab")
    found = compare_quantile(a, b, seed=1)
    assert compare_quantile(a, b, seed=1) == found
    other = compare_quantile(a, b, seed=2)
    assert other != found
    assert msgspec.structs.replace(other, lower=found.lower, upper=found.upper) == found


def test_more_confidence_is_a_wider_interval():
    recording = Recording(white(np.random.default_rng(12), 1000))
    widths = [
        interval.upper - interval.lower
        for confidence in (0.5, 0.9, 0.99, 0.999)
        if (interval := quantile_interval(recording, confidence=confidence))
    ]
    assert sorted(set(widths)) == widths


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda good: Recording(np.array([])), "1 or more samples"),
        (lambda good: Recording(np.ones((2, 2))), "1 or more samples"),
        (lambda good: Recording(np.array([1.0, 0.0])), "above 0"),
        (lambda good: Recording(np.array([1.0, np.nan])), "above 0"),
        (lambda good: Recording(np.ones(2), np.array([0])), "one ascending number per sample"),
        (lambda good: Recording(np.ones(2), np.array([1, 0])), "one ascending number per sample"),
        (lambda good: compare_quantile(good, good, 1.0), "between 0 and 1, but got 1.0"),
        (lambda good: compare_quantile(good, good, confidence=1), "0.5 to 0.999, but got 1"),
        (lambda good: quantile_interval(good, confidence=0.1), "0.5 to 0.999, but got 0.1"),
        (lambda good: compare_quantile(good, good, tolerance=-1), "0 to below 1, but got -1"),
    ],
)
def test_unusable_arguments_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make(Recording(np.full(1000, 10.0)))


def test_a_recordings_repr_shows_no_data():
    assert repr(Recording(np.full(1000, 10.0))) == "Recording(1000 samples, 10.0 s)"
