"""Two that took turns: what the machine did to both of them cancels."""

from __future__ import annotations

import numpy as np
import pytest

from depthmask.bench.paired import FEWEST_ROUNDS, compare_rounds
from depthmask.bench.statistics import Recording, compare_quantile
from depthmask.errors import UsageError


def taken_in_turns(factor, rounds=30, runs=50, spread=0.05, seed=0):
    """The level of each round is shifted for both; b takes `factor` times as long."""
    generator = np.random.default_rng(seed)
    levels = np.repeat(spread * np.cumsum(generator.standard_normal(rounds)), runs)
    number = np.repeat(np.arange(rounds), runs)
    return [
        Recording(
            10 * times * np.exp(levels + 0.05 * generator.standard_normal(levels.size)),
            number,
            elapsed_s=2.0 * rounds,
        )
        for times in (1, factor)
    ]


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1.05, "slower"), (0.95, "faster"), (1.0, "no difference shown"), (1.02, "cannot tell")],
)
def test_a_few_percent_are_told_though_the_level_wanders(factor, verdict):
    a, b = taken_in_turns(factor)
    found = compare_rounds(a, b)
    assert found.verdict == verdict
    assert found.change == pytest.approx(factor - 1, abs=0.01)
    assert found.lower < factor - 1 < found.upper
    assert compare_quantile(a, b).verdict == "cannot tell"


def test_intervals_hold_the_true_change_as_often_as_they_say():
    within = 0
    for seed in range(200):
        found = compare_rounds(*taken_in_turns(1.1, rounds=6, runs=9, seed=seed), confidence=0.9)
        within += found.lower < 0.1 < found.upper
    assert 170 <= within <= 190


def test_rounds_that_only_one_has_are_left_out():
    a, b = taken_in_turns(1.05, rounds=10)
    rounds = b.rounds < 7
    part = Recording(b.samples_ms[rounds], b.rounds[rounds])
    a_rounds = a.rounds < 7
    whole = compare_rounds(Recording(a.samples_ms[a_rounds], a.rounds[a_rounds]), part)
    found = compare_rounds(a, part)
    assert (found.change, found.lower, found.upper) == (whole.change, whole.lower, whole.upper)


def test_few_rounds_tell_nothing():
    found = compare_rounds(*taken_in_turns(2, rounds=FEWEST_ROUNDS - 1))
    assert (found.verdict, found.lower, found.upper) == ("cannot tell", None, None)
    assert found.remark == "4 rounds, where 5 are needed. Try dmx bench --rounds 30"


@pytest.mark.parametrize("arguments", [{"confidence": 1}, {"tolerance": 1}, {"tolerance": -0.1}])
def test_unusable_arguments_are_refused(arguments):
    with pytest.raises(UsageError, match="must be 0"):
        compare_rounds(*taken_in_turns(1), **arguments)
