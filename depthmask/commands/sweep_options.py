"""`dmx bench --sweep`: its options, and what it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from depthmask.commands import options

if TYPE_CHECKING:
    from depthmask.bench.sweep import SweepResult
    from depthmask.bundle import Bundle


sweep_options = options.together(
    click.option(
        "--sweep",
        is_flag=True,
        help="Find the most accurate resolution, precision, runtime and number of threads that"
        " meet --target-ms, and export it to --export.",
    ),
    click.option(
        "--target-ms",
        type=click.FloatRange(min=0, min_open=True),
        help="What a call may take.",
    ),
    click.option(
        "--percentile",
        type=click.FloatRange(50, 99.9),
        default=99.0,
        show_default=True,
        help="So many per cent of the calls must.",
    ),
    options.preset_option,
    options.checkpoint_option,
    click.option("--export", type=options.PathType(), help="The folder of the chosen bundle."),
)
"""`--sweep` and what belongs to it."""


def print_sweep(result: SweepResult, bundle: Bundle) -> None:
    """A table of the candidates, and what to do next."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    percentile = f"p{100 * result.share:g} ms"
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("size", "precision", "runtime"):
        table.add_column(heading)
    for heading in ("accuracy", percentile, "calls"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for one in result.candidates:
        cell = one.cell
        table.add_row(
            str(cell.resolution),
            cell.precision,
            cell.runner,
            "-" if one.score is None else f"{one.score:.3f}",
            "-" if one.latency_ms is None else f"{one.latency_ms:.2f}",
            "-" if cell.latency is None else str(cell.latency.runs),
            f"[bold]{one.outcome}[/]" if one.outcome == "chosen" else one.outcome,
        )
    options.console.print(table)
    chosen = result.chosen
    assert chosen is not None
    where = escape(str(bundle.path))
    threads = f" --threads {chosen.cell.threads}" if chosen.cell.threads else ""
    options.console.print(
        f"Accuracy: mean of mask IoU and depth δ1 over {result.data}. Target: {result.target_ms:g} ms at"
        f" p{100 * result.share:g}. Machine: {escape(result.machine.summary)}."
    )
    options.console.print(
        f"Next: dmx bench {where} --runtimes {chosen.cell.runtime}{threads} --min-runs 1000"
    )
