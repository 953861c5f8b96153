"""A benchmark as Markdown, for an issue or a repository."""

from __future__ import annotations

import re
from collections.abc import Iterable

from depthmask.bench.report_tables import report_tables
from depthmask.bench.result import BenchResult
from depthmask.bench.table import LEFT_ALIGNED, TextTable, notes, problems


def report_markdown(result: BenchResult) -> str:
    """The machine, all tables, what spoilt the run, and every cell that failed with its reason."""
    failed = problems(result)
    blocks = [f"# depthmask benchmark, {result.made_at}"]
    blocks.append(_list(line for line in notes(result).splitlines() if line not in failed))
    if failed:
        blocks += ["## Cells without numbers", _list(failed)]
    blocks += [part for table in report_tables(result) for part in _table(table)]
    machine = result.machine
    versions = [f"{name} {version}" for name, version in machine.packages.items()]
    blocks += [
        "## Machine and versions",
        _list([machine.summary, f"Python {machine.python}", *versions]),
    ]
    return "\n\n".join(blocks) + "\n"


def _table(table: TextTable) -> list[str]:
    names = min(LEFT_ALIGNED, len(table.headings))
    rules = ("---",) * names + ("---:",) * (len(table.headings) - names)
    rows = (
        tuple(map(_text, table.headings)),
        rules,
        *(tuple(map(_text, row)) for row in table.rows),
    )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    blocks = [f"## {table.heading}", "\n".join(lines)]
    return [*blocks, _text(table.note)] if table.note else blocks


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_text(line)}" for line in lines)


def _text(text: str) -> str:
    """On one line, with nothing in it that Markdown would take as markup."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))
