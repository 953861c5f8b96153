"""A benchmark's report in the format that the file's name asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from depthmask.bench.report import Pictures, report_page
from depthmask.bench.report_csv import report_csv
from depthmask.bench.report_markdown import report_markdown
from depthmask.bench.result import BenchResult
from depthmask.bench.roofline import Roofline
from depthmask.errors import UsageError

SUFFIXES = (".html", ".md", ".csv")


def check_suffix(path: Path) -> None:
    """Refuse a format that there is not.

    Raises:
        UsageError: it is none of `SUFFIXES`.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"a report must end in .html, .md or .csv, but got {path}")


def render_report(
    path: Path,
    result: BenchResult,
    pictures: Pictures | None = None,
    rooflines: Sequence[Roofline] = (),
) -> bytes:
    """The report for a file of this name; only HTML shows pictures and rooflines.

    Raises:
        UsageError: as `check_suffix`.
    """
    check_suffix(path)
    suffix = path.suffix.lower()
    if suffix == ".md":
        text = report_markdown(result)
    elif suffix == ".csv":
        text = report_csv(result)
    else:
        text = report_page(result, pictures, rooflines)
    return text.encode("utf-8")
