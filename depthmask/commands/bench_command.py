"""`dmx bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depthmask.commands import options
from depthmask.frames import Resolution

if TYPE_CHECKING:
    from depthmask.bench.result import BenchResult


@click.command()
@click.argument("bundles", nargs=-1, type=options.PathType(), metavar="[BUNDLE]...")
@options.resolutions_option
@click.option(
    "--runtime",
    "--runtimes",
    "runtimes",
    type=options.NameList(),
    help="onnxruntime, openvino or torch; by default the first two, where installed.",
)
@options.device_option
@options.threads_option
@options.data_option
@click.option("--limit", type=click.IntRange(min=1), help="Images for accuracy; by default all.")
@click.option(
    "--frame-size",
    type=options.ResolutionList(),
    help="Stretch the timed frames, to 480x640 for a camera's; by default they stay as they are.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, max=3600),
    default=2.0,
    show_default=True,
    help="Time every cell for at least this long.",
)
@click.option(
    "--min-runs",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="And for at least so many frames; p99 is given from 100 on.",
)
@options.out_option("Write the result, with every sample and the machine, as JSON.")
@click.option("--plot", type=options.PathType(), help="Draw latency and accuracy as PNG.")
@options.overwrite_option
@options.json_option
def command(
    bundles: tuple[Path, ...],
    resolutions: tuple[Resolution, ...] | None,
    runtimes: tuple[str, ...] | None,
    device: str,
    threads: int | None,
    data: Path | None,
    limit: int | None,
    frame_size: tuple[Resolution, ...] | None,
    seconds: float,
    min_runs: int,
    out: Path | None,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure latency and accuracy per resolution and runtime, on this machine.

    Without a BUNDLE the shipped `lite` is measured, at every resolution that it holds. The cells take
    turns, so that a machine that grows hot does so for all of them. Where a cell fails its row says
    why, the others go on, and the exit code is 1 (4 if only a package or device is missing).

    \b
    Example: dmx bench b/ --resolutions 64,128,224 --runtimes onnxruntime,openvino \\
                 --data DATA --out bench.json --plot bench.png
    """
    import msgspec

    from depthmask.bench.plot import plot_png, require_matplotlib
    from depthmask.bench.result import check_complete, write_result
    from depthmask.bench.table import rich_table
    from depthmask.bundle import open_bundle
    from depthmask.errors import UsageError
    from depthmask.output_files import check_output, write_output
    from depthmask.samples import open_samples

    if out is not None and plot is not None and out.absolute() == plot.absolute():
        raise UsageError(f"--out and --plot must be two files, but both are {out}")
    if frame_size is not None and len(frame_size) != 1:
        raise UsageError(f"--frame-size must be one size, but got {len(frame_size)}")
    for path in (out, plot):
        if path is not None:
            check_output(path, overwrite=overwrite)
    if plot is not None:
        require_matplotlib()

    opened = [open_bundle(path) for path in bundles or (None,)]
    samples = open_samples(data)
    result = _run_with_progress(
        opened,
        samples=samples,
        resolutions=resolutions,
        runtimes=runtimes,
        device=device,
        threads=threads,
        seconds=seconds,
        min_runs=min_runs,
        limit=limit,
        frame_size=frame_size[0] if frame_size else None,
    )
    if out is not None:
        write_result(result, out)
    if plot is not None:
        write_output(plot, plot_png(result))
    if as_json:
        options.print_json(msgspec.to_builtins(result))
    else:
        options.console.print(rich_table(result))
    check_complete(result)


def _run_with_progress(*arguments: Any, **settings: Any) -> BenchResult:  # noqa: ANN401
    """`run_grid` with its progress on stderr."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from depthmask.bench.grid import run_grid

    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    quiet = not options.messages.is_terminal
    with Progress(*columns, console=options.messages, transient=True, disable=quiet) as bar:
        task = bar.add_task("starting", total=None)

        def report(doing: str, done: int, total: int) -> None:
            bar.update(task, description=doing, completed=done, total=total)

        return run_grid(*arguments, **settings, progress=report)
