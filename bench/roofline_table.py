"""A roofline for people: the peaks, the work, what was reached, and the slowest nodes as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from depthmask.frames import Resolution

if TYPE_CHECKING:
    from depthmask.bench.peaks import Rate
    from depthmask.bench.roofline import Roofline

TOP_NODES = 10
_BUSY_BELOW = 0.8


def rich_roofline(found: Roofline) -> RenderableType:
    """For a terminal of 100 columns."""
    return Group(
        Text("\n".join(summary(found))),
        _stage_table(found),
        _node_table(found),
        Text("\n".join(notes(found))),
    )


def summary(found: Roofline) -> list[str]:
    """What was measured, the peaks, the work and what was reached, one line each."""
    peaks, work, reached = found.peaks, found.work, found.reached
    threads = "threads of its own choice" if found.threads is None else f"threads {found.threads}"
    frame = Resolution(found.frame_height_px, found.frame_width_px)
    rates = [
        ("fp32", "GFLOP/s", peaks.fp32_flop_per_s),
        ("int8", "GOP/s", peaks.int8_op_per_s),
        ("memory", "GB/s", peaks.memory_bytes_per_s),
    ]
    return [
        f"{found.bundle} {found.precision} at {Resolution(found.height_px, found.width_px)},"
        f" frames of {frame}, {found.runtime}, {threads}",
        f"Machine: {found.machine.summary}; load {found.machine.load_1min} at the start.",
        *(f"Peak {name}: {_rate(rate, unit)}" for name, unit, rate in rates),
        f"Work: {work.gflop:.3f} GFLOP and {work.moved_bytes / 1e6:.1f} MB a frame,"
        f" {work.intensity_flop_per_byte:.1f} FLOP per byte",
        f"Inference: {found.inference_p50_ms:.2f} ms, {reached.achieved_gflop_per_s:.1f} GFLOP/s:"
        f" {reached.share:.0%} of the {reached.attainable_gflop_per_s:.1f} GFLOP/s that are attainable"
        f" (bound by {reached.bound})",
    ]


def notes(found: Roofline) -> list[str]:
    """What a reader must know to judge the figures, one line each."""
    times = found.node_times
    lines = [
        f"Nodes: medians of {times.runs} profiled runs, together {times.sum_ms:.2f} ms of"
        f" {times.run_median_ms:.2f} ms a run; names are of the modules in the chain."
    ]
    if found.reached.share > 1:
        lines.append("Above 100 %: caches kept what the roofline counts as coming from memory.")
    if found.spoilt_by:
        lines.append(f"No fair time of inference: {'; '.join(found.spoilt_by)}.")
    rates = (found.peaks.fp32_flop_per_s, found.peaks.memory_bytes_per_s)
    if any(rate.median < _BUSY_BELOW * rate.best for rate in rates):
        lines.append(
            "The repeats of a peak differ by more than a fifth: the machine was busy, and the peaks may be"
            " too low. Is something else running?"
        )
    return lines


def _stage_table(found: Roofline) -> Table:
    table = _table("stage", "ms", "share", "GFLOP/s")
    for stage in found.node_times.stages:
        rate = _number(stage.gflop_per_s, 1)
        table.add_row(stage.stage, f"{stage.sum_ms:.3f}", f"{stage.share:.1%}", rate)
    return table


def _node_table(found: Roofline) -> Table:
    table = _table("slowest nodes", "operator", "ms", "share", "GMAC", "GFLOP/s")
    for node in found.node_times.nodes[:TOP_NODES]:
        table.add_row(
            Text(node.site),  # as Text: a name in brackets is not a colour
            Text(node.op_type),
            f"{node.median_ms:.3f}",
            f"{node.share:.1%}",
            _number(node.gmac, 4),
            _number(node.gflop_per_s, 1),
        )
    return table


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings:
        left = heading in ("stage", "slowest nodes", "operator")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    return table


def _rate(rate: Rate | None, unit: str) -> str:
    if rate is None:
        return "not measured; it needs the packages onnx and onnxruntime"
    return (
        f"{rate.best / 1e9:.1f} {unit}, the best of {rate.repeats} (median {rate.median / 1e9:.1f});"
        f" {rate.how}"
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
