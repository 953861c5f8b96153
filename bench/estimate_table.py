"""Estimates for people; nothing of them looks like a measurement."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from depthmask.bench.estimate import Estimate
from depthmask.frames import Resolution


def rich_estimates(estimates: Sequence[Estimate]) -> RenderableType:
    """A table for each graph, then what the columns mean and where the peaks are from."""
    graphs: dict[str, list[Estimate]] = defaultdict(list)
    for one in estimates:
        graphs[f"{one.bundle} {one.precision} at {one.resolution}"].append(one)
    tables = [_table(graph, found) for graph, found in graphs.items()]
    return Group(*tables, Text("\n".join(notes(estimates))))


def _table(graph: str, estimates: Sequence[Estimate]) -> Table:
    table = Table(
        "GPU",
        "arithmetic alone",
        "roofline",
        "bound by memory",
        box=SIMPLE_HEAD,
        title=f"{graph}: ESTIMATED from data sheets, not measured",
        title_justify="left",
    )
    for one in estimates:
        table.add_row(
            one.gpu.name,
            f"> {_ms(one.least_ms)}",
            f"~ {_ms(one.roofline_ms)}",
            f"{1 - one.compute_bound_share:.0%}",
        )
    return table


def notes(estimates: Sequence[Estimate]) -> list[str]:
    """What a reader must know to judge the figures, and the sources."""
    sizes = {Resolution(one.frame_height_px, one.frame_width_px): None for one in estimates}
    gpus = {one.gpu.name: one.gpu for one in estimates}
    lines = [
        "ms for one frame of "
        + " or ".join(map(str, sizes))
        + " that is in the GPU's memory. Arithmetic alone: no run is faster at these peaks. Roofline: the sum"
        " of the layers, each at its peak or its bytes at full bandwidth; caches may spare some of it.",
        "Copies, starting kernels and what no kernel reaches are not in it, and can be most of a small"
        " network's time.",
    ]
    lines += [
        f"{gpu.name}: {gpu.product} ({gpu.architecture}), {gpu.fp32_tflop_per_s:g} fp32 and"
        f" {gpu.fp16_tflop_per_s:g} fp16 TFLOP/s, {gpu.int8_top_per_s:g} int8 TOP/s, all dense,"
        f" {gpu.memory_gb_per_s:g} GB/s; {gpu.source}"
        for gpu in gpus.values()
    ]
    return lines


def _ms(value: float) -> str:
    """Two significant figures; more would claim too much."""
    return f"{float(f'{value:.2g}'):g} ms"
