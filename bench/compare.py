"""Two benchmarks of one machine, or two bundles of one, cell by cell: what is faster or slower, how surely.

The intervals are `bench.statistics`'; each holds for its own row. Of many rows that are equal, some are
called different: at 99 %, one in a hundred at most, if the noise is no worse than what that module
assumes.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from depthmask.bench.comparable import Change, changed, check_comparable
from depthmask.bench.latency import LatencyResult
from depthmask.bench.paired import compare_rounds
from depthmask.bench.recordings import recordings
from depthmask.bench.result import BenchResult, Cell, runner_name
from depthmask.bench.statistics import (
    CONFIDENCE,
    TOLERANCE,
    Difference,
    Recording,
    Verdict,
    carries,
    compare_quantile,
)
from depthmask.bundle import Precision
from depthmask.errors import CheckFailedError, UsageError
from depthmask.frames import Resolution

Limit = Literal["slower", "p99-slower"]
"""What `check_limits` can hold: the change of the median or that of p99."""

VERDICTS: tuple[Verdict, ...] = ("slower", "faster", "no difference shown", "cannot tell")


class ComparedCell(msgspec.Struct, frozen=True, kw_only=True):
    """One cell that both results have."""

    bundle_a: str
    bundle_b: str
    preset: str
    precision_a: Precision
    precision: Precision
    """b's."""
    height_px: int
    width_px: int
    runtime: str
    device: str
    threads: int | None
    batch: int
    """Frames per call, which is what was timed."""
    verdict: Verdict
    """The median's."""
    p50: Difference
    p99: Difference | None
    """None where the samples of a or b do not carry it."""
    spoilt_by: tuple[str, ...]
    """What else the machine did during a or b, where that was much."""

    @property
    def resolution(self) -> Resolution:
        """What the networks saw."""
        return Resolution(self.height_px, self.width_px)

    @property
    def runner(self) -> str:
        """What ran it."""
        return runner_name(self.runtime, self.device, self.threads, self.batch)

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.bundle_b} {self.precision} {self.resolution} {self.runner}"


class UnmatchedCell(msgspec.Struct, frozen=True, kw_only=True):
    """A cell that could not be compared."""

    cell: str
    reason: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Result b against result a; a change is b / a - 1."""

    schema: Literal[1] = 1
    machine: str
    made_at_a: str
    made_at_b: str
    confidence: float
    tolerance: float
    seed: int
    cells: tuple[ComparedCell, ...]
    unmatched: tuple[UnmatchedCell, ...]
    changed: tuple[Change, ...]

    @property
    def summary(self) -> str:
        """One line."""
        verdicts = [cell.verdict for cell in self.cells]
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS)
        unmatched = f"; {len(self.unmatched)} not compared" if self.unmatched else ""
        return (
            f"{counts}{unmatched} (medians, {100 * self.confidence:g}% intervals,"
            f" tolerance {100 * self.tolerance:g}%)"
        )

    def __repr__(self) -> str:
        return f"Comparison({self.summary})"


def compare(
    a: BenchResult,
    b: BenchResult,
    *,
    confidence: float = CONFIDENCE,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Comparison:
    """Compare every cell of b with the same cell of a.

    Cells are the same if preset, precision, resolution, runtime, device, threads and batch are; where a
    result has several such cells, the bundle's name must be the same too.

    Args:
        a: the result that is compared with.
        b: the one that is faster or slower.
        confidence: of the intervals, 0.5 to 0.999.
        tolerance: the change, as a share of a, that does not matter.
        seed: of the bootstrap.

    Raises:
        UsageError: the results are of different machines or frame sizes, or share no cell; an argument
            is out of range.
    """
    check_comparable(a, b)
    pairs, unmatched = _matched(a, b)
    if not pairs:
        raise UsageError(_nothing_shared(unmatched))
    difference = functools.partial(
        compare_quantile, confidence=confidence, tolerance=tolerance, seed=seed
    )
    cells = [
        _compared(one_a, one_b, difference(one_a.recording, one_b.recording), difference)
        for one_a, one_b in pairs
    ]
    return Comparison(
        machine=b.machine.summary,
        made_at_a=a.made_at,
        made_at_b=b.made_at,
        confidence=confidence,
        tolerance=tolerance,
        seed=seed,
        cells=tuple(cells),
        unmatched=tuple(unmatched),
        changed=changed(a, b),
    )


def compare_side_by_side(
    result: BenchResult,
    *,
    confidence: float = CONFIDENCE,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> Comparison:
    """Compare the other bundles of one result with its first, round by round (`bench.paired`).

    Cells are alike if resolution, runtime, device, threads and batch are; precision and preset may be what
    is compared. The tails are compared as those of two results are.

    Raises:
        UsageError: there is no second bundle, or no cell of it is like one of the first's; an argument
            is out of range.
    """
    first = result.cells[0].bundle if result.cells else "none"
    measured = _measured(result, same_work=True)
    bases = {one.turn: one for one in measured if one.cell.bundle == first}
    others = [one for one in measured if one.cell.bundle != first]
    pairs = [(bases[one.turn], one) for one in others if one.turn in bases]
    if not pairs:
        raise UsageError(
            "a result must hold two bundles with like cells to be compared side by side, but its bundles are"
            f" {', '.join(dict.fromkeys(cell.bundle for cell in result.cells)) or 'none'}. Try"
            " `dmx bench A B --rounds 30`, or a second result"
        )
    tails = functools.partial(
        compare_quantile, confidence=confidence, tolerance=tolerance, seed=seed
    )
    rounds = functools.partial(compare_rounds, confidence=confidence, tolerance=tolerance)
    alone = [(one.cell, f"{first} has no such cell") for one in others if one.turn not in bases]
    failed = [(cell, f"{cell.status}: {cell.problem}") for cell in result.cells if not cell.latency]
    return Comparison(
        machine=result.machine.summary,
        made_at_a=result.made_at,
        made_at_b=result.made_at,
        confidence=confidence,
        tolerance=tolerance,
        seed=seed,
        cells=tuple(_compared(a, b, rounds(a.recording, b.recording), tails) for a, b in pairs),
        unmatched=tuple(
            UnmatchedCell(cell=_label(cell), reason=why) for cell, why in [*alone, *failed]
        ),
        changed=(),
    )


def check_limits(comparison: Comparison, limits: Mapping[Limit, float]) -> None:
    """Refuse a comparison in which a cell is proven to be slower by more than a limit.

    Proven is what the whole interval says; a cell whose interval is not known, or reaches below the
    limit, passes.

    Args:
        comparison: what `compare` found.
        limits: the largest change allowed, as a share of a: 0.03 for 3 %.

    Raises:
        CheckFailedError: with the worst cell of each limit.
    """
    failures = []
    for limit, allowed in limits.items():
        beyond = [
            (difference.lower, cell.label, change_text(difference))
            for cell in comparison.cells
            if (difference := cell.p50 if limit == "slower" else cell.p99) is not None
            and difference.lower is not None
            and difference.lower > allowed
        ]
        if beyond:
            _, worst, change = max(beyond)
            failures.append(
                f"no cell may be {limit} by more than {100 * allowed:g}%, but that is proven of"
                f" {len(beyond)} of {len(comparison.cells)}: {worst}, {change}"
            )
    if failures:
        raise CheckFailedError("; ".join(failures))


def change_text(difference: Difference) -> str:
    """`+5.3% (+4.4% to +6.2%)`."""
    if difference.lower is None or difference.upper is None:
        return f"{difference.change:+.1%}"
    return f"{difference.change:+.1%} ({difference.lower:+.1%} to {difference.upper:+.1%})"


@dataclass(frozen=True)
class _Measured:
    """A cell with numbers."""

    cell: Cell
    latency: LatencyResult
    recording: Recording

    @property
    def key(self) -> tuple[object, ...]:
        """What must be the same for two to be compared."""
        cell = self.cell
        network = (cell.preset, cell.precision, cell.height_px, cell.width_px)
        return (*network, cell.runtime, cell.device, cell.threads, cell.batch)

    @property
    def turn(self) -> tuple[object, ...]:
        """What must be the same for two bundles to be compared."""
        cell = self.cell
        size = (cell.height_px, cell.width_px)
        return (*size, cell.runtime, cell.device, cell.threads, cell.batch)


def _measured(result: BenchResult, same_work: bool) -> list[_Measured]:
    """With the machine's speed only where it was told by the same work in both results."""
    return [
        _Measured(cell, cell.latency, recording if same_work else replace(recording, speed_ms=None))
        for cell, recording in zip(result.cells, recordings(result), strict=True)
        if cell.latency is not None and recording is not None
    ]


def _matched(
    a: BenchResult, b: BenchResult
) -> tuple[list[tuple[_Measured, _Measured]], list[UnmatchedCell]]:
    """Pairs of measured cells in b's order, and everything else with the reason."""
    same_work = a.machine.packages.get("numpy") == b.machine.packages.get("numpy")
    left, right = _measured(a, same_work), _measured(b, same_work)
    counts = [Counter(one.key for one in side) for side in (left, right)]
    pairs, reasons = [], []
    for one in right:
        ambiguous = any(count[one.key] > 1 for count in counts)
        partner = next(
            (
                other
                for other in left
                if other.key == one.key and (not ambiguous or other.cell.bundle == one.cell.bundle)
            ),
            None,
        )
        if partner is None:
            reasons.append((one.cell, "measured only in B"))
        else:
            left.remove(partner)
            pairs.append((partner, one))
    reasons.extend((one.cell, "measured only in A") for one in left)
    reasons.extend(
        (cell, f"{cell.status} in {name}: {cell.problem}")
        for name, result in (("A", a), ("B", b))
        for cell in result.cells
        if not cell.latency
    )
    return pairs, [UnmatchedCell(cell=_label(cell), reason=why) for cell, why in reasons]


def _label(cell: Cell) -> str:
    return f"{cell.bundle} {cell.precision} {cell.resolution} {cell.runner}"


def _nothing_shared(unmatched: list[UnmatchedCell]) -> str:
    found = f"{unmatched[0].cell}: {unmatched[0].reason}" if unmatched else "both are empty"
    return (
        "two results must share a measured cell of the same preset, precision, resolution, runtime,"
        f" device, threads and batch, but these share none: {found}. Try `dmx bench` with the same options"
    )


def _compared(
    a: _Measured, b: _Measured, p50: Difference, difference: Callable[..., Difference]
) -> ComparedCell:
    carried = all(carries(one.recording.samples_ms.size, 0.99) for one in (a, b))
    return ComparedCell(
        bundle_a=a.cell.bundle,
        bundle_b=b.cell.bundle,
        preset=b.cell.preset,
        precision_a=a.cell.precision,
        precision=b.cell.precision,
        height_px=b.cell.height_px,
        width_px=b.cell.width_px,
        runtime=b.cell.runtime,
        device=b.cell.device,
        threads=b.cell.threads,
        batch=b.cell.batch,
        verdict=p50.verdict,
        p50=p50,
        p99=difference(a.recording, b.recording, 0.99) if carried else None,
        spoilt_by=tuple(
            f"{name}: {spoilt}"
            for name, one in (("A", a), ("B", b))
            for spoilt in one.latency.spoilt_by
        ),
    )
