from __future__ import annotations

import itertools

import numpy as np
import pytest

from depthmask.bench.speed_probe import SpeedProbe
from depthmask.bench.statistics import Recording, compare_quantile
from depthmask.errors import UsageError

SAMPLES = 3000  # 30 s of 10 ms


def on_a_busy_machine(seed, *, factor=1.0, slope=1.4, level=0.0, spread=0.08):
    """Latencies and the fixed work, of a machine whose speed jumps every second or so."""
    generator = np.random.default_rng(seed)
    stretch = np.cumsum(generator.random(SAMPLES) < 0.01)
    speed = level + spread * generator.standard_normal(SAMPLES)[stretch]
    latency = slope * speed + 0.05 * generator.standard_normal(SAMPLES)
    work = speed + 0.03 * generator.standard_normal(SAMPLES)
    return Recording(10 * factor * np.exp(latency), speed_ms=0.2 * np.exp(work))


def without_the_work(recording):
    return Recording(recording.samples_ms)


def test_what_the_machine_did_is_taken_out():
    a, b = on_a_busy_machine(0), on_a_busy_machine(1, factor=1.05, level=0.1)
    as_measured = compare_quantile(without_the_work(a), without_the_work(b))
    found = compare_quantile(a, b)
    assert as_measured.change > 0.1
    assert as_measured.machine_change is None
    assert found.machine_change == pytest.approx(0.1, abs=0.06)
    assert found.change == pytest.approx(0.05, abs=0.02)
    assert found.lower < 0.05 < found.upper
    assert found.b_ms / found.a_ms - 1 == pytest.approx(as_measured.change)


def test_more_slow_downs_are_found_and_no_more_false_alarms():
    recordings = [on_a_busy_machine(seed) for seed in range(12)]
    slowed = [on_a_busy_machine(seed, factor=1.05) for seed in range(12)]
    equals = [compare_quantile(a, b) for a, b in itertools.pairwise(recordings)]
    finds = [compare_quantile(a, b) for a, b in zip(recordings, slowed[1:], strict=False)]
    blind = [
        compare_quantile(without_the_work(a), without_the_work(b))
        for a, b in zip(recordings, slowed[1:], strict=False)
    ]
    assert sum(one.verdict in ("faster", "slower") for one in equals) == 0
    assert sum(one.verdict == "slower" for one in finds) >= 9
    assert sum(one.verdict == "slower" for one in blind) <= 3


def test_work_that_tells_nothing_changes_nothing():
    a, b = (on_a_busy_machine(seed, slope=0.0) for seed in (4, 5))
    found = compare_quantile(a, b)
    assert found.machine_change is None
    assert found == compare_quantile(without_the_work(a), without_the_work(b))


def test_a_difference_between_recordings_alone_explains_nothing():
    a = on_a_busy_machine(6, spread=0.0)
    b = on_a_busy_machine(7, spread=0.0, level=0.2, slope=1.0)
    found = compare_quantile(a, b)
    assert found.machine_change is None
    assert found.verdict == "slower"


@pytest.mark.parametrize("share", [0.9, 0.99])
def test_tails_are_compared_as_measured(share):
    a, b = on_a_busy_machine(0), on_a_busy_machine(1, level=0.1)
    assert compare_quantile(a, b, share).machine_change is None


def test_the_work_is_one_number_per_sample():
    with pytest.raises(UsageError, match="one number of milliseconds per sample"):
        Recording(np.full(100, 10.0), speed_ms=np.ones(99))


def test_the_work_is_done_when_it_is_time():
    now = iter([0.0, 0.0, 0.001, 0.01, 0.0511, 0.0512])
    probe = SpeedProbe(lambda: next(now))
    assert probe.due() == pytest.approx(1.0)
    assert probe.due() is None
    assert probe.due() == pytest.approx(0.1)
