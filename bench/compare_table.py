"""A comparison for people: a table for the terminal, and what is to be known beside it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from depthmask.bench.compare import ComparedCell, Comparison, change_text
from depthmask.bench.statistics import Difference, Verdict

_STYLES: dict[Verdict, str] = {"faster": "green", "slower": "red"}
_LEFT_ALIGNED = ("size", "runtime", "verdict")
_HEADINGS = ("size", "runtime", "p50 A, ms", "p50 B, ms", "change", "p99 change", "verdict")


def rich_table(comparison: Comparison) -> RenderableType:
    """For a terminal of 100 columns: a table per bundle, and the notes."""
    bundles = dict.fromkeys(_bundle(cell) for cell in comparison.cells)
    tables = (
        _table(name, [cell for cell in comparison.cells if _bundle(cell) == name])
        for name in bundles
    )
    return Group(*tables, Text(notes(comparison)))


def _table(name: str, cells: Sequence[ComparedCell]) -> Table:
    # As Text: a name in brackets is not a colour.
    table = Table(
        title=Text(name),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading in _HEADINGS:
        table.add_column(
            heading.replace(", ", "\n"),
            justify="left" if heading in _LEFT_ALIGNED else "right",
            no_wrap=heading != "verdict",
            overflow="fold",
        )
    for cell in cells:
        row = [Text(text) for text in _row(cell)]
        row[-1].stylize(_STYLES.get(cell.verdict, ""))
        table.add_row(*row)
    return table


def notes(comparison: Comparison) -> str:
    """What could not be told or compared and why, what changed, and the summary last."""
    lines = [f"Machine: {comparison.machine}."]
    if comparison.changed:
        changes = (f"{one.what} {one.a or '-'} → {one.b or '-'}" for one in comparison.changed)
        lines.append(f"Changed: {', '.join(changes)}.")
    lines.extend(f"{one.cell}: not compared: {one.reason}" for one in comparison.unmatched)
    lines.extend(f"{cell.label}: {cell.p50.remark}" for cell in comparison.cells if cell.p50.remark)
    lines.extend(
        f"{cell.label}: no fair numbers; {'; '.join(cell.spoilt_by)}"
        for cell in comparison.cells
        if cell.spoilt_by
    )
    if any(cell.p50.machine_change is not None for cell in comparison.cells):
        lines.append(
            "Median changes are at equal speed of the machine; a fixed piece of work beside the frames took"
            f" {_machine_changes(comparison)} longer during B."
        )
    if any(cell.verdict == "cannot tell" for cell in comparison.cells):
        lines.append("Longer recordings, of a machine that does nothing else, can tell more.")
    return "\n".join([*lines, comparison.summary])


def _machine_changes(comparison: Comparison) -> str:
    found = [
        cell.p50.machine_change for cell in comparison.cells if cell.p50.machine_change is not None
    ]
    low, high = f"{min(found):+.1%}", f"{max(found):+.1%}"
    return low if low == high else f"{low} to {high}"


def _row(cell: ComparedCell) -> tuple[str, ...]:
    return (
        str(cell.resolution),
        cell.runner,
        f"{cell.p50.a_ms:.2f}",
        f"{cell.p50.b_ms:.2f}",
        _two_lines(cell.p50),
        _two_lines(cell.p99) if cell.p99 else "-",
        cell.verdict,
    )


def _two_lines(difference: Difference) -> str:
    return change_text(difference).replace(" (", "\n(")


def _bundle(cell: ComparedCell) -> str:
    names = dict.fromkeys((cell.bundle_a, cell.bundle_b))
    precisions = dict.fromkeys((cell.precision_a, cell.precision))
    return f"{' → '.join(names)} {' → '.join(precisions)}"
