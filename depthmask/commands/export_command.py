"""`dmx export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depthmask.commands.limit_options import chosen_limits
from depthmask.commands.options import (
    PathType,
    checkpoint_option,
    data_option,
    json_option,
    messages,
    out_option,
    overwrite_option,
    preset_option,
    print_json,
    resolutions_option,
    threads_option,
)
from depthmask.commands.stage_options import stage_input, stage_options
from depthmask.commands.target_options import (
    check_rebuild,
    chosen_target,
    print_targets,
    target_options,
)
from depthmask.errors import UsageError
from depthmask.frames import Resolution

if TYPE_CHECKING:
    from depthmask.bundle import Bundle, Int8Record, Precision
    from depthmask.export.targets import Target


@click.command()
@preset_option
@checkpoint_option
@click.option("--init", type=click.IntRange(min=0), help="Untrained weights from this seed.")
@click.option(
    "--mask",
    metavar="PKG.MOD:FACTORY|FILE.pt2",
    help="Your own mask network; lite's if left out.",
)
@click.option(
    "--depth",
    metavar="PKG.MOD:FACTORY|FILE.pt2",
    help="Your own depth network; lite's if left out.",
)
@click.option(
    "--mask-activation",
    type=click.Choice(["none", "sigmoid"]),
    default="none",
    show_default=True,
    help="What your own mask network lacks to end in [0, 1].",
)
@stage_options
@resolutions_option
@click.option("--fp16", is_flag=True, help="float16 where the values fit; fp32 is the default.")
@click.option(
    "--bf16", is_flag=True, help="bfloat16 by OpenVINO, on a CPU with avx512_bf16 or amx_bf16."
)
@click.option("--int8", is_flag=True, help="int8 where the budget allows it, calibrated on images.")
@click.option(
    "--max-drop",
    metavar="iou=P,delta1=P",
    help="What int8 may lose on labelled data, in points (1 = 0.01); 0.5 of each by default.",
)
@click.option(
    "--calibration",
    type=PathType(),
    help="Images for int8's ranges; by default shipped photographs.",
)
@click.option(
    "--calibrator",
    type=click.Choice(["minmax", "percentile", "entropy"]),
    default="percentile",
    show_default=True,
    help="How int8's ranges follow from the values seen.",
)
@click.option(
    "--input",
    "input_kind",
    type=click.Choice(["frame", "image"]),
    default="frame",
    show_default=True,
    help="frame: uint8 images of any size, preprocessing in the graph. image: normalised float32.",
)
@click.option("--dynamic-batch", is_flag=True, help="Leave the batch size open.")
@click.option(
    "--dynamic-resolution", is_flag=True, help="Leave the network's size open (--input image)."
)
@target_options
@click.option(
    "--rewrite",
    "rewrites",
    default="auto",
    show_default=True,
    metavar="auto|all|none|NAMES",
    help="Exact rewrites that leave work out: where they pay, everywhere, or nowhere.",
)
@click.option(
    "--tune", is_flag=True, help="Decide on rewrites by timing every site on this machine."
)
@click.option(
    "--for",
    "profile",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="The kind of machine that rewrites are chosen for, without --tune.",
)
@threads_option
@click.option(
    "--opset",
    type=click.IntRange(min=18, max=23),
    default=18,
    show_default=True,
    help="Of the graphs.",
)
@data_option
@out_option("The bundle's folder; by default ./PRESET-RESOLUTION-PRECISION/.")
@overwrite_option
@click.option("--force", is_flag=True, help="Keep a bundle that fails its verification.")
@json_option
def command(
    preset: str | None,
    checkpoint: Path | None,
    init: int | None,
    mask: str | None,
    depth: str | None,
    mask_activation: Any,  # noqa: ANN401
    resolutions: tuple[Resolution, ...] | None,
    fp16: bool,
    bf16: bool,
    int8: bool,
    max_drop: str | None,
    calibration: Path | None,
    calibrator: Any,  # noqa: ANN401
    input_kind: Any,  # noqa: ANN401  (click's choices are the literal's)
    dynamic_batch: bool,
    dynamic_resolution: bool,
    rewrites: str,
    tune: bool,
    profile: Any,  # noqa: ANN401
    threads: int | None,
    opset: int,
    data: Path | None,
    out: Path | None,
    rebuild: Path | None,
    overwrite: bool,
    force: bool,
    as_json: bool,
    **others: Any,  # noqa: ANN401
) -> None:
    """Export a chain to a bundle, and verify it against PyTorch before anything is written.

    \b
    Examples:
      dmx export --fp16                                   the shipped lite, ./lite-224-fp16/
      dmx export --preset hu2019 --resolution 64,128 --init 0 --out b/
      dmx export --int8 --max-drop iou=0.5,delta1=0.5 --calibration photos/
      dmx export --mask my.nets:mask --depth my.nets:depth --init 0 --out b/
      dmx export --depth-onnx midas.onnx --depth-range 0..255 --out b/
      dmx export --fp16 --to tensorrt-rtx --gpu sm86,sm89
      dmx export --int8 --to web                          a page that runs it in the browser
      dmx export --to triton --dynamic-batch --instances 2
      dmx export --rebuild lite-224-fp16-tensorrt-rtx --to tensorrt-rtx --gpu sm120
    """
    target = chosen_target(click.get_current_context())
    if rebuild is not None:
        _report(_rebuild(rebuild, target), as_json)
        return
    from depthmask import presets
    from depthmask.models import require_torch

    if preset is not None:
        presets.preset(preset)  # a wrong name is said at once: importing PyTorch takes seconds
    require_torch()
    from depthmask.atomic import check_target
    from depthmask.export.budget import parse_max_drop
    from depthmask.export.exporter import (
        DEFAULT_RESOLUTION,
        ExportOptions,
        export_chain,
        output_name,
    )
    from depthmask.export.int8 import Int8Options
    from depthmask.export.rewrite import RewriteOptions
    from depthmask.export.source import fixed_resolution, open_chain
    from depthmask.runtimes import require_precision
    from depthmask.samples import open_samples

    flags: dict[Precision, bool] = {"fp16": fp16, "bf16": bf16, "int8": int8}
    asked = [precision for precision, is_asked in flags.items() if is_asked] or ["fp32"]
    if len(asked) > 1:
        raise UsageError(
            f"a bundle has one precision, but got --{' and --'.join(asked)}. Export twice"
        )
    require_precision(asked[0])
    opened = {"dynamic_batch": dynamic_batch, "dynamic_resolution": dynamic_resolution}
    limits = chosen_limits(others, opened)
    if not int8 and (max_drop is not None or calibration is not None):
        raise UsageError("--max-drop and --calibration are of int8. Try them with --int8")
    int8_options = Int8Options(
        max_drop=parse_max_drop(max_drop) if max_drop is not None else None,
        calibrator=calibrator,
        calibration=open_samples(calibration) if calibration is not None else None,
        threads=threads,
    )
    chosen = RewriteOptions(names=rewrites, profile=profile, tune=tune, threads=threads)
    chain, weights = open_chain(
        preset,
        checkpoint=checkpoint,
        init=init,
        mask=mask,
        depth=depth,
        mask_activation=mask_activation,
        mask_onnx=others["mask_onnx"],
        depth_onnx=others["depth_onnx"],
        mask_input=stage_input("mask", others),
        depth_input=stage_input("depth", others),
    )
    fixed = fixed_resolution(chain)
    if fixed and resolutions and resolutions != (fixed,):
        raise UsageError(
            f"the resolution must be the file's own, {fixed}, but got"
            f" {', '.join(map(str, resolutions))}. Leave --resolution out"
        )
    options = ExportOptions(
        resolutions=resolutions or (fixed or DEFAULT_RESOLUTION,),
        precision=asked[0],
        target=target,
    )
    folder = out or Path(output_name(chain, options))
    check_target(folder, overwrite=overwrite)
    samples = open_samples(data) if data is not None or init is None else None
    with messages.status("exporting") as status:
        bundle = export_chain(
            chain,
            folder,
            resolution=options.resolutions,
            precision=options.precision,
            target=target,
            input=input_kind,
            dynamic_batch=dynamic_batch,
            dynamic_resolution=dynamic_resolution,
            limits=limits,
            rewrites=chosen,
            opset=opset,
            int8=int8_options,
            weights=weights,
            data=samples,
            overwrite=overwrite,
            force=force,
            progress=status.update,
        )
    _report(bundle, as_json)


def _rebuild(path: Path, target: Target | None) -> Bundle:
    from depthmask.export.targets import rebuild

    check_rebuild(click.get_current_context())
    if target is None:
        raise UsageError("--rebuild needs --to tensorrt, tensorrt-rtx, web or triton")
    with messages.status("building") as status:
        return rebuild(path, target, progress=status.update)


def _report(bundle: Bundle, as_json: bool) -> None:
    if as_json:
        print_json(summary(bundle))
    else:
        _print(bundle)


def summary(bundle: Bundle) -> dict[str, Any]:
    """What an export made, for machines."""
    import msgspec

    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "size_bytes": sum(record.size_bytes for record in manifest.files.values()),
        **msgspec.to_builtins(manifest),
    }


def _print(bundle: Bundle) -> None:
    from rich.markup import escape
    from rich.table import Table

    from depthmask.commands.options import console

    manifest = bundle.manifest
    if "init_seed" in manifest.weights:
        messages.print(
            "[yellow]untrained weights[/]: the bundle is for measuring speed and parity only"
        )
    table = Table("resolution", "file", "GMAC", "mask error", "depth error", "allowed")
    for graph in manifest.graphs:
        mask, depth = graph.parity["mask"], graph.parity["depth"]
        table.add_row(
            str(graph.resolution),
            graph.file,
            f"{graph.gmac:.2f}",
            f"{mask['relative_error']:.1e}",
            f"{depth['relative_error']:.1e}",
            "-" if mask["tolerance"] is None else f"{mask['tolerance']:g}",
        )
    console.print(table)
    if manifest.fp32_nodes:
        console.print(
            f"{len(manifest.fp32_nodes)} nodes stay fp32, for their range, for parity or for the budget;"
            " manifest.json lists them (fp32_nodes)"
        )
    if manifest.int8 is not None:
        _print_int8(manifest.int8)
    if manifest.search is not None:
        console.print(
            f"the precision was searched on {manifest.search.searched_images} images"
            f" ({escape(manifest.search.searched)}) and judged on {manifest.search.judged_images} others"
            f" ({escape(manifest.search.judged)})"
        )
    print_targets(bundle)
    size_mb = sum(record.size_bytes for record in manifest.files.values()) / 1e6
    state = "verified" if manifest.verified else "[red]NOT verified[/], kept by --force"
    where = escape(str(bundle.path))
    console.print(
        f"{where}/ is {state}: {manifest.chain.preset}, {manifest.precision}, {size_mb:.1f} MB."
        f" Errors are the largest difference from {manifest.chain.original}, as a share of the output's"
        " range."
    )
    console.print(f"Next: dmx run {where} --source PHOTO_OR_FOLDER --out out/")


def _print_int8(record: Int8Record) -> None:
    from depthmask.commands.options import console

    for resolution, gains in record.gain.items():
        speed = ", ".join(
            f"{gain:.2f} times fp32's speed on {name}" for name, gain in gains.items()
        )
        console.print(
            f"{resolution}: {record.int8_sites[resolution]} of {record.sites[resolution]} convolutions in"
            f" int8; {speed or 'not timed'}"
        )
    if record.slower_at:
        console.print(
            f"[yellow]int8 is not faster than fp32 on this machine[/] at {', '.join(record.slower_at)}:"
            " use the fp32 bundle here"
        )
    console.print("tradeoff.svg draws what was tried, tradeoff.json lists it.")
