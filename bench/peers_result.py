"""What a comparison with peers found, and its tables for people."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from depthmask.bench.latency import LatencyResult
from depthmask.bench.machine import Machine
from depthmask.bench.result import Status
from depthmask.bench.statistics import CONFIDENCE
from depthmask.frames import Resolution

_SHOWN_OF_A_PROBLEM = 300


class PeerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One peer at one resolution; numbers only where every step went well."""

    peer: str
    settings: str
    ours: bool
    height_px: int
    width_px: int
    status: Status = "ok"
    problem: str | None = None
    ready_ms: float | None = None
    """From the PyTorch chain to the first answer: conversion, compilation, opening; ours is opened only."""
    difference: float | None = None
    """The largest to PyTorch eager, as a share of the range of the mask or of the depth."""
    p50_ms: float | None = None
    p50_interval_ms: tuple[float, float] | None = None
    times_ours: float | None = None
    """Its median over that of our fastest runtime at this resolution."""
    times_ours_interval: tuple[float, float] | None = None
    """None of that runtime itself, and where the samples allow no interval."""
    elapsed_s: float | None = None
    """What all rounds of this resolution took, of all peers."""
    latency: LatencyResult | None = None
    """None of a tool that times itself."""
    own_medians_ms: tuple[float, ...] = ()
    """Of such a tool: one for each round."""

    @property
    def resolution(self) -> Resolution:
        """Of the networks."""
        return Resolution(self.height_px, self.width_px)


class PeersResult(msgspec.Struct, frozen=True, kw_only=True):
    """Every peer at every resolution, of one run."""

    schema: Literal[1] = 1
    made_at: str
    machine: Machine
    package_versions: dict[str, str]
    """Of the peers that `machine` does not name."""
    preset: str
    weights: dict[str, Any]
    threads: int
    seconds_per_peer: float
    rounds: int
    seed: int
    rows: tuple[PeerRow, ...]


def rich_peers(result: PeersResult) -> RenderableType:
    """For a terminal."""
    first, *others = _lines(result)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, heading in enumerate(first):
        table.add_column(heading, justify="right" if index else "left")
    for line in others:
        table.add_row(*map(Text, line))
    return Group(table, Text("\n".join(_notes(result))))


def markdown_peers(result: PeersResult) -> str:
    """For a README."""
    first, *others = _lines(result)
    rules = ["---", *["---:"] * (len(first) - 1)]
    lines = ["| " + " | ".join(line) + " |" for line in (first, rules, *others)]
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(result))]) + "\n"


def _lines(result: PeersResult) -> list[list[str]]:
    """The table as text, headings first; one line for each peer."""
    sizes = sorted({row.resolution for row in result.rows})
    lines = [["", *(f"{size}: ms (times ours)" for size in sizes), "differs"]]
    for peer in dict.fromkeys(row.peer for row in result.rows):
        rows = {row.resolution: row for row in result.rows if row.peer == peer}
        found = [row.difference for row in rows.values() if row.difference is not None]
        entries = [_entry(rows[size]) for size in sizes]
        lines.append([peer, *entries, f"{max(found):.0e}" if found else "-"])
    return lines


def _entry(row: PeerRow) -> str:
    if row.p50_ms is None:
        return row.status
    ratio = "-" if row.times_ours is None else f"{row.times_ours:.2f}"
    if row.times_ours_interval is not None:
        ratio += "; {:.2f} to {:.2f}".format(*row.times_ours_interval)
    return f"{row.p50_ms:.2f} ({ratio})"


def _notes(result: PeersResult) -> list[str]:
    packages = {**result.machine.packages, **result.package_versions}
    settings = {row.peer: row.settings for row in result.rows}
    notes = [
        f"Machine: {result.machine.summary}; load {result.machine.load_1min} at the start.",
        f"{result.preset}, float32, {result.threads} threads, one image after the other; medians of"
        f" {result.seconds_per_peer:g} s in {result.rounds} rounds of all in random order. In brackets:"
        f" over the fastest runtime of ours, with its {100 * CONFIDENCE:g}% interval.",
        "Differs: the largest difference to PyTorch eager as a share of the range.",
        "Packages: " + ", ".join(f"{name} {version}" for name, version in packages.items()) + ".",
        f"Settings: {'; '.join(f'{peer}: {text}' for peer, text in settings.items())}.",
    ]
    largest = max((row.resolution for row in result.rows), default=None)
    ready = [
        f"{row.peer} {row.ready_ms / 1000:.1f} s"
        for row in result.rows
        if row.ready_ms is not None and row.resolution == largest and not row.ours
    ]
    if ready:
        notes.append(
            f"From the PyTorch chain to the first answer, at {largest}: {', '.join(ready)}."
        )
    spoilt = [row for row in result.rows if row.latency and row.latency.spoilt_by]
    if spoilt and spoilt[0].latency:
        notes.append(
            f"No fair numbers in {len(spoilt)} of {len(result.rows)} cells; {spoilt[0].peer} at"
            f" {spoilt[0].resolution}: {'; '.join(spoilt[0].latency.spoilt_by)}."
        )
    unsteady = [row for row in result.rows if row.latency and not row.latency.stable]
    if unsteady:
        named = "; ".join(f"{row.peer} at {row.resolution}" for row in unsteady)
        notes.append(f"Not steady after the warm-up: {named}.")
    notes += [
        f"{row.peer} at {row.resolution} {row.status}: {(row.problem or '')[:_SHOWN_OF_A_PROBLEM]}"
        for row in result.rows
        if row.status != "ok"
    ]
    return notes
