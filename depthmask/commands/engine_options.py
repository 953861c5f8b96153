"""What `dmx export` may say about what stands beside the ONNX: TensorRT engines, Triton's repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from depthmask.commands.options import NAMES, PathType, console
from depthmask.errors import UsageError
from depthmask.frames import Resolution

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from depthmask.bundle import Limits, Manifest
    from depthmask.engine import EngineHeader
    from depthmask.export.engines import EngineOptions

    Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--to",
        "target",
        type=click.Choice(["onnx", "tensorrt", "tensorrt-rtx", "web", "triton"]),
        default="onnx",
        show_default=True,
        help="Beside the ONNX: engines (tensorrt builds for the GPU here, tensorrt-rtx for any by --gpu),"
        " web/, a page that runs the chain in the browser, or triton/, a model repository.",
    ),
    click.option(
        "--gpu",
        type=NAMES,
        metavar="SM[,...]",
        help="GPU architectures that tensorrt-rtx builds for, as sm86,sm89; by default the one here.",
    ),
    click.option(
        "--workspace-mib",
        type=click.IntRange(min=1),
        help="The most scratch memory that a layer of an engine may take; all of the GPU's by default.",
    ),
    click.option(
        "--builder-level",
        type=click.IntRange(0, 5),
        default=3,
        show_default=True,
        help="How hard TensorRT looks for fast kernels.",
    ),
    click.option(
        "--timing-cache",
        type=PathType(),
        metavar="FILE",
        help="Times of kernels, read and kept for the next build on this GPU; tensorrt only.",
    ),
    click.option(
        "--hardware-compatible",
        type=click.Choice(["same-compute-capability", "ampere-plus"]),
        help="Build for other GPUs too, of this architecture or of sm80 and newer; tensorrt only.",
    ),
    click.option(
        "--version-compatible",
        is_flag=True,
        help="Let newer TensorRTs of the same major version load the engine; tensorrt only.",
    ),
    click.option(
        "--strip-weights",
        is_flag=True,
        help="Leave the weights to the ONNX beside the engine, which gives them back; tensorrt only.",
    ),
    click.option(
        "--largest",
        metavar="HxW",
        help="The largest --dynamic-resolution, 4096x4096 by default (1024x1024 of an engine); or the"
        " largest frame that an engine takes, 2160x3840 by default.",
    ),
    click.option(
        "--smallest",
        metavar="HxW",
        help="The smallest --dynamic-resolution; 64x64 by default.",
    ),
    click.option(
        "--largest-batch",
        type=click.IntRange(1, 1024),
        help="Of --dynamic-batch; 1024 by default, 8 of an engine or of Triton's batches.",
    ),
    click.option(
        "--rebuild",
        type=PathType(),
        metavar="BUNDLE",
        help="Make again what --to names, from the ONNX that this bundle holds; needs no torch.",
    ),
)
_OF_ENGINES = (
    "gpu",
    "workspace_mib",
    "builder_level",
    "timing_cache",
    "hardware_compatible",
    "version_compatible",
    "strip_weights",
    "largest",
    "largest_batch",
)
_LIMITS = {
    "largest_batch": "dynamic_batch",
    "largest": "dynamic_resolution",
    "smallest": "dynamic_resolution",
}
"""Limits, and what they are of."""


def engine_options(command: Command) -> Command:
    """`--to` and what belongs to it."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen_engine(target: Any, options: Mapping[str, Any]) -> EngineOptions | None:  # noqa: ANN401
    """What engines were asked for; None: none.

    Raises:
        UsageError: an option of engines without a target that has some, or an unusable one.
    """
    if not target.startswith("tensorrt"):
        given = given_options(click.get_current_context())
        if wrong := [name for name in _OF_ENGINES if name in given and name not in _LIMITS]:
            raise UsageError(
                f"--{wrong[0].replace('_', '-')} is of engines, but --to is {target}."
                " Try --to tensorrt-rtx"
            )
        return None
    from depthmask.export.engines import EngineOptions
    from depthmask.export.tensorrt_builder import BuildFlags
    from depthmask.profiles import PROFILE_BATCH

    largest = options["largest"]
    return EngineOptions(
        flavour=target,
        architectures=options["gpu"] or (),
        workspace_mib=options["workspace_mib"],
        level=options["builder_level"],
        largest_batch=options["largest_batch"] or PROFILE_BATCH,
        largest=Resolution.parse(largest) if largest is not None else None,
        flags=BuildFlags(
            timing_cache=options["timing_cache"],
            version_compatible=options["version_compatible"],
            hardware_compatibility=options["hardware_compatible"] or "none",
            strip_weights=options["strip_weights"],
        ),
    )


def chosen_limits(options: Mapping[str, Any], opened: Mapping[str, bool], target: str) -> Limits:
    """The limits of an open batch and resolution.

    Args:
        options: of the command line.
        opened: whether `dynamic_batch` and `dynamic_resolution` were asked for.
        target: engines have limits of their own, which need neither.

    Raises:
        UsageError: a limit of what is not open, or an unusable one.
    """
    from depthmask.bundle import Limits

    given = given_options(click.get_current_context())
    for name, of in _LIMITS.items():
        of_target = target.startswith("tensorrt") and name in _OF_ENGINES
        if name in given and not opened[of] and not of_target:
            flag = of.replace("_", "-")
            raise UsageError(f"--{name.replace('_', '-')} is of --{flag}. Try it with --{flag}")
    sizes = {
        name: Resolution.parse(options[name])
        for name in ("smallest", "largest")
        if options[name] is not None and opened["dynamic_resolution"]
    }
    return Limits.of(options["largest_batch"], **sizes)


def rebuild_only(context: click.Context, also: Collection[str] = ()) -> None:
    """Refuse options that a rebuild would not heed; `also` names those of its target that it does.

    Raises:
        UsageError: there is one.
    """
    heeded = {"target", "rebuild", "as_json", *_OF_ENGINES, *also}
    if wrong := sorted(given_options(context) - heeded):
        raise UsageError(
            f"--rebuild takes the bundle's ONNX as it is, but got --{wrong[0].replace('_', '-')}."
            " Leave that out, or export again without --rebuild"
        )


def print_engines(manifest: Manifest) -> None:
    """One line for each engine, and what the builder warned of."""
    from rich.markup import escape

    from depthmask.engine import PRODUCTS

    for header in manifest.engines:
        checked = (
            "verified on this GPU"
            if header.verified
            else "not run yet: it was built without its GPU"
        )
        console.print(
            f"{header.file}: {PRODUCTS[header.flavour]} {header.version} for"
            f" {', '.join(header.architectures)}, {header.precision}, {header.size_bytes / 1e6:.1f} MB,"
            f" built in {header.build_s:.1f} s, {checked}{_flags(header)}"
        )
        for warning in header.warnings:
            console.print(f"  builder: {escape(' '.join(warning.split()))}")


def _flags(header: EngineHeader) -> str:
    said = {
        "newer versions load it": header.version_compatible,
        "sm80 and newer run it": header.hardware_compatibility == "ampere-plus",
        "every GPU of its architecture runs it": header.hardware_compatibility
        == "same-compute-capability",
        "its weights are in the ONNX": header.stripped,
    }
    return "".join(f", {words}" for words, is_so in said.items() if is_so)


def given_options(context: click.Context) -> set[str]:
    """The options that the user wrote."""
    return {
        name
        for name in context.params
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
