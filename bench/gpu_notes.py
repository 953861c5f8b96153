"""What a benchmark's table says of the cells that ran on a GPU, in lines below it."""

from __future__ import annotations

from collections.abc import Sequence

from depthmask.bench.gpu_conditions import GpuConditions
from depthmask.bench.result import Cell

_COPIES = (("copy_to_device", "in"), ("copy_back", "back"))


def gpu_notes(cells: Sequence[Cell]) -> list[str]:
    """A line for each cell that ran on a GPU; none for others."""
    return [
        f"On the GPU, {cell.label}: {'; '.join(_found(cell))}."
        for cell in cells
        if cell.device == "cuda" and cell.latency is not None
    ]


def _found(cell: Cell) -> list[str]:
    latency = cell.latency
    assert latency is not None
    copies = [
        f"{latency.stage_p50_ms[stage]:.2f} ms {word}"
        for stage, word in _COPIES
        if stage in latency.stage_p50_ms
    ]
    turns = [turn.conditions.gpu for turn in latency.turns if turn.conditions.gpu is not None]
    parts = [f"copies {', '.join(copies)}"] if copies else []
    if cell.peak_device_memory_bytes is not None:
        parts.append(f"{cell.peak_device_memory_bytes / 1e6:.0f} MB of its memory")
    parts.append(_met(turns))
    if latency.enqueue_bound is not None:
        parts.append(latency.enqueue_bound)
    return parts


def _met(turns: Sequence[GpuConditions]) -> str:
    """Clocks, power and heat over all turns."""
    if not turns:
        return "clocks and power were not read, which needs the package nvidia-ml-py"
    clocks_mhz = [mhz for turn in turns for mhz in turn.sm_clock_mhz or ()]
    powers_w = [turn.power_w for turn in turns if turn.power_w is not None]
    heat_c = [turn.temperature_c for turn in turns if turn.temperature_c is not None]
    texts = []
    if clocks_mhz:
        texts.append(f"clock {min(clocks_mhz):.0f} to {max(clocks_mhz):.0f} MHz")
    if powers_w:
        texts.append(f"up to {max(powers_w):.0f} W")
    if heat_c:
        texts.append(f"up to {max(heat_c):.0f} °C")
    return ", ".join(texts) or "it tells neither clocks nor power"
