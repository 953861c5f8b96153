"""`dmx import`: published .pth files to checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from depthmask.commands.options import (
    PathType,
    json_option,
    out_option,
    overwrite_option,
    print_json,
)
from depthmask.errors import UsageError


@click.command()
@click.argument("file", type=PathType(), required=False)
@click.option("--network", metavar="NAME", help="Only check FILE against this network.")
@click.option("--preset", metavar="NAME", help="The chain that --mask and --depth make.")
@click.option("--mask", type=PathType(), metavar="FILE", help="Weights of the mask network.")
@click.option("--depth", type=PathType(), metavar="FILE", help="Weights of the depth network.")
@click.option(
    "--align-corners",
    is_flag=True,
    help="For checkpoints trained with aligned corners, as those published in 2019 were.",
)
@out_option("The folder for the checkpoint.")
@overwrite_option
@json_option
def command(
    file: Path | None,
    network: str | None,
    preset: str | None,
    mask: Path | None,
    depth: Path | None,
    align_corners: bool,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn the published .pth files of a chain's two networks into a checkpoint.

    A .pth file is a program; it is read as weights only, and what else is in it is refused, never
    run. Every tensor must fit: what is missing or unexpected is named.

    With FILE and --network one file is checked, and nothing is written.

    \b
    Example:
      dmx import --preset hu2019 --mask drn.pth --depth hu.pth --align-corners --out CHECKPOINT
      dmx import drn.pth --network drn22_autoencoder
    """
    if file is not None:
        if network is None or any((preset, mask, depth, out)):
            raise UsageError(
                "FILE must come with --network alone, which checks it. A checkpoint needs both"
                " networks: try --preset hu2019 --mask FILE --depth FILE --out CHECKPOINT"
            )
        _check(file, network, as_json)
        return
    if network is not None or preset is None or out is None or mask is None or depth is None:
        given = {"--preset": preset, "--mask": mask, "--depth": depth, "--out": out}
        missing = ", ".join(name for name, value in given.items() if value is None) or "FILE"
        raise UsageError(
            "an import must have --preset, --mask, --depth and --out (a checkpoint is of a whole"
            f" chain), or FILE and --network, but {missing} is not given"
        )
    _import(preset, mask, depth, align_corners, out, overwrite, as_json)


def _check(file: Path, network: str, as_json: bool) -> None:
    from depthmask import models

    models.info(network)
    models.require_torch()
    from depthmask.import_pth import load_network

    parameters = sum(p.numel() for p in load_network(network, file).parameters())
    used_in = _roles(network)
    if as_json:
        print_json(
            {"file": str(file), "network": network, "parameters": parameters, "fits": used_in}
        )
        return
    click.echo(f"{file}: fits {network}, {parameters / 1e6:.2f} M parameters")
    for preset, role in used_in.items():
        other = "depth" if role == "mask" else "mask"
        click.echo(
            f"  in {preset} it is the {role} network; missing for a checkpoint: --{other} FILE"
        )


def _import(
    preset: str,
    mask: Path,
    depth: Path,
    align_corners: bool,
    out: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    from depthmask import models

    models.require_torch()
    from depthmask.checkpoint import read_info
    from depthmask.import_pth import import_chain

    chain = import_chain(preset, mask, depth, out, align_corners=align_corners, overwrite=overwrite)
    parameters = sum(p.numel() for p in chain.parameters())
    if as_json:
        digest = read_info(out).weights_sha256
        print_json(
            {"out": str(out), "preset": preset, "parameters": parameters, "weights_sha256": digest}
        )
    else:
        click.echo(f"{out}: {preset}, {parameters / 1e6:.2f} M parameters")


def _roles(network: str) -> dict[str, str]:
    """In which presets a network stands, and as what."""
    from depthmask.presets import PRESETS

    stages = [(name, role) for name in PRESETS for role in ("mask", "depth")]
    return {name: role for name, role in stages if getattr(PRESETS[name], role).network == network}
