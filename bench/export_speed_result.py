"""What exports gain over plain ones, and its tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from depthmask.bench.export_cost import ExportCost, Peak
from depthmask.bench.machine import Machine
from depthmask.bench.peers_result import PeerRow
from depthmask.bench.statistics import CONFIDENCE
from depthmask.bundle import Precision
from depthmask.frames import Resolution

PLAIN = {
    "onnxruntime": "torch.onnx on ONNX Runtime",
    "openvino": "torch.onnx on OpenVINO",
}
OURS = {"onnxruntime": "depthmask, ONNX Runtime", "openvino": "depthmask, OpenVINO"}
EAGER = "PyTorch channels-last"
NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """One way of running a chain against ours."""

    against: str
    ours: str
    times: float
    """The other's median over ours."""
    interval: tuple[float, float] | None


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Peak memory of running one runtime."""

    runtime: str
    as_exported: Peak
    ours: Peak


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One chain at one resolution and precision; what is not measured yet is None or empty."""

    chain: str
    height_px: int
    width_px: int
    precision: Precision
    tuned: bool
    export: ExportCost | None = None
    gmac: float | None = None
    """Of our graph."""
    rows: tuple[PeerRow, ...] = ()
    gains: tuple[Gain, ...] = ()
    running: tuple[Running, ...] = ()

    @property
    def resolution(self) -> Resolution:
        """Of the networks."""
        return Resolution(self.height_px, self.width_px)

    @property
    def key(self) -> tuple[str, Resolution, str, bool]:
        """What tells it from the others of a result."""
        return self.chain, self.resolution, self.precision, self.tuned

    @property
    def difference(self) -> float | None:
        """The largest of ours to PyTorch, as a share of the range."""
        ours = [row.difference for row in self.rows if row.ours and row.difference is not None]
        return max(ours, default=None)


class ExportSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """All cells of one machine."""

    schema: Literal[1] = 1
    made_at: str
    machine: Machine
    threads: int
    seconds_per_peer: float
    rounds: int
    cells: tuple[Cell, ...] = ()


def markdown(result: ExportSpeed) -> str:
    """Speed, then cost, then how it was measured."""
    speed = [
        [
            "chain",
            "px",
            *(f"{name}: plain, ours (ms)" for name in NAMES.values()),
            *(f"gain, {name}" for name in NAMES.values()),
            "eager channels-last (ms), gain",
            "differs",
        ],
        *(_speed(cell) for cell in result.cells if cell.rows),
    ]
    cost = [
        [
            "chain",
            "px",
            "export (s)",
            "export, MB above imports (allowed)",
            *(f"running {name}: plain, ours (MB)" for name in NAMES.values()),
        ],
        *(_cost(cell) for cell in result.cells if cell.export or cell.running),
    ]
    return "\n".join([*_table(speed), "", *_table(cost), "", *_notes(result)]) + "\n"


def _table(lines: Sequence[Sequence[str]]) -> list[str]:
    first, *others = lines
    rules = ["---", *["---:"] * (len(first) - 1)]
    return ["| " + " | ".join(line) + " |" for line in (first, rules, *others)]


def _speed(cell: Cell) -> list[str]:
    medians = {row.peer: row.p50_ms for row in cell.rows}
    gains = {gain.against: gain for gain in cell.gains}
    difference = cell.difference
    return [
        _name(cell),
        str(cell.resolution),
        *(f"{_ms(medians.get(PLAIN[r]))}, {_ms(medians.get(OURS[r]))}" for r in NAMES),
        *(_times(gains.get(PLAIN[r])) for r in NAMES),
        f"{_ms(medians.get(EAGER))}, {_times(gains.get(EAGER))}",
        "-" if difference is None else f"{difference:.0e}",
    ]


def _cost(cell: Cell) -> list[str]:
    seconds, memory = "-", "-"
    if cell.export:
        seconds = f"{cell.export.seconds:.0f}"
        memory = f"{_mb(cell.export.memory.above_imports_bytes)} ({_mb(cell.export.allowed_bytes)})"
    running = {one.runtime: one for one in cell.running}
    both = [
        f"{_mb(running[r].as_exported.peak_bytes)}, {_mb(running[r].ours.peak_bytes)}"
        if r in running
        else "-"
        for r in NAMES
    ]
    return [_name(cell), str(cell.resolution), seconds, memory, *both]


def _name(cell: Cell) -> str:
    precision = "" if cell.precision == "fp32" else f" {cell.precision}"
    return f"{cell.chain}{precision}{' tuned' if cell.tuned else ''}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _times(gain: Gain | None) -> str:
    if gain is None:
        return "-"
    interval = "" if gain.interval is None else " [{:.2f}, {:.2f}]".format(*gain.interval)
    return f"{gain.times:.2f}x{interval}"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f}"


def _notes(result: ExportSpeed) -> list[str]:
    spoilt = [
        f"{row.peer}, {_name(cell)} at {cell.resolution}: {'; '.join(row.latency.spoilt_by)}"
        for cell in result.cells
        for row in cell.rows
        if row.latency and row.latency.spoilt_by
    ]
    failed = [
        f"{row.peer}, {_name(cell)} at {cell.resolution}: {row.problem}"
        for cell in result.cells
        for row in cell.rows
        if row.status != "ok"
    ]
    packages = ", ".join(f"{name} {version}" for name, version in result.machine.packages.items())
    return [
        f"- Machine: {result.machine.summary}. Packages: {packages}.",
        f"- {result.threads} threads, one image after the other, all in turns in random order: medians of"
        f" {result.seconds_per_peer:g} s in {result.rounds} rounds. In brackets: the {100 * CONFIDENCE:g}%"
        " interval of the ratio. Eager is set against the faster of ours.",
        "- Plain: `torch.onnx.export(dynamo=True)` and the runtime's defaults, OpenVINO in float32; of ONNX"
        " files: joined, not rewritten. Differs: ours to PyTorch, the largest as a share of the range.",
        "- Export: with verification, from the start of the process to its end. Running: the whole process at"
        " its largest.",
        *(f"- No fair number: {text}." for text in spoilt),
        *(f"- Not measured: {text}." for text in failed),
    ]
