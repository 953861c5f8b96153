"""Options that mean the same in every command, and what commands print with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from depthmask.frames import Resolution

Command = TypeVar("Command", bound=Callable[..., Any])

console = Console(highlight=False)
"""For results, on stdout."""
messages = Console(stderr=True, highlight=False)
"""For progress and remarks, on stderr, so that stdout holds nothing but the result."""


class PathType(click.Path):
    """A path that the command itself checks: a missing input is exit 3, not click's 2."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)


class ResolutionList(click.ParamType[tuple[Resolution, ...]]):
    """`224`, `192x256` or several with commas, smallest first."""

    name = "H[xW][,...]"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[Resolution, ...]:
        """Parse; an unusable resolution is a UsageError."""
        return Resolution.parse_list(value) if isinstance(value, str) else value


class NameList(click.ParamType[tuple[str, ...]]):
    """One name or several with commas."""

    name = "NAME[,...]"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, ...]:
        """Split and strip."""
        return (
            tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
            if isinstance(value, str)
            else value
        )


class CountList(click.ParamType[tuple[int, ...]]):
    """One number from 1 up, or several with commas."""

    name = "N[,...]"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[int, ...]:
        """Parse."""
        if not isinstance(value, str):
            return tuple(value)
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"must be numbers from 1 up, with commas, but got {value!r}.", param, ctx)
        return tuple(dict.fromkeys(int(part) for part in parts))


class RateList(click.ParamType[tuple[float, ...]]):
    """One number above 0, or several with commas."""

    name = "N[,...]"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[float, ...]:
        """Parse."""
        if not isinstance(value, str):
            return tuple(value)
        try:
            rates = [float(part) for part in value.split(",")]
        except ValueError:
            rates = []
        if not rates or not all(0 < rate < math.inf for rate in rates):
            self.fail(f"must be numbers above 0, with commas, but got {value!r}.", param, ctx)
        return tuple(dict.fromkeys(rates))


def out_option(help_text: str, *, required: bool = False) -> Callable[[Command], Command]:
    """`--out PATH`."""
    return click.option("--out", type=PathType(), required=required, help=help_text)


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an output that exists.")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the result as JSON on stdout, and nothing else."
)
preset_option = click.option(
    "--preset", metavar="NAME", help="lite (the default), lite-relevance, seed or hu2019."
)
checkpoint_option = click.option(
    "--checkpoint", type=PathType(), help="A checkpoint folder, by `dmx train` or `dmx import`."
)
resolutions_option = click.option(
    "--resolution",
    "--resolutions",
    "resolutions",
    type=ResolutionList(),
    help="The size that the networks see, in pixels.",
)
runtime_option = click.option(
    "--runtime",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="onnxruntime, openvino, tensorrt, tensorrt-rtx or torch.",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="cpu or cuda; a device that is not there is an error, never replaced.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads for inference."
)
data_option = click.option(
    "--data", type=PathType(), help="A data set folder; by default the shipped samples."
)


def print_json(result: Any) -> None:  # noqa: ANN401
    """Print a result for machines."""
    click.echo(json.dumps(result, indent=2, allow_nan=False))
