"""`dmx bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from depthmask.commands import bench_estimate, compare_options, options, sweep_options
from depthmask.frames import Resolution

if TYPE_CHECKING:
    from depthmask.bench.compare import Limit
    from depthmask.bench.result import BenchResult
    from depthmask.bundle import Precision


@click.command()
@click.argument("bundles", nargs=-1, type=options.PathType(), metavar="[BUNDLE]...")
@options.resolutions_option
@click.option(
    "--runtime",
    "--runtimes",
    "runtimes",
    type=options.NAMES,
    help="onnxruntime, onnxruntime-tensorrt, openvino, tensorrt, tensorrt-rtx or torch; by default"
    " onnxruntime and openvino, where installed.",
)
@click.option(
    "--precision",
    "--precisions",
    "precisions",
    type=options.NAMES,
    help="Measure the bundles in these only: fp32, fp16, bf16, int8.",
)
@options.device_option
@click.option(
    "--threads",
    type=options.COUNTS,
    help="CPU threads for inference, one or several; by default the runtime's choice.",
)
@click.option(
    "--batch",
    "--batches",
    "batches",
    type=options.COUNTS,
    default=(1,),
    help="Frames per call, one or several; more than 1 needs `dmx export --dynamic-batch`.",
)
@click.option(
    "--data",
    type=options.PathType(),
    help="A data set folder or a video file; by default the shipped samples.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Images for accuracy, by default all; frames of a video, by default 300.",
)
@click.option(
    "--frame-size",
    type=options.RESOLUTIONS,
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
    "--arrivals-per-s",
    type=options.RATES,
    help="After that, let frames arrive at these rates as a camera's do, each for as long again, and"
    " measure from when a frame was due.",
)
@click.option(
    "--min-runs",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="And for at least so many calls; p90 is given from 100 on, p99 from 1000.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1, max=1000),
    default=5,
    show_default=True,
    help="In how many turns; 30 or more, to compare bundles side by side (`dmx compare`).",
)
@click.option(
    "--budget-seconds",
    type=click.FloatRange(min=0, max=86_400),
    help="Take about so long in all, instead of --seconds for every cell.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, help="Of the order in which cells take turns."
)
@options.out_option(
    "Write the result, with every sample and the machine, as JSON. An interrupted one is gone on with."
)
@click.option("--plot", type=options.PathType(), help="Draw latency and accuracy as PNG.")
@click.option(
    "--report",
    "reports",
    type=options.PathType(),
    multiple=True,
    help="Write .html (one file with charts, pictures, the roofline and the raw result), .md or .csv (a"
    " row per cell); may be given several times.",
)
@click.option(
    "--estimate",
    "estimated",
    type=options.NAMES,
    help="Measure nothing: say what these GPUs would take at least, by their data sheets (orin-nano,"
    " orin-nx, orin-agx, t4, l4, rtx4060, rtx4090, a100, h100 ..., or all).",
)
@click.option(
    "--against", type=options.PathType(), help="Compare with this result, as `dmx compare` does."
)
@compare_options.fail_if_option
@sweep_options.sweep_options
@options.overwrite_option
@options.json_option
def command(
    bundles: tuple[Path, ...],
    resolutions: tuple[Resolution, ...] | None,
    runtimes: tuple[str, ...] | None,
    precisions: tuple[Precision, ...] | None,
    device: str,
    threads: tuple[int, ...] | None,
    batches: tuple[int, ...],
    data: Path | None,
    limit: int | None,
    frame_size: tuple[Resolution, ...] | None,
    seconds: float,
    arrivals_per_s: tuple[float, ...] | None,
    min_runs: int,
    rounds: int,
    budget_seconds: float | None,
    seed: int,
    out: Path | None,
    plot: Path | None,
    reports: tuple[Path, ...],
    estimated: tuple[str, ...] | None,
    against: Path | None,
    fail_if: tuple[tuple[Limit, float], ...],
    sweep: bool,
    target_ms: float | None,
    percentile: float,
    preset: str | None,
    checkpoint: Path | None,
    export: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure latency and accuracy per resolution and runtime, on this machine.

    Without a BUNDLE the shipped `lite` is measured, at every resolution that it holds. The cells take
    turns in a random order, so that a machine that grows hot does so for all of them. Where a cell
    fails its row says why, the others go on, and the exit code is 1 (4 if only a package or device is
    missing). Ctrl-C keeps what was measured in --out, and the same command goes on from there. Without
    labels there is latency only, and of a video, how much its masks and depths flicker.

    \b
    Example:
      dmx bench b/ --resolutions 64,128,224 --runtimes onnxruntime,openvino \\
          --data DATA --out bench.json --report bench.html --report bench.csv
      dmx bench b/ --data clip.mp4 --arrivals-per-s 10,25,30 --report bench.md
      dmx bench fp32/ fp16/ --threads 1,2 --budget-seconds 120
      dmx bench fp32/ int8/ --seconds 30 --rounds 30 --out both.json; dmx compare both.json
      dmx bench b/ --seconds 10 --against before.json --fail-if slower=3%
      dmx bench --sweep --target-ms 16 --data DATA --export fastest/
      dmx bench fp16/ int8/ --estimate orin-nano,l4
    """
    if frame_size is not None and len(frame_size) != 1:
        raise click.UsageError(f"--frame-size must be one size, but got {len(frame_size)}")
    if estimated:
        if out or plot or reports or against or sweep or data:
            raise click.UsageError(
                "--estimate must come without --out, --plot, --report, --against, --sweep and --data: it"
                " measures nothing. --json prints every layer."
            )
        bench_estimate.run_estimate(
            bundles, estimated, resolutions, precisions, frame_size, as_json=as_json
        )
        return
    if sweep:
        if out or plot or reports or against:
            raise click.UsageError(
                "--sweep must come without --out, --plot, --report and --against: it writes a bundle to"
                " --export, and --json prints what it measured."
            )
        sweep_options.run_sweep(
            bundles,
            target_ms,
            export,
            preset=preset,
            checkpoint=checkpoint,
            data=data,
            resolutions=resolutions,
            precisions=precisions,
            runtimes=runtimes,
            device=device,
            threads=threads,
            share=percentile / 100,
            limit=limit,
            seed=seed,
            overwrite=overwrite,
            as_json=as_json,
        )
        return

    from depthmask.bench import compare_table
    from depthmask.bench.compare import check_limits, compare
    from depthmask.bench.data import open_data
    from depthmask.bench.grid import run_grid
    from depthmask.bench.result import check_complete, read_result
    from depthmask.bundle import open_bundle
    from depthmask.commands.bench_outputs import BenchOutputs
    from depthmask.errors import UsageError

    if fail_if and against is None:
        raise UsageError("--fail-if must come with --against, but got it alone")
    outputs = BenchOutputs(out, plot, reports)
    earlier = outputs.check(overwrite=overwrite)
    base = None if against is None else read_result(against)

    opened = [open_bundle(path) for path in bundles or (None,)]
    measured_on = open_data(data, limit)
    shown = _Shown()
    try:
        with shown:
            result = run_grid(
                opened,
                samples=measured_on,
                resolutions=resolutions,
                runtimes=runtimes,
                precisions=precisions,
                device=device,
                threads=threads or (None,),
                batches=batches,
                seconds=seconds,
                rounds=rounds,
                budget_seconds=budget_seconds,
                min_runs=min_runs,
                limit=limit,
                frame_size=frame_size[0] if frame_size else None,
                arrivals_per_s=arrivals_per_s or (),
                seed=seed,
                earlier=earlier,
                progress=shown.progress,
                observe=shown.observe,
            )
    except KeyboardInterrupt:
        if shown.result is not None:
            outputs.keep(shown.result)
            _print(shown.result, as_json=as_json)
        raise
    outputs.write(result, opened, measured_on)
    _print(result, as_json=as_json)
    check_complete(result)
    if base is not None:
        comparison = compare(base, result)
        shown_on = options.messages if as_json else options.console
        shown_on.print(compare_table.rich_table(comparison))
        check_limits(comparison, dict(fail_if))


def _print(result: BenchResult, *, as_json: bool) -> None:
    import msgspec

    from depthmask.bench.table import rich_table

    if as_json:
        options.print_json(msgspec.to_builtins(result))
    else:
        options.console.print(rich_table(result))


class _Shown:
    """A table that grows with every round, and a bar under it: on stderr, and only on a terminal."""

    def __init__(self) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.result: BenchResult | None = None
        self._bar = Progress(BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        self._task = self._bar.add_task("starting", total=None)
        self._live = Live(self._bar, console=options.messages, transient=True)

    def __enter__(self) -> None:
        if options.messages.is_terminal:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def progress(self, doing: str, done: int, total: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, description=doing, completed=done, total=total)

    def observe(self, result: BenchResult) -> None:
        """Show the table as it is after a round."""
        from rich.console import Group

        from depthmask.bench.table import rich_table

        self.result = result
        self._live.update(Group(rich_table(result), self._bar))
