"""`dmx evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from depthmask.commands import options
from depthmask.frames import Resolution

if TYPE_CHECKING:
    from rich.table import Table

    from depthmask.evaluation import Evaluation
    from depthmask.metrics import DepthMetrics, MaskMetrics


@click.command()
@click.argument("model", required=False, type=options.PathType(), metavar="[BUNDLE_OR_CHECKPOINT]")
@options.data_option
@options.resolutions_option
@options.runtime_option
@options.device_option
@options.threads_option
@click.option("--limit", type=click.IntRange(min=1), help="The first N images only.", metavar="N")
@options.json_option
def command(
    model: Path | None,
    data: Path | None,
    resolutions: tuple[Resolution, ...] | None,
    runtime: str,
    device: str,
    threads: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Measure the accuracy of a bundle or a checkpoint on a data set.

    Without a model the shipped `lite` bundle is measured, at every resolution that it holds; a
    checkpoint at the one that its training ended at (224 where it does not say). The last column is
    a guess that does not look at the image: an ellipse in the middle, and flat ground.

    \b
    Example: dmx evaluate runs/lite/checkpoint --data DATA --resolution 128,224 --json
    """
    import msgspec
    from rich.progress import Progress

    from depthmask.evaluation import evaluate
    from depthmask.samples import open_samples

    samples = open_samples(data)
    quiet = not options.messages.is_terminal
    with Progress(console=options.messages, transient=True, disable=quiet) as bar:
        task = bar.add_task("evaluating", total=None)
        evaluation = evaluate(
            model,
            samples,
            resolutions=resolutions,
            limit=limit,
            runtime=runtime,
            device=device,
            threads=threads,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        options.print_json(msgspec.to_builtins(evaluation))
    else:
        options.console.print(_table(evaluation))


_MASK_ROWS = (
    ("IoU ↑", "iou"),
    ("Dice ↑", "dice"),
    ("F-beta ↑", "f_beta"),
    ("boundary IoU ↑", "boundary_iou"),
    ("MAE ↓", "mae"),
)
_SCALED_ROWS = (("δ1, scaled ↑", "delta1"), ("AbsRel, scaled ↓", "abs_rel"))
_UNALIGNED_ROWS = (("δ1 ↑", "delta1"), ("AbsRel ↓", "abs_rel"), ("RMSE, m ↓", "rmse"))


def _table(evaluation: Evaluation) -> Table:
    """Metrics down, resolutions across, the baseline last."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    guess = evaluation.baseline
    columns = [result.accuracy for result in evaluation.results] + [guess]
    table = Table(
        title=Text(f"{Path(evaluation.model).name} on {guess.data}, {guess.count} images"),
        caption=None
        if evaluation.chain.depth_unit == "m"
        else "This chain's depth is relative: only its scaled rows say something.",
        title_justify="left",
        box=SIMPLE_HEAD,
        caption_justify="left",
    )
    table.add_column("", no_wrap=True)
    for result in evaluation.results:
        table.add_column(f"{result.resolution}\n{result.runtime}", justify="right", no_wrap=True)
    table.add_column("not\nlooking", justify="right")

    _add_rows(table, "mask", [column.mask for column in columns], _MASK_ROWS)
    shares = (f"{column.mask_share:.1%}" for column in columns)
    table.add_row("  share let through", *shares, end_section=True)
    for name, parts in (
        ("depth in the true mask", [column.depth_in_mask for column in columns]),
        ("depth, whole frame", [column.depth_frame for column in columns]),
    ):
        scaled = [part.median_scaled if part else None for part in parts]
        unaligned = [part.unaligned if part else None for part in parts]
        _add_rows(table, name, scaled, _SCALED_ROWS)
        _add_rows(table, None, unaligned, _UNALIGNED_ROWS)
        table.add_section()
    return table


def _add_rows(
    table: Table,
    heading: str | None,
    measured: Sequence[MaskMetrics | DepthMetrics | None],
    rows: tuple[tuple[str, str], ...],
) -> None:
    if heading is not None:
        table.add_row(f"[bold]{heading}")
    for label, name in rows:
        values = ("-" if one is None else f"{getattr(one, name):.4f}" for one in measured)
        table.add_row(f"  {label}", *values)
