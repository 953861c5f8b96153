"""`dmx bench --sweep`: its options, what it does, and what it prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from depthmask.commands import options

if TYPE_CHECKING:
    from pathlib import Path

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


def run_sweep(
    bundles: tuple[Path, ...],
    target_ms: float | None,
    out: Path | None,
    *,
    preset: str | None,
    checkpoint: Path | None,
    data: Path | None,
    as_json: bool,
    overwrite: bool,
    **settings: Any,  # noqa: ANN401  (those of `sweep_chain`)
) -> None:
    """Sweep, export what was chosen to `out`, and print.

    Raises:
        UsageError: --target-ms or --export is missing, a bundle was named, or `out` exists.
        CheckFailedError: no candidate meets the target.
    """
    import msgspec

    from depthmask.atomic import check_target
    from depthmask.bench.sweep_chain import sweep_chain
    from depthmask.errors import UsageError
    from depthmask.export.source import open_chain
    from depthmask.samples import open_samples

    if bundles or target_ms is None or out is None:
        raise UsageError(
            "--sweep must have --target-ms and --export, and a --preset or --checkpoint instead of a"
            " BUNDLE, whose candidates it exports itself"
        )
    check_target(out, overwrite=overwrite)
    chain, weights = open_chain(preset, checkpoint=checkpoint)
    with options.messages.status("starting") as status:
        result, bundle = sweep_chain(
            chain,
            weights,
            open_samples(data),
            target_ms,
            out,
            overwrite=overwrite,
            tell=status.update,
            **settings,
        )
    if as_json:
        options.print_json(msgspec.to_builtins(result))
    else:
        print_sweep(result, bundle)


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
