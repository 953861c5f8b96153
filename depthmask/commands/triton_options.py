"""What `dmx export --to triton` may be told, and what is said about the model repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from depthmask.commands.engine_options import given_options
from depthmask.commands.options import console
from depthmask.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from depthmask.bundle import Manifest
    from depthmask.export.to_triton import RepositoryOptions

    Command = TypeVar("Command", bound=Callable[..., Any])

OF_TRITON = ("instances", "largest_batch", "profile", "threads")


def triton_options(command: Command) -> Command:
    """What belongs to `--to triton` alone."""
    option = click.option(
        "--instances",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Copies of a model that Triton runs at the same time; --for says where.",
    )
    return option(command)


def chosen_repository(
    target: Any,  # noqa: ANN401
    options: Mapping[str, Any],
    *,
    device: Any,  # noqa: ANN401
    threads: int | None,
) -> RepositoryOptions | None:
    """How Triton is to run the bundle; None: not asked for.

    Raises:
        UsageError: an option of it without it.
    """
    if target != "triton":
        if "instances" in given_options(click.get_current_context()):
            raise UsageError(f"--instances is of Triton, but --to is {target}. Try --to triton")
        return None
    from depthmask.export.to_triton import RepositoryOptions
    from depthmask.profiles import PROFILE_BATCH

    return RepositoryOptions(
        device=device,
        instances=options["instances"],
        threads=threads,
        largest_batch=options["largest_batch"] or PROFILE_BATCH,
    )


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
