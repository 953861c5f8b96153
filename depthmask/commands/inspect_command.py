"""`dmx inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from depthmask.commands.engine_options import print_engines
from depthmask.commands.options import PathType, console, json_option, print_json

if TYPE_CHECKING:
    from depthmask.bundle import Bundle, GraphRecord


@click.command()
@click.argument("bundle", type=PathType(), required=False)
@json_option
def command(bundle: Path | None, as_json: bool) -> None:
    """Show what a bundle is: its chain, its graphs, and what exact rewrites did at each site.

    Needs neither torch nor onnx; everything is in the bundle's manifest.

    \b
    Example:
      dmx inspect lite-224-fp16
    """
    import msgspec

    from depthmask.bundle import open_bundle

    opened = open_bundle(bundle)
    if as_json:
        print_json({"path": str(opened.path), **msgspec.to_builtins(opened.manifest)})
        return
    _print_summary(opened)
    print_engines(opened.manifest)
    for graph in opened.manifest.graphs:
        _print_rewrites(graph)


def _print_summary(bundle: Bundle) -> None:
    from rich.markup import escape
    from rich.table import Table

    manifest = bundle.manifest
    chain = manifest.chain
    size_mb = sum(record.size_bytes for record in manifest.files.values()) / 1e6
    state = "verified" if manifest.verified else "[red]NOT verified[/]"
    console.print(
        f"{escape(str(bundle.path))}: {escape(chain.preset)} ({chain.kind}), {manifest.precision},"
        f" {size_mb:.1f} MB, {state}"
    )
    console.print(
        f"mask {escape(chain.mask.network)}, depth {escape(chain.depth.network)} (unit"
        f" {chain.depth_unit}), input {manifest.input}, opset {manifest.opset}"
    )
    if manifest.fp32_nodes:
        console.print(f"{len(manifest.fp32_nodes)} nodes stay fp32")
    if manifest.limits is not None:
        opened = [f"batches of up to {manifest.limits.largest_batch}"] * manifest.dynamic_batch
        opened += [f"resolutions of {manifest.limits.sizes}"] * manifest.dynamic_resolution
        console.print(f"takes {' and '.join(opened)}")
    table = Table("resolution", "file", "GMAC", "as exported", "rewritten sites")
    for graph in manifest.graphs:
        saved = sum(one.gmac_before - one.gmac_after for one in graph.rewrites)
        rewritten = sum(one.form is not None for one in graph.rewrites)
        table.add_row(
            str(graph.resolution),
            graph.file,
            f"{graph.gmac:.2f}",
            f"{graph.gmac + saved:.2f}",
            f"{rewritten} of {len(graph.rewrites)}",
        )
    console.print(table)
    for graph in manifest.graphs:
        if graph.unsigned:
            runtimes = " and ".join(graph.unsigned.runtimes)
            console.print(
                f"{graph.resolution}: {runtimes} on the CPU run {graph.unsigned.file} (uint8 activations),"
                f" everything else {graph.file} (symmetric int8)"
            )


def _print_rewrites(graph: GraphRecord) -> None:
    from rich.table import Table

    if not graph.rewrites:
        return
    table = Table(
        "site",
        "form",
        "GMAC",
        "rewritten",
        "predicted",
        "measured",
        title=f"{graph.resolution}, times faster",
        title_justify="left",
    )
    for one in graph.rewrites:
        table.add_row(
            one.site,
            f"{one.rewrite}: {one.form}" if one.form else "as exported",
            f"{one.gmac_before:.3f}",
            f"{one.gmac_after:.3f}",
            f"{one.predicted_gain:.2f}",
            "-" if one.measured_gain is None else f"{one.measured_gain:.2f}",
        )
    console.print(table)
