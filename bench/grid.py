"""Bundles x resolutions x runtimes x threads x batches, measured side by side.

Every cell is opened, checked for accuracy and warmed up; then the cells take turns in rounds, in an
order drawn anew for each round, so that a machine that grows hot or busy does so for all of them alike.
A cell that fails becomes a row that says why, and the others go on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

import numpy as np
from msgspec import structs

from depthmask.bench.cells import (
    MemoryMeter,
    Opener,
    Preloading,
    Request,
    all_cells,
    open_pipeline,
    peak_memory,
)
from depthmask.bench.comparable import check_comparable
from depthmask.bench.data import Data, timed_frames
from depthmask.bench.machine import this_machine
from depthmask.bench.result import BenchResult
from depthmask.bench.row import Judged, Row
from depthmask.bundle import Bundle, Precision
from depthmask.errors import UsageError
from depthmask.frames import Resolution

_ORDER = 1  # a stream of random numbers

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and the steps in all."""
Observer = Callable[[BenchResult], None]
"""Called with what has been found so far, after every round."""


def run_grid(
    bundles: Sequence[Bundle],
    *,
    samples: Data,
    resolutions: Sequence[Resolution] | None = None,
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[Precision] | None = None,
    device: str = "auto",
    threads: Sequence[int | None] = (None,),
    batches: Sequence[int] = (1,),
    seconds: float = 2.0,
    budget_seconds: float | None = None,
    min_runs: int = 30,
    rounds: int = 5,
    max_warmup_seconds: float = 5.0,
    limit: int | None = None,
    frame_size: Resolution | None = None,
    arrivals_per_s: Sequence[float] = (),
    seed: int = 0,
    earlier: BenchResult | None = None,
    progress: Progress = lambda doing, done, total: None,
    observe: Observer = lambda result: None,
    open_cell: Opener | None = None,
    measure_memory: MemoryMeter | None = None,
) -> BenchResult:
    """Measure every bundle at every resolution on every runtime.

    Args:
        bundles: opened bundles, 1 or more.
        samples: the frames; accuracy is measured where they are labelled, flicker of a video.
        resolutions: each must be in every bundle; by default all that a bundle holds.
        runtimes: by default those of onnxruntime and openvino that are installed.
        precisions: measure the bundles in these only.
        device: `auto`, `cpu` or `cuda`, for every cell.
        threads: for inference; None is the runtime's choice.
        batches: frames per call.
        seconds: time samples for at least this long per cell.
        budget_seconds: share what is left of this, once all is warm, among the cells instead; the
            fewest runs are made in any case.
        min_runs: and take at least so many.
        rounds: in how many turns.
        max_warmup_seconds: warm a cell up until it is steady, but no longer than this.
        limit: images for accuracy; by default all. A video has its own.
        frame_size: stretch the timed frames to this; by default they are as in the data set.
        arrivals_per_s: after the rounds, let frames arrive at each of these rates (`open_loop`), for
            as long as the rounds of a cell took.
        seed: of the order of turns.
        earlier: an unfinished result of the same benchmark, to go on with.
        progress: told of every step.
        observe: told of every round's result.
        open_cell: how a cell is opened; `cells.open_pipeline` unless a test brings its own.
        measure_memory: how its memory is measured; by default in a short process of its own.

    Raises:
        UsageError: an unknown runtime, a resolution that a bundle lacks, a setting out of range, or
            `earlier` is of another benchmark.
        UnavailableError: no runtime was named and none is installed.
        InputError: a frame or a label cannot be read.
    """
    started = time.perf_counter()
    _check_settings(seconds, budget_seconds, min_runs, rounds, limit)
    _check_arrivals(arrivals_per_s, batches)
    requests = all_cells(
        bundles,
        resolutions=resolutions,
        runtimes=runtimes,
        precisions=precisions,
        device=device,
        threads=threads,
        batches=batches,
    )
    frames, decode_p50_ms = timed_frames(samples, frame_size)
    nothing = BenchResult(
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=this_machine(),
        data=samples.name,
        frame_sizes=tuple(sorted({f"{frame.shape[0]}x{frame.shape[1]}" for frame in frames})),
        decode_p50_ms=decode_p50_ms,
        seconds_per_cell=seconds,
        rounds=rounds,
        rounds_done=0,
        seed=seed,
        arrivals_per_s=tuple(arrivals_per_s),
        cells=(),
    )
    if earlier is not None:
        _check_same(earlier, nothing, requests)
    begun = earlier or nothing
    known = begun.cells or (None,) * len(requests)
    rows = [Row(request, cell) for request, cell in zip(requests, known, strict=True)]
    left_rounds = range(begun.rounds_done, rounds)
    todo = _Todo(progress, len(rows) * (4 + len(left_rounds) + len(arrivals_per_s)))
    judged: Judged = {}
    opener, memory_meter = (
        Preloading(open_cell or open_pipeline),
        measure_memory or peak_memory,
    )
    with ExitStack() as stack:
        for row in rows:
            todo.step("opening", row, lambda row: row.open(opener, frames, stack))
            todo.step("accuracy of", row, lambda row: row.check(judged, samples, limit))
            todo.step("memory of", row, lambda row: row.weigh(memory_meter))
        for row in rows:
            todo.step("warming up", row, lambda row: row.warm_up(max_warmup_seconds))
        if budget_seconds is not None:
            left_seconds = max(0.0, budget_seconds - (time.perf_counter() - started))
            shares = len(left_rounds) / rounds + len(arrivals_per_s)
            seconds = left_seconds / (len(rows) * max(shares, 1 / rounds))
        begun = structs.replace(begun, seconds_per_cell=seconds)
        for number in left_rounds:
            for index in turn_order(seed, number, len(rows)):
                todo.step(
                    f"round {number + 1} of {rounds}:",
                    rows[index],
                    lambda row: row.sample(seconds / rounds, -(-min_runs // rounds)),
                )
            observe(_after(begun, rows, number + 1))
        for rate in arrivals_per_s:
            for row in rows:
                todo.step(
                    f"{rate:g} frames a second:",
                    row,
                    partial(Row.load, arrivals_per_s=rate, seconds=max(seconds, min_runs / rate)),
                )
                observe(_after(begun, rows, rounds))
        todo.finish()
        return _after(begun, rows, rounds)


def turn_order(seed: int, round_number: int, count: int) -> list[int]:
    """In which order so many rows take their turns in a round."""
    order: list[int] = (
        np.random.default_rng([seed, round_number, _ORDER]).permutation(count).tolist()
    )
    return order


class _Todo:
    """Takes the steps of rows that are still well, and tells of each."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def step(self, doing: str, row: Row, take: Callable[[Row], None]) -> None:
        """Take one."""
        if row.status == "ok":
            self._progress(f"{doing} {row.request.label}", self._done, self._total)
            row.attempt(take)
        self._done += 1

    def finish(self) -> None:
        """Say that all is done."""
        self._progress("done", self._total, self._total)


def _after(begun: BenchResult, rows: Sequence[Row], rounds_done: int) -> BenchResult:
    return structs.replace(begun, rounds_done=rounds_done, cells=tuple(row.cell() for row in rows))


def _check_same(earlier: BenchResult, now: BenchResult, requests: Sequence[Request]) -> None:
    """Samples of other cells, frames or machines must not be mixed."""
    check_comparable(earlier, now)
    expected = [Row(request).cell().identity for request in requests]
    for what, then, wanted in (
        ("data", earlier.data, now.data),
        ("rounds", earlier.rounds, now.rounds),
        ("seed", earlier.seed, now.seed),
        ("arrivals per second", earlier.arrivals_per_s, now.arrivals_per_s),
        ("cells", [cell.identity for cell in earlier.cells], expected),
    ):
        if then != wanted:
            raise UsageError(
                f"an unfinished benchmark must be gone on with as it was begun, but its {what}"
                f" differ: {then}, now {wanted}. Try another --out, or --overwrite"
            )


def _check_arrivals(arrivals_per_s: Sequence[float], batches: Sequence[int]) -> None:
    for rate in arrivals_per_s:
        if not 0 < rate < math.inf:
            raise UsageError(f"arrivals per second must be above 0, but got {rate}")
    if arrivals_per_s and set(batches) != {1}:
        raise UsageError(
            "frames that arrive one by one must be measured with a batch of 1, but got batches of"
            f" {', '.join(map(str, batches))}"
        )


def _check_settings(
    seconds: float, budget_seconds: float | None, min_runs: int, rounds: int, limit: int | None
) -> None:
    settings = {"min_runs": min_runs, "rounds": rounds, "limit": 1 if limit is None else limit}
    for name, value in settings.items():
        if value < 1:
            raise UsageError(f"{name} must be 1 or more, but got {value}")
    for name, time_s in (("seconds", seconds), ("budget_seconds", budget_seconds or 0.0)):
        if not 0 <= time_s < math.inf:
            raise UsageError(f"{name} must be 0 or more, but got {time_s}")
