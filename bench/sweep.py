"""The most accurate way to run a chain within a latency target, by successive halving.

Every candidate (resolution, precision, runtime, threads) is judged on the data once. Then all are timed
for a short while, the better half for twice as long, and so on (Karnin, Koren, Somekh, ICML 2013;
Jamieson, Talwalkar, AISTATS 2016): time goes where the decision is close. What ranks high is timed last
until its percentile is carried by the samples, the most accurate first; the first one that meets the
target is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal

import msgspec
import numpy as np

from depthmask.bench.cells import Opener, Preloading, Request, open_pipeline
from depthmask.bench.data import timed_frames
from depthmask.bench.machine import Machine, this_machine
from depthmask.bench.result import Cell
from depthmask.bench.row import Judged, Row
from depthmask.bench.statistics import SAMPLES_BEYOND
from depthmask.errors import InputError, UsageError
from depthmask.samples import Samples

_FIRST_RUNS = 20
_FIRST_SECONDS = 0.25
_FEW = 3
"""So many are left when halving ends."""
_TURNS = 3
_ORDER = 2  # a stream of random numbers

Outcome = Literal[
    "chosen", "misses the target", "less accurate", "not timed to the end", "failed", "unavailable"
]
Tell = Callable[[str], None]


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the chain, and how it fared."""

    cell: Cell
    outcome: Outcome
    score: float | None
    """Mean of the mask's IoU and the depth's delta1 (those that the data have labels for)."""
    latency_ms: float | None
    """At the percentile asked for, of the samples taken; few, where it was out of the race early."""


class SweepResult(msgspec.Struct, frozen=True, kw_only=True):
    """All candidates, the most accurate first."""

    schema: Literal[1] = 1
    machine: Machine
    data: str
    target_ms: float
    share: float
    """The percentile that must meet the target, as a share: 0.99."""
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate | None:
        """None where nothing meets the target."""
        return next((one for one in self.candidates if one.outcome == "chosen"), None)

    def __repr__(self) -> str:
        chosen = self.chosen.cell.label if self.chosen else "none"
        return f"SweepResult({len(self.candidates)} candidates, chosen: {chosen})"


def sweep(
    requests: Sequence[Request],
    samples: Samples,
    target_ms: float,
    *,
    share: float = 0.99,
    limit: int | None = None,
    max_warmup_seconds: float = 2.0,
    seed: int = 0,
    tell: Tell = lambda doing: None,
    open_cell: Opener = open_pipeline,
) -> SweepResult:
    """Find the most accurate of `requests` whose latency percentile is within the target.

    Args:
        requests: the candidates.
        samples: labelled; the frames that are timed are of them, too.
        target_ms: of one call, as `bench.latency` times it.
        share: the percentile, 0.5 to 0.999.
        limit: images for accuracy; by default all.
        max_warmup_seconds: per candidate.
        seed: of the order in which candidates take turns.
        tell: told of every step.
        open_cell: how a candidate is opened.

    Raises:
        UsageError: the target or the percentile is out of range.
        InputError: the data have no labels, or a sample cannot be read.
    """
    if not 0 < target_ms < math.inf or not 0.5 <= share <= 0.999:
        raise UsageError(
            f"a target must be above 0 ms at a percentile from 50 to 99.9, but got {target_ms:g} ms at"
            f" {100 * share:g}"
        )
    if not samples.labelled:
        raise InputError(
            f"{samples.name} must have labels to find what is most accurate, but it has none. Try"
            " --data with a set by `dmx data compose`"
        )
    frames, _ = timed_frames(samples)
    machine = this_machine()
    judged: Judged = {}
    opener = Preloading(open_cell)
    with ExitStack() as stack:
        race = _Race([Row(request) for request in requests], target_ms, share, seed)
        for row in race.rows:
            tell(f"judging {row.request.label}")
            row.attempt(lambda row: row.open(opener, frames, stack))
            if row.status == "ok":
                row.attempt(lambda row: row.check(judged, samples, limit))
            if row.status == "ok":
                row.attempt(lambda row: row.warm_up(max_warmup_seconds))
        race.halve(tell)
        chosen = race.confirm(tell)
        candidates = sorted(
            (race.candidate(row, chosen) for row in race.rows),
            key=lambda one: -math.inf if one.score is None else -one.score,
        )
        candidates.sort(key=lambda one: one.score is None)
    return SweepResult(
        machine=machine,
        data=samples.name,
        target_ms=target_ms,
        share=share,
        candidates=tuple(candidates),
    )


class _Race:
    """Who is still in it, and on what standing."""

    def __init__(self, rows: Sequence[Row], target_ms: float, share: float, seed: int) -> None:
        self.rows = rows
        self._target_ms = target_ms
        self._share = share
        self._rng = np.random.default_rng([seed, _ORDER])
        self._timed_to_the_end: set[int] = set()

    def halve(self, tell: Tell) -> None:
        """Time all for a short while, the better half for twice as long, until few are left."""
        alive = [row for row in self.rows if row.status == "ok"]
        seconds, runs = _FIRST_SECONDS, _FIRST_RUNS
        while alive:
            tell(f"timing {len(alive)} of {len(self.rows)} candidates for {seconds:g} s each")
            self._time(alive, seconds, runs)
            alive = [row for row in alive if row.status == "ok" and not self._is_beyond(row)]
            if len(alive) <= _FEW:
                break
            alive = sorted(alive, key=self._standing, reverse=True)[: -(-len(alive) // 2)]
            seconds, runs = 2 * seconds, 2 * runs

    def confirm(self, tell: Tell) -> Row | None:
        """Time the most accurate ones, one after the other, until one is sure to meet the target."""
        enough = math.ceil(SAMPLES_BEYOND / (1 - self._share))
        left = [row for row in self.rows if row.status == "ok" and not self._is_beyond(row)]
        for row in sorted(left, key=_score, reverse=True):
            tell(f"confirming {row.request.label}")
            self._timed_to_the_end.add(id(row))
            self._time([row] * _TURNS, 0, -(-enough // _TURNS))
            if row.status == "ok" and self._latency_ms(row) <= self._target_ms:
                return row
        return None

    def candidate(self, row: Row, chosen: Row | None) -> Candidate:
        """What became of a row."""
        if row.status != "ok":
            return Candidate(cell=row.cell(), outcome=row.status, score=None, latency_ms=None)
        latency_ms = self._latency_ms(row)
        outcome: Outcome = "not timed to the end"
        if row is chosen:
            outcome = "chosen"
        elif id(row) in self._timed_to_the_end or self._is_beyond(row):
            outcome = "misses the target"
        elif chosen is not None and _score(row) <= _score(chosen):
            outcome = "less accurate"
        return Candidate(cell=row.cell(), outcome=outcome, score=_score(row), latency_ms=latency_ms)

    def _time(self, rows: Sequence[Row], seconds: float, runs: int) -> None:
        for index in self._rng.permutation(len(rows)):
            if rows[index].status == "ok":
                rows[index].attempt(lambda row: row.sample(seconds, runs))

    def _standing(self, row: Row) -> tuple[bool, float]:
        """Those within the target by their accuracy, then the others by how little they miss it."""
        latency_ms = self._latency_ms(row)
        within = latency_ms <= self._target_ms
        return within, _score(row) if within else -latency_ms

    def _is_beyond(self, row: Row) -> bool:
        """Whether it cannot meet the target: half of its calls took longer."""
        return bool(np.median(_samples_ms(row)) > self._target_ms)

    def _latency_ms(self, row: Row) -> float:
        return float(np.quantile(_samples_ms(row), self._share))


def _samples_ms(row: Row) -> tuple[float, ...]:
    latency = row.cell().latency
    assert latency is not None
    return latency.samples_ms


def _score(row: Row) -> float:
    cell = row.cell()
    found = []
    if cell.accuracy is not None and cell.accuracy.mask is not None:
        found.append(cell.accuracy.mask.iou)
    if cell.depth is not None:
        found.append(cell.depth.median_scaled.delta1)
    return float(np.mean(found)) if found else 0.0
