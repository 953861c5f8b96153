"""Bundles that took turns in one run: what the machine did to one, it did to the other.

Between two recordings that were made one after the other stands what the machine did meanwhile. Cells of
one `dmx bench` take their turns in rounds, in an order drawn anew for each, so each round is a pair of
medians a second or so apart: a randomised block (Fisher 1935, "The design of experiments"). The change is
the mean of the pairs' logarithmic ratios, its interval Student's. Levels that stay shifted for longer than
a round cancel; thirty rounds of a second find 5 % where two recordings of 30 s do not.
"""

from __future__ import annotations

import math

import numpy as np

from depthmask.bench.statistics import (
    CONFIDENCE,
    TOLERANCE,
    Difference,
    Recording,
    Verdict,
    check_levels,
    judge,
    student_quantile,
)

FEWEST_ROUNDS = 5


def compare_rounds(
    a: Recording,
    b: Recording,
    *,
    confidence: float = CONFIDENCE,
    tolerance: float = TOLERANCE,
) -> Difference:
    """Compare the medians of two recordings whose rounds were taken in turns.

    The verdicts are `compare_quantile`'s.

    Args:
        a: the recording that is compared with.
        b: the one that is faster or slower; its rounds are a's. Rounds that only one of them has are
            left out.
        confidence: of the interval, 0.5 to 0.999.
        tolerance: the change, as a share of a, that does not matter.

    Raises:
        UsageError: an argument is out of range.
    """
    check_levels(confidence, tolerance)
    a_ms, b_ms = a.round_medians_ms(), b.round_medians_ms()
    rounds = min(a_ms.size, b_ms.size)
    ratios = np.log(b_ms[:rounds] / a_ms[:rounds])
    change = math.expm1(float(ratios.mean()))
    lower = upper = remark = None
    verdict: Verdict = "cannot tell"
    if rounds < FEWEST_ROUNDS:
        remark = f"{rounds} rounds, where {FEWEST_ROUNDS} are needed. Try dmx bench --rounds 30"
    else:
        error = float(ratios.std(ddof=1)) / math.sqrt(rounds)
        reach = student_quantile((1 + confidence) / 2, rounds - 1) * error
        lower, upper = ((1 + change) * math.exp(end) - 1 for end in (-reach, reach))
        verdict = judge(change, lower, upper, tolerance)
    return Difference(
        share=0.5,
        a_ms=float(np.median(a.samples_ms)),
        b_ms=float(np.median(b.samples_ms)),
        change=change,
        lower=lower,
        upper=upper,
        verdict=verdict,
        remark=remark,
    )
