"""A benchmark's result for people: a table for the terminal, and one in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from depthmask.bench.gpu_notes import gpu_notes
from depthmask.bench.result import BenchResult, Cell

HEADINGS = (
    "bundle",
    "size",
    "runtime",
    "p50 ms",
    "pre ms",
    "infer ms",
    "post ms",
    "p90 ms",
    "p99 ms",
    "fps",
    "MB",
    "mask IoU",
    "depth δ1",
    "differs",
)
_ONLY_WHERE_WIDE = ("p99 ms", "fps")
_LEFT_ALIGNED = 3


def rich_table(result: BenchResult) -> RenderableType:
    """For a terminal of 100 columns; a single bundle stands above the table, not in every row."""
    bundles = {cells_of(cell)[0] for cell in result.cells}
    first = 1 if len(bundles) == 1 else 0
    title = Text(bundles.pop()) if first else None
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    for index, heading in enumerate(compact(HEADINGS)[first:], first):
        left = index < _LEFT_ALIGNED
        table.add_column(
            heading.replace(" ", "\n"),
            justify="left" if left else "right",
            no_wrap=index not in (0, 2),  # a name may take two lines, a number not
            overflow="fold",
        )
    for cell in result.cells:
        # As Text: a name in brackets is not a colour.
        table.add_row(*map(Text, compact(cells_of(cell))[first:]))
    return Group(table, Text(notes(result)))


def compact(row: Sequence[str]) -> tuple[str, ...]:
    """A row of `HEADINGS` or of `cells_of` without what only a wide page has room for."""
    pairs = zip(HEADINGS, row, strict=True)
    return tuple(text for heading, text in pairs if heading not in _ONLY_WHERE_WIDE)


def markdown_table(result: BenchResult) -> str:
    """For a report or an issue."""
    rules = ("---",) * _LEFT_ALIGNED + ("---:",) * (len(HEADINGS) - _LEFT_ALIGNED)
    rows = (HEADINGS, rules, *(cells_of(cell) for cell in result.cells))
    lines = ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
    return "\n".join([*lines, "", *notes(result).splitlines()]) + "\n"


def cells_of(cell: Cell) -> tuple[str, ...]:
    """One row, as text, under `HEADINGS`; what was not measured is a dash."""
    mask = cell.accuracy.mask if cell.accuracy else None
    latency = cell.latency
    stages = latency.stage_p50_ms if latency else {}
    return (
        f"{cell.bundle} {cell.precision}",
        str(cell.resolution),
        cell.runner,
        _number(latency.p50_ms if latency else None, 2),
        *(_number(stages.get(stage), 2) for stage in ("preprocess", "inference", "postprocess")),
        _number(latency.p90_ms if latency else None, 2),
        _number(latency.p99_ms if latency else None, 2),
        _number(latency.throughput_frames_per_s if latency else None, 1),
        "-" if cell.peak_memory_bytes is None else f"{cell.peak_memory_bytes / 1e6:.0f}",
        _number(mask.iou if mask else None, 3),
        _number(cell.depth.median_scaled.delta1 if cell.depth else None, 3),
        _difference(cell),
    )


def notes(result: BenchResult) -> str:
    """Where and on what the numbers were measured, and every problem, one line each."""
    sizes = ", ".join(result.frame_sizes)
    lines = [
        f"Machine: {result.machine.summary}; load {result.machine.load_1min} at the start.",
        f"Data: {result.data}, frames of {sizes}. {_accuracy_note(result)}",
    ]
    if any(cell.latency for cell in result.cells):
        lines.append(
            "pre, infer, post: medians of the parts; a graph that takes whole frames prepares them in"
            " infer. MB: the most memory of a process that does nothing else, libraries included."
        )
    if any(cell.agreement for cell in result.cells):
        lines.append(
            "Differs: the largest difference to the fp32 PyTorch chain, of the mask or, as a share of"
            " the largest, of the depth."
        )
    spoilt = [cell for cell in result.cells if cell.latency and cell.latency.spoilt_by]
    if spoilt and spoilt[0].latency:
        lines.append(
            f"No fair numbers in {len(spoilt)} of {len(result.cells)} cells; {spoilt[0].label}:"
            f" {'; '.join(spoilt[0].latency.spoilt_by)}."
        )
    lines.extend(gpu_notes(result.cells))
    unsteady = [cell.label for cell in result.cells if cell.latency and not cell.latency.stable]
    if unsteady:
        lines.append(f"Not steady after the warm-up: {'; '.join(unsteady)}.")
    if not result.complete:
        lines.append(
            f"INTERRUPTED after {result.rounds_done} of {result.rounds} rounds; the same command goes on."
        )
    lines.extend(f"{cell.label} {cell.status}: {cell.problem}" for cell in result.problems)
    return "\n".join(lines)


def _accuracy_note(result: BenchResult) -> str:
    measured = [cell.accuracy for cell in result.cells if cell.accuracy]
    if not measured:
        return "Accuracy was not measured."
    region = {
        "inside the mask" if cell.kind == "foreground" else "whole frame" for cell in result.cells
    }
    return (
        f"Accuracy over {measured[0].count} images; depth {' or '.join(sorted(region))},"
        " median-scaled."
    )


def _difference(cell: Cell) -> str:
    agreement = cell.agreement
    if agreement is None:
        return "-"
    mask, depth = agreement.mask_max_abs, agreement.depth_max_rel
    return f"{max(mask, depth):.0e}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
