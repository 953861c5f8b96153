"""What `dmx export` may say about what stands beside the ONNX: TensorRT engines, Triton's repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from depthmask.commands.options import NAMES, PathType, console
from depthmask.errors import UsageError
from depthmask.frames import Resolution

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from depthmask.bundle import Manifest
    from depthmask.export.engines import EngineOptions
    from depthmask.export.to_triton import RepositoryOptions

    Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--to",
        "target",
        type=click.Choice(["onnx", "tensorrt", "tensorrt-rtx", "triton"]),
        default="onnx",
        show_default=True,
        help="Beside the ONNX: engines (tensorrt builds for the GPU here, tensorrt-rtx for any by --gpu), or"
        " triton's model repository.",
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
        "--largest",
        metavar="HxW",
        help="The largest frame that an engine takes, or the largest dynamic resolution; 2160x3840 or"
        " 1024x1024 by default.",
    ),
    click.option(
        "--largest-batch",
        type=click.IntRange(min=1),
        default=8,
        show_default=True,
        help="Of an engine or of Triton's batches, with --dynamic-batch.",
    ),
    click.option(
        "--instances",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Copies of a model that Triton runs at the same time; --for says where.",
    ),
    click.option(
        "--rebuild",
        type=PathType(),
        metavar="BUNDLE",
        help="Make again what --to names, from the ONNX that this bundle holds; needs no torch.",
    ),
)
_OF_ENGINES = ("gpu", "workspace_mib", "builder_level", "largest", "largest_batch")
_OF_TRITON = ("instances", "largest_batch")


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
    given = _given(click.get_current_context())
    heeded = {"onnx": (), "triton": _OF_TRITON}.get(target, _OF_ENGINES)
    for name in (*_OF_ENGINES, *_OF_TRITON):
        if name in given and name not in heeded:
            of, other = ("engines", "tensorrt-rtx") if name in _OF_ENGINES else ("Triton", "triton")
            raise UsageError(
                f"--{name.replace('_', '-')} is of {of}, but --to is {target}. Try --to {other}"
            )
    if target in ("onnx", "triton"):
        return None
    from depthmask.export.engines import EngineOptions

    largest = options["largest"]
    return EngineOptions(
        flavour=target,
        architectures=options["gpu"] or (),
        workspace_mib=options["workspace_mib"],
        level=options["builder_level"],
        largest_batch=options["largest_batch"],
        largest=Resolution.parse(largest) if largest is not None else None,
    )


def chosen_repository(
    target: Any,  # noqa: ANN401
    options: Mapping[str, Any],
    *,
    device: Any,  # noqa: ANN401
    threads: int | None,
) -> RepositoryOptions | None:
    """How Triton is to run the bundle; None: not asked for."""
    if target != "triton":
        return None
    from depthmask.export.to_triton import RepositoryOptions

    return RepositoryOptions(
        device=device,
        instances=options["instances"],
        threads=threads,
        largest_batch=options["largest_batch"],
    )


def rebuild_only(context: click.Context) -> None:
    """Refuse options that a rebuild would not heed.

    Raises:
        UsageError: there is one.
    """
    heeded = {"target", "rebuild", "as_json", *_OF_ENGINES}
    if context.params["target"] == "triton":
        heeded |= {"profile", "threads", *_OF_TRITON}
    if wrong := sorted(_given(context) - heeded):
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
            f" built in {header.build_s:.1f} s, {checked}"
        )
        for warning in header.warnings:
            console.print(f"  builder: {escape(' '.join(warning.split()))}")


def print_repository(manifest: Manifest) -> None:
    """The models that Triton would serve, and engines that it cannot."""
    configs = [Path(name) for name in manifest.files if name.endswith("/config.pbtxt")]
    if not configs:
        return
    served = ", ".join(path.parent.name for path in configs)
    console.print(f"{configs[0].parts[0]}/ is Triton's model repository: {served}")
    if any(header.flavour == "tensorrt-rtx" for header in manifest.engines):
        console.print(
            "The engines are TensorRT-RTX's, which Triton does not load: the ONNX is served"
        )


def _given(context: click.Context) -> set[str]:
    """The options that the user wrote."""
    return {
        name
        for name in context.params
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
