"""The files that `dmx bench` writes: checked before the measuring, and kept when that is interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depthmask.bench.plot import plot_png, require_matplotlib
from depthmask.bench.report_formats import SUFFIXES, check_suffix, render_report
from depthmask.bench.result import BenchResult, read_result, write_result
from depthmask.commands import options
from depthmask.errors import InputError, UnavailableError, UsageError
from depthmask.output_files import check_output, write_output

if TYPE_CHECKING:
    from depthmask.bench.data import Data
    from depthmask.bench.report import Pictures
    from depthmask.bench.roofline import Roofline
    from depthmask.bundle import Bundle


@dataclass(frozen=True)
class BenchOutputs:
    """Where to write the result, the plot and the reports."""

    out: Path | None
    plot: Path | None
    reports: tuple[Path, ...]

    def check(self, *, overwrite: bool) -> BenchResult | None:
        """Look whether all can be written; gives the unfinished result that is to be gone on with.

        A report that the interrupted benchmark left may be replaced, as its result may.

        Raises:
            UsageError: a file exists, is named twice, or a report's format is not known.
            OutputError: a folder is missing or cannot be written.
            UnavailableError: there is no package to draw the plot with.
        """
        for path in self.reports:
            check_suffix(path)
        written = [path for path in (self.out, self.plot, *self.reports) if path is not None]
        if len({path.absolute() for path in written}) < len(written):
            raise UsageError(
                "--out, --plot and every --report must be different files, but got"
                f" {', '.join(map(str, written))}"
            )
        earlier = _unfinished(self.out) if self.out is not None and not overwrite else None
        for path in written:
            check_output(path, overwrite=overwrite or _is_of(path, self.out, earlier))
        if self.plot is not None:
            require_matplotlib()
        return earlier

    def write(self, result: BenchResult, bundles: list[Bundle], data: Data) -> None:
        """Write them all.

        Raises:
            OutputError: one cannot be written.
        """
        if self.out is not None:
            write_result(result, self.out)
        if self.plot is not None:
            write_output(self.plot, plot_png(result))
        pictures, rooflines = (
            _shown(result, bundles, data)
            if any(path.suffix.lower() == SUFFIXES[0] for path in self.reports)
            else ({}, [])
        )
        for path in self.reports:
            write_output(path, render_report(path, result, pictures, rooflines))

    def keep(self, result: BenchResult) -> None:
        """Write what there is of an interrupted benchmark, with nothing that takes long, and say so.

        Raises:
            OutputError: a file cannot be written.
        """
        if self.out is not None:
            write_result(result, self.out)
        for path in self.reports:
            write_output(path, render_report(path, result))
        kept = [str(path) for path in (self.out, *self.reports) if path is not None]
        if kept:
            options.messages.print(f"kept as partial: {', '.join(kept)}", markup=False)


def _shown(
    result: BenchResult, bundles: list[Bundle], data: Data
) -> tuple[Pictures, list[Roofline]]:
    """Pictures and rooflines; a device without the package onnx has no rooflines, and is told so."""
    from depthmask.bench.report_parts import report_pictures, report_rooflines

    with options.messages.status("drawing") as status:
        pictures = report_pictures(result, bundles, data, status.update)
        try:
            return pictures, report_rooflines(result, bundles, status.update)
        except UnavailableError as error:
            options.messages.print(f"The report has no roofline: {error}", markup=False)
            return pictures, []


def _unfinished(out: Path) -> BenchResult | None:
    """What an interrupted benchmark left; None where there is none, or it is finished or no result."""
    try:
        found = read_result(out)
    except InputError:
        return None
    return None if found.complete else found


def _is_of(path: Path, out: Path | None, earlier: BenchResult | None) -> bool:
    """Whether a file is the unfinished result itself, or exactly the report that was kept with it."""
    if earlier is None:
        return False
    if path == out:
        return True
    try:
        return path.suffix.lower() in SUFFIXES and path.read_bytes() == render_report(path, earlier)
    except OSError:
        return False
