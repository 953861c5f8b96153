"""`dmx data stats` and `dmx data preview`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.progress import Progress

from depthmask.commands.options import (
    PathType,
    json_option,
    messages,
    out_option,
    overwrite_option,
    print_json,
)
from depthmask.commands.recipe_options import (
    chosen_recipe,
    open_recipe,
    recipe_option,
    recipe_options,
    report_skipped,
)
from depthmask.errors import UsageError
from depthmask.output_files import check_output


@click.command()
@click.argument("data", type=PathType(), required=False)
@recipe_option
@json_option
def stats(data: Path | None, recipe: Path | None, as_json: bool) -> None:
    """Measure a data set: count, sizes, mean and standard deviation of image, mask and depth.

    Exact, in one pass, with constant memory. With --recipe, list and check what a grid enumerates,
    without making a pixel.

    \b
    Example:
      dmx data stats DATA
      dmx data stats --recipe reference --json
    """
    from depthmask.samples import open_samples
    from depthmask.train.stats import data_statistics

    if (data is None) == (recipe is None):
        raise UsageError("stats must have either DATA or --recipe, but got both or neither")
    if data is None:
        _print_grid_statistics(recipe, as_json)
        return
    samples = open_samples(data)
    with Progress(console=messages, transient=True, disable=not messages.is_terminal) as bar:
        task = bar.add_task("measuring", total=len(samples))
        found = data_statistics(
            samples, samples.depth_unit, lambda done: bar.update(task, completed=done)
        )
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    sizes = ", ".join(f"{count} of {size}" for size, count in found.sizes.items())
    click.echo(
        f"{data}: {found.count} samples ({sizes}), {found.masks} masks, {found.depths} depths"
    )
    rows = [*zip(("red", "green", "blue"), found.image or (), strict=bool(found.image))]
    unit = "m" if found.depth_unit == "m" else "relative"
    for name, moments in [*rows, ("mask", found.mask), (f"depth ({unit})", found.depth)]:
        if moments is not None:
            click.echo(
                f"  {name:<16} mean {moments.mean:.6f}  std {moments.std:.6f}"
                f"  {moments.smallest:.4f} to {moments.largest:.4f}"
            )
    if found.depth_missing_share:
        click.echo(f"  {found.depth_missing_share:.2%} of the depths' pixels are missing")


@click.command()
@click.argument("data", type=PathType(), required=False)
@recipe_options
@out_option("The picture, a .png file.", required=True)
@overwrite_option
def preview(
    data: Path | None,
    assets: Path,
    recipe: Path | None,
    depth: str | None,
    mask_teacher: str | None,
    out: Path,
    overwrite: bool,
) -> None:
    """Write a contact sheet of the first samples: image, mask and depth (near is bright).

    With --recipe instead of DATA, of samples made for it, spread over a grid.

    \b
    Example:
      dmx data preview DATA --out sheet.png
      dmx data preview --recipe reference --out sheet.png
    """
    from depthmask.train.preview import sheet_of_data, sheet_of_recipe, write_sheet

    if out.suffix.lower() != ".png":
        raise UsageError(f"a contact sheet must be a .png file, but got {out}. Try --out sheet.png")
    check_output(out, overwrite=overwrite)
    if (data is None) == (recipe is None):
        raise UsageError("preview must have either DATA or --recipe, but got both or neither")
    if data is not None:
        write_sheet(sheet_of_data(data), out)
    else:
        chosen, loaded, teachers = open_recipe(assets, recipe, depth, mask_teacher)
        write_sheet(sheet_of_recipe(chosen, loaded, teachers), out)
        report_skipped(loaded.skipped)
    click.echo(str(out))


def _print_grid_statistics(recipe: Path | None, as_json: bool) -> None:
    from depthmask.train.recipe import GridRecipe
    from depthmask.train.stats import grid_statistics

    chosen = chosen_recipe(recipe)
    if not isinstance(chosen, GridRecipe):
        raise UsageError(
            "a recipe to list must be of kind grid, but this one has no end. Compose some of it and try"
            " `dmx data stats DATA`"
        )
    found = grid_statistics(chosen)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    click.echo(
        f"{recipe}: {found.count} samples = {found.backgrounds} backgrounds x {found.foregrounds}"
        f" foregrounds x {found.positions} positions x {found.flips} flips, each once"
    )
    names = ("foreground", "left", "top")
    for name, spread in zip(names, (found.foreground_px, found.left_px, found.top_px), strict=True):
        click.echo(f"  {name:<10} {spread.smallest} to {spread.largest} px, mean {spread.mean:.2f}")
