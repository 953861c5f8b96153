"""`dmx models`: the networks and presets, or one network layer by layer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from depthmask.commands.options import RESOLUTIONS, console, json_option, print_json
from depthmask.errors import UsageError
from depthmask.frames import Resolution


@click.command()
@click.argument("name", required=False)
@click.option(
    "--resolution",
    "resolutions",
    type=RESOLUTIONS,
    help="Of the image, for the layers' shapes.  [default: 224]",
)
@json_option
def command(name: str | None, resolutions: tuple[Resolution, ...] | None, as_json: bool) -> None:
    """List the networks and the presets, or show the network NAME layer by layer.

    GMAC are 1e9 multiply-accumulates for one image of 224x224.

    \b
    Example:
      dmx models
      dmx models hu_resnet50 --resolution 64
    """
    if name is None:
        if resolutions:
            raise UsageError("--resolution must come with NAME. Try `dmx models lite_mask`")
        _list(as_json)
        return
    if resolutions and len(resolutions) > 1:
        raise UsageError(f"--resolution must be one here, but got {len(resolutions)}")
    _show(name, resolutions[0] if resolutions else None, as_json)


def _list(as_json: bool) -> None:
    from depthmask import models
    from depthmask.models.describe import summarise
    from depthmask.presets import PRESETS

    networks = [summarise(name) for name in models.names()]
    chains = [
        {
            "preset": spec.preset,
            "kind": spec.kind,
            "mask": spec.mask.network,
            "depth": spec.depth.network,
        }
        for spec in PRESETS.values()
    ]
    if as_json:
        print_json({"networks": [asdict(network) for network in networks], "presets": chains})
        return
    table = Table("network", "role", "parameters", "GMAC at 224", "source", title="Networks")
    for network in networks:
        parameters, gmac = f"{network.parameters / 1e6:.2f} M", f"{network.gmac_224:.2f}"
        table.add_row(network.name, network.role, parameters, gmac, network.paper)
    _print(table)
    for network in networks:
        if network.note:
            click.echo(f"{network.name}: {network.note}")
    table = Table("preset", "kind", "mask network", "depth network", title="Presets")
    for chain in chains:
        table.add_row(*chain.values())
    _print(table)


def _show(name: str, resolution: Resolution | None, as_json: bool) -> None:
    from depthmask.models.describe import DEFAULT_RESOLUTION, layers

    chosen = resolution or DEFAULT_RESOLUTION
    found = layers(name, chosen)
    total = sum(layer.parameters for layer in found)
    if as_json:
        rows: list[dict[str, Any]] = [asdict(layer) for layer in found]
        size = [chosen.height, chosen.width]
        print_json({"name": name, "resolution": size, "parameters": total, "layers": rows})
        return
    title = f"{name} for 1x3x{chosen.height}x{chosen.width}, {total:,} parameters"
    table = Table("layer", "kind", "output", "parameters", title=title)
    for layer in found:
        shape = "x".join(map(str, layer.output_shape))
        table.add_row(layer.name, layer.kind, shape, f"{layer.parameters:,}")
    _print(table)


def _print(table: Table) -> None:
    """As wide as its content where the output is no terminal: nothing is cut off for `grep`."""
    wide = console if console.is_terminal else Console(width=200, highlight=False)
    wide.print(table)
