"""`--mask-onnx`, `--mask-layout` and the like: a stage that is somebody else's, and what it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from depthmask.commands.options import Command, Parsed, PathType, together

if TYPE_CHECKING:
    from depthmask.presets import StageInput

ROLES = ("mask", "depth")


def _triple(text: str) -> tuple[float, float, float]:
    try:
        first, second, third = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"must be three numbers with commas, but got {text!r}.") from None
    return first, second, third


_TRIPLE = Parsed("X,X,X", _triple)


def _options(role: str) -> Callable[[Command], Command]:
    return together(
        click.option(
            f"--{role}-onnx", type=PathType(), help=f"An ONNX file as the {role} network."
        ),
        click.option(f"--{role}-layout", type=click.Choice(["nchw", "nhwc"]), help="Of its input."),
        click.option(f"--{role}-order", type=click.Choice(["rgb", "bgr"]), help="Of its channels."),
        click.option(
            f"--{role}-range",
            type=click.Choice(["0..1", "0..255", "-1..1"]),
            help="Black and white, before mean and std; 0..1 by default.",
        ),
        click.option(
            f"--{role}-mean", type=_TRIPLE, help="In the range's unit and its channels' order."
        ),
        click.option(f"--{role}-std", type=_TRIPLE, help="Likewise."),
    )


stage_options = together(*map(_options, ROLES))
"""The options of both stages; their values come as keyword arguments, for `stage_input`."""


def stage_input(role: str, values: dict[str, Any]) -> StageInput | None:
    """What was said of a stage's input; None where nothing was."""
    from depthmask.presets import StageInput

    given = {
        field: values[f"{role}_{field}"]
        for field in ("layout", "order", "range", "mean", "std")
        if values[f"{role}_{field}"] is not None
    }
    return StageInput(**given) if given else None
