"""`dmx inspect`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depthmask.commands.engine_options import print_engines
from depthmask.commands.options import PathType, console, json_option, print_json

if TYPE_CHECKING:
    from depthmask.bundle import Bundle, GraphRecord
    from depthmask.engine import LayerRecord
    from depthmask.runtimes.graph_assignment import AssignedNode


@click.command()
@click.argument("bundle", type=PathType(), required=False)
@click.option("--layers", is_flag=True, help="List every layer of the engines, with its precision.")
@click.option(
    "--placed-by",
    type=click.Choice(["onnxruntime", "onnxruntime-tensorrt"]),
    help="Open the graphs on the GPU, and list what computes each node there.",
)
@json_option
def command(bundle: Path | None, layers: bool, placed_by: str | None, as_json: bool) -> None:
    """Show what a bundle is: its chain, its graphs, and what exact rewrites did at each site.

    Needs neither torch nor onnx nor, without --placed-by, a GPU; everything is in the bundle.

    \b
    Example:
      dmx inspect lite-224-fp16
      dmx inspect lite-224-fp16-tensorrt-rtx --layers
      dmx inspect lite-224-fp16 --placed-by onnxruntime
    """
    import msgspec

    from depthmask.bundle import open_bundle
    from depthmask.engine import read_layers
    from depthmask.errors import UsageError

    opened = open_bundle(bundle)
    if layers and not opened.manifest.engines:
        raise UsageError(
            f"--layers lists those of engines, but {opened.path} has none. Try `dmx export --rebuild`"
        )
    listed = {one.file: read_layers(opened.path, one) for one in opened.manifest.engines}
    placed = {} if placed_by is None else _placed(opened, placed_by)
    if as_json:
        document = {"path": str(opened.path), **msgspec.to_builtins(opened.manifest)}
        document |= {"layers": msgspec.to_builtins(listed)} if layers else {}
        print_json(document | ({"placed": msgspec.to_builtins(placed)} if placed else {}))
        return
    _print_summary(opened)
    print_engines(opened)
    for file, records in listed.items():
        _print_layers(file, records, each=layers)
    for file, nodes in placed.items():
        _print_placed(file, nodes)
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


def _print_layers(file: str, layers: tuple[LayerRecord, ...], *, each: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    counts = Counter(" ".join(layer.precisions) or "-" for layer in layers)
    said = ", ".join(f"{count} {precision}" for precision, count in counts.most_common())
    console.print(f"{file}: {len(layers)} layers before fusion, on the GPU but for sizes: {said}")
    if not each:
        return
    table = Table("layer", "kind", "precision")
    for layer in layers:
        table.add_row(escape(layer.name), layer.kind, " ".join(layer.precisions))
    console.print(table)


def _placed(bundle: Bundle, runtime: str) -> dict[str, tuple[AssignedNode, ...]]:
    """The nodes of each graph, opened on the GPU, where another provider may compute what one cannot."""
    from depthmask.runtimes import open_runtime

    found = {}
    for graph in bundle.manifest.graphs:
        opened: Any = open_runtime(
            bundle, graph.resolution, runtime=runtime, device="cuda", allow_fallback=True
        )
        found[graph.file] = opened.nodes
        opened.close()
    return found


def _print_placed(file: str, nodes: tuple[AssignedNode, ...]) -> None:
    from rich.markup import escape
    from rich.table import Table

    counts = Counter(node.provider for node in nodes)
    said = ", ".join(f"{count} by {provider}" for provider, count in counts.most_common())
    table = Table("node", "operator", "computed by", title=f"{file}: {said}", title_justify="left")
    for node in nodes:
        table.add_row(escape(node.name), node.op_type, node.provider)
    console.print(table)


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
