"""What `dmx export` makes beside the ONNX: `--to`, `--rebuild`, and the options of every kind of target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from depthmask.commands.engine_options import ENGINES
from depthmask.commands.limit_options import limit_options
from depthmask.commands.options import PathType, flag, given_options, together
from depthmask.commands.triton_options import TRITON
from depthmask.commands.web_options import WEB
from depthmask.errors import UsageError

if TYPE_CHECKING:
    from depthmask.bundle import Bundle
    from depthmask.export.targets import Target

_KINDS = (ENGINES, WEB, TRITON)

target_options = together(
    click.option(
        "--to",
        "target",
        type=click.Choice(["onnx", *(name for kind in _KINDS for name in kind.names)]),
        default="onnx",
        show_default=True,
        help="Beside the ONNX: engines (tensorrt builds for the GPU here, tensorrt-rtx for any by --gpu),"
        " web/, a page that runs the chain in the browser, or triton/, a model repository.",
    ),
    *ENGINES.options,
    limit_options,
    click.option(
        "--rebuild",
        type=PathType(),
        metavar="BUNDLE",
        help="Make again what --to names, from the ONNX that this bundle holds; needs no torch.",
    ),
    *WEB.options,
    *TRITON.options,
)


def chosen_target(context: click.Context) -> Target | None:
    """What is made beside the ONNX; None: nothing.

    Raises:
        UsageError: an option of another kind of target, or an unusable one.
    """
    name, given = context.params["target"], given_options(context)
    target = None
    for kind in _KINDS:
        if name in kind.names:
            target = kind.chosen(context.params)
        elif wrong := [option for option in kind.own() if option in given]:
            raise UsageError(
                f"{flag(wrong[0])} is of {kind.title}, but --to is {name}. Try --to {kind.names[-1]}"
            )
    return target


def check_rebuild(context: click.Context) -> None:
    """Refuse options that a rebuild would not heed.

    Raises:
        UsageError: there is one.
    """
    heeded = {"target", "rebuild", "as_json"}
    for kind in _KINDS:
        if context.params["target"] in kind.names:
            heeded |= {*kind.own(), *kind.shared}
    if wrong := sorted(given_options(context) - heeded):
        raise UsageError(
            f"--rebuild takes the bundle's ONNX as it is, but got {flag(wrong[0])}."
            " Leave that out, or export again without --rebuild"
        )


def print_targets(bundle: Bundle) -> None:
    """What a bundle has beside its ONNX."""
    for kind in _KINDS:
        kind.show(bundle)
