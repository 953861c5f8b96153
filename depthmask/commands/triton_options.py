"""What `dmx export --to triton` may be told, and what is said about the model repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from depthmask.commands.options import console
from depthmask.commands.target_kind import TargetKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from depthmask.bundle import Bundle
    from depthmask.export.to_triton import RepositoryOptions

_OPTIONS = (
    click.option(
        "--instances",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Copies of a model that Triton runs at the same time; --for says where.",
    ),
)


def _chosen(options: Mapping[str, Any]) -> RepositoryOptions:
    from depthmask.export.to_triton import RepositoryOptions
    from depthmask.profiles import PROFILE_BATCH

    return RepositoryOptions(
        device=options["profile"],
        instances=options["instances"],
        threads=options["threads"],
        largest_batch=options["largest_batch"] or PROFILE_BATCH,
    )


def _show(bundle: Bundle) -> None:
    """The models that Triton would serve, and engines that it cannot."""
    configs = [Path(name) for name in bundle.manifest.files if name.endswith("/config.pbtxt")]
    if not configs:
        return
    served = ", ".join(path.parent.name for path in configs)
    console.print(f"{configs[0].parts[0]}/ is Triton's model repository: {served}")
    if any(header.flavour == "tensorrt-rtx" for header in bundle.manifest.engines):
        console.print(
            "The engines are TensorRT-RTX's, which Triton does not load: the ONNX is served"
        )


TRITON = TargetKind(
    names=("triton",),
    title="Triton",
    options=_OPTIONS,
    shared=("largest_batch", "profile", "threads"),
    chosen=_chosen,
    show=_show,
)
