"""A benchmark's result for people: its tables as texts, and how a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from depthmask.bench.gpu_notes import gpu_notes
from depthmask.bench.open_loop import OpenLoopResult
from depthmask.bench.recordings import Intervals, percentile_intervals
from depthmask.bench.result import BenchResult, Cell
from depthmask.bench.statistics import Interval

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
    "mask flicker",
    "depth flicker",
    "differs",
)
LEFT_ALIGNED = 3
"""In every table the first columns are names."""
_ONLY_WHERE_WIDE = ("p99 ms", "fps")
_ONLY_WHERE_KNOWN = ("mask IoU", "depth δ1", "mask flicker", "depth flicker")
_NONE = "-"
_EMPTY = (_NONE, "0.00")


@dataclass(frozen=True)
class TextTable:
    """A table of texts under a heading; the first three columns are names, the others numbers."""

    heading: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def without(self, left_out: Sequence[str], where_empty: Sequence[str] = ()) -> TextTable:
        """The table without some columns, and without others where no row has a value in them."""
        kept = [
            index
            for index, heading in enumerate(self.headings)
            if heading not in left_out
            and (heading not in where_empty or any(row[index] not in _EMPTY for row in self.rows))
        ]
        rows = tuple(tuple(row[index] for index in kept) for row in self.rows)
        headings = tuple(self.headings[index] for index in kept)
        return TextTable(self.heading, headings, rows, self.note)


def cell_table(result: BenchResult) -> TextTable:
    """All cells, with 99 % intervals of the percentiles where there are any."""
    intervals = percentile_intervals(result)
    rows = tuple(map(cells_of, result.cells, intervals))
    note = "In brackets: 99 % intervals, by a block bootstrap over each cell's calls."
    found = TextTable("All cells", HEADINGS, rows, note if any(intervals) else "")
    return found.without((), _ONLY_WHERE_KNOWN)


def load_table(result: BenchResult) -> TextTable | None:
    """Latency under load, a row for each cell and rate; None where none was measured."""
    headings = (
        "bundle",
        "size",
        "runtime",
        "frames/s",
        "sustained",
        *_LOAD_MS,
        "done",
        "spoilt by",
    )
    rows = tuple(
        (*cells_of(cell)[:LEFT_ALIGNED], *_load_of(one))
        for cell in result.cells
        for one in cell.load
    )
    if not rows:
        return None
    note = (
        "Latency from when a frame was due, at a fixed rate, to its result: a frame that waits behind"
        " another one counts its waiting. Where a rate is not sustained the queue grows, and all times"
        " with it: they have no percentiles."
    )
    return TextTable("Under load", headings, rows, note).without((), ("spoilt by",))


_LOAD_MS = ("p50 ms", "p90 ms", "p99 ms", "longest ms")


def _load_of(one: OpenLoopResult) -> tuple[str, ...]:
    percentiles = (one.p50_ms, one.p90_ms, one.p99_ms) if one.sustained else (None, None, None)
    return (
        f"{one.arrivals_per_s:g}",
        "yes" if one.sustained else "no",
        *(_number(ms, 2) for ms in (*percentiles, one.longest_ms)),
        f"{one.done} of {one.offered}",
        "; ".join(one.spoilt_by) or _NONE,
    )


def rich_table(result: BenchResult) -> RenderableType:
    """For a terminal of 100 columns; a single bundle stands above the tables, not in every row."""
    rows = tuple(map(cells_of, result.cells))
    found = TextTable("", HEADINGS, rows).without(_ONLY_WHERE_WIDE, ("pre ms", *_ONLY_WHERE_KNOWN))
    load = load_table(result)
    tables = [found] if load is None else [found, load.without(("spoilt by",))]
    bundles = {row[0] for row in rows}
    title = bundles.pop() if len(bundles) == 1 else None
    shown = [
        _rich(table if title is None else table.without(("bundle",)), title) for table in tables
    ]
    return Group(*shown, Text(notes(result)))


def _rich(texts: TextTable, title: str | None) -> Table:
    words = [text for text in (title, texts.heading.lower()) if text]
    table = Table(
        # As Text: a name in brackets is not a colour.
        title=Text(", ".join(words)) if words else None,
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    names = ("bundle", "size", "runtime")
    for heading in texts.headings:
        table.add_column(
            heading.replace(" ", "\n"),
            justify="left" if heading in names else "right",
            no_wrap=heading not in ("bundle", "runtime"),  # a name may take two lines, a number not
            overflow="fold",
        )
    for row in texts.rows:
        table.add_row(*map(Text, row))
    return table


def cells_of(cell: Cell, intervals: Intervals | None = None) -> tuple[str, ...]:
    """One row, as text, under `HEADINGS`; what was not measured is a dash."""
    between = intervals or {}
    mask = cell.accuracy.mask if cell.accuracy else None
    latency = cell.latency
    stages = latency.stage_p50_ms if latency else {}
    return (
        f"{cell.bundle} {cell.precision}",
        str(cell.resolution),
        cell.runner,
        _percentile(latency.p50_ms if latency else None, between.get(0.5)),
        *(_number(stages.get(stage), 2) for stage in ("preprocess", "inference", "postprocess")),
        _percentile(latency.p90_ms if latency else None, between.get(0.9)),
        _percentile(latency.p99_ms if latency else None, between.get(0.99)),
        _number(latency.throughput_frames_per_s if latency else None, 1),
        _NONE if cell.peak_memory_bytes is None else f"{cell.peak_memory_bytes / 1e6:.0f}",
        _number(mask.iou if mask else None, 3),
        _number(cell.depth.median_scaled.delta1 if cell.depth else None, 3),
        _number(cell.flicker.mask if cell.flicker else None, 4),
        _number(cell.flicker.depth(cell.kind) if cell.flicker else None, 4),
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
        missing = "" if result.rounds_done < result.rounds else ", but not all rates of arrivals"
        lines.append(
            f"INTERRUPTED after {result.rounds_done} of {result.rounds} rounds{missing}: a partial"
            " result. Where --out keeps it, the same command goes on."
        )
    lines.extend(problems(result))
    return "\n".join(lines)


def problems(result: BenchResult) -> list[str]:
    """Every cell without numbers, with the reason."""
    return [f"{cell.label} {cell.status}: {cell.problem}" for cell in result.problems]


def _accuracy_note(result: BenchResult) -> str:
    flickers = [cell.flicker for cell in result.cells if cell.flicker]
    if flickers:
        left_out = flickers[0].pairs_left_out
        return (
            f"Flicker along the motion over {flickers[0].pairs} pairs of frames"
            f"{f' ({left_out} left out)' if left_out else ''}, as shares; depth {_regions(result)}. A video"
            " has no labels: accuracy was not measured."
        )
    measured = [cell.accuracy for cell in result.cells if cell.accuracy]
    if not measured:
        no_labels = ": the data has no labels" if len(result.problems) < len(result.cells) else ""
        return f"Accuracy was not measured{no_labels}."
    regions = _regions(result)
    depth = (
        f"depth {regions}, median-scaled"
        if any(cell.depth for cell in result.cells)
        else (f"no valid depth to judge ({regions})")
    )
    return f"Accuracy over {measured[0].count} images; {depth}."


def _regions(result: BenchResult) -> str:
    """Where the depths of these kinds of chain are judged."""
    found = {
        "inside the mask" if cell.kind == "foreground" else "whole frame" for cell in result.cells
    }
    return " or ".join(sorted(found))


def _difference(cell: Cell) -> str:
    agreement = cell.agreement
    if agreement is None:
        return _NONE
    mask, depth = agreement.mask_max_abs, agreement.depth_max_rel
    return f"{max(mask, depth):.0e}"


def _percentile(ms: float | None, interval: Interval | None) -> str:
    text = _number(ms, 2)
    return text if interval is None else f"{text} ({interval.lower:.2f} to {interval.upper:.2f})"


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"
