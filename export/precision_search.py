"""Which sites stay float32 so that an int8 graph holds its budget.

The most sensitive sites are kept, as few as hold it (bisection); then each kept site is tried in int8 after
all. Points on the way, and a few more, are the trade-off between speed and error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from depthmask.errors import CheckFailedError
from depthmask.export.budget import in_words, worst_share

SEARCHED_SHARE = 0.8
"""Of the budget: runtimes round differently."""
_CURVE_EIGHTHS = (0, 1, 2, 4, 8)
_RETRIED_SITES = 8
_SAME_SPEED = 1.03

Losses = Callable[[frozenset[str]], Mapping[str, float]]
"""What is lost when the sites named stay float32."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of sites."""

    kept_fp32: tuple[str, ...]
    int8_sites: int
    int8_mac_share: float
    """Of the multiply-accumulates of all sites."""
    losses: dict[str, float]
    budget_share: float
    """The largest loss as a share of what is allowed."""
    latency_ms: dict[str, float] = {}
    """Median by runtime, on the machine that exported; empty: not timed."""

    @property
    def holds(self) -> bool:
        """Within the budget, with room for runtimes that round differently."""
        return self.budget_share <= SEARCHED_SHARE

    @property
    def best_ms(self) -> float:
        """On the faster runtime."""
        return min(self.latency_ms.values())


def search(
    order: Sequence[str],
    macs: Mapping[str, int],
    losses: Losses,
    budget: Mapping[str, float],
) -> tuple[Point, ...]:
    """All points tried, the fewest int8 sites (all float32) first.

    Args:
        order: every site, the most sensitive first.
        macs: multiply-accumulates by site.
        losses: measures a choice.
        budget: what may be lost, under the same names.
    """
    tried: dict[frozenset[str], Point] = {}

    def holds(kept: frozenset[str]) -> bool:
        if kept not in tried:
            tried[kept] = _point(kept, order, macs, losses(kept), budget)
        return tried[kept].holds

    for eighths in _CURVE_EIGHTHS:
        holds(frozenset(order[: len(order) * eighths // 8]))
    # As many kept do not hold, and hold (if anything does).
    low, high = (-1, 0) if holds(frozenset()) else (0, len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(frozenset(order[:middle])) else (middle, high)
    kept = frozenset(order[:high])
    if 0 < high < len(order):
        for site in order[:high][: -_RETRIED_SITES - 1 : -1]:
            if holds(kept - {site}):
                kept -= {site}
    return tuple(sorted(tried.values(), key=lambda point: point.int8_sites))


def choose(points: Sequence[Point], resolution: object) -> Point:
    """The fastest int8 point that holds; with the most int8 sites where float32 is faster, or none is timed.

    Raises:
        CheckFailedError: none holds; says what comes nearest, and its cost.
    """
    as_fp32, *others = points
    holding = [point for point in others if point.holds]
    if not holding:
        nearest = min(others, key=lambda point: (point.budget_share, max(point.losses.values())))
        raise CheckFailedError(
            f"int8 must lose no more than the budget, but at {resolution} no choice of sites holds"
            f" {SEARCHED_SHARE:.0%} of it. The best reached loses {in_words(nearest.losses)}, with"
            f" {nearest.int8_sites} of {as_fp32_sites(as_fp32)} sites in int8"
            f"{_speed(nearest, as_fp32)}. Try a larger --max-drop, another --calibrator, or --fp16"
        )
    most = max(holding, key=lambda point: point.int8_sites)
    if not all(point.latency_ms for point in (as_fp32, *holding)):
        return most
    fastest_ms = min(point.best_ms for point in holding)
    if fastest_ms >= as_fp32.best_ms:
        return most
    near = [point for point in holding if point.best_ms <= _SAME_SPEED * fastest_ms]
    return max(near, key=lambda point: point.int8_sites)


def as_fp32_sites(as_fp32: Point) -> int:
    """How many sites there are, from the point that keeps them all."""
    return len(as_fp32.kept_fp32)


def _point(
    kept: frozenset[str],
    order: Sequence[str],
    macs: Mapping[str, int],
    losses: Mapping[str, float],
    budget: Mapping[str, float],
) -> Point:
    rounded = [site for site in order if site not in kept]
    return Point(
        kept_fp32=tuple(sorted(kept)),
        int8_sites=len(rounded),
        int8_mac_share=sum(macs[site] for site in rounded) / max(sum(macs.values()), 1),
        losses=dict(losses),
        budget_share=worst_share(losses, budget),
    )


def _speed(point: Point, as_fp32: Point) -> str:
    if not point.latency_ms or not as_fp32.latency_ms:
        return ""
    return f", at {point.best_ms:.1f} ms (fp32 {as_fp32.best_ms:.1f} ms)"
