"""Options that mean the same in every command, and what commands print with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import click
from rich.console import Console

from depthmask.frames import Resolution

Command = TypeVar("Command", bound=Callable[..., Any])
Value = TypeVar("Value")

console = Console(highlight=False)
"""For results, on stdout."""
messages = Console(stderr=True, highlight=False)
"""For progress and remarks, on stderr, so that stdout holds nothing but the result."""


class PathType(click.Path):
    """A path that the command itself checks: a missing input is exit 3, not click's 2."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)


class Parsed(click.ParamType[Value], Generic[Value]):
    """What `parse` makes of the text; its ValueError is the usage error."""

    def __init__(self, name: str, parse: Callable[[str], Value]) -> None:
        self.name = name
        self._parse = parse

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Value:
        """Parse what was typed; a default is a value already."""
        if not isinstance(value, str):
            return cast("Value", value)
        try:
            return self._parse(value)
        except ValueError as error:
            return self.fail(str(error), param, ctx)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _counts(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"must be numbers from 1 up, with commas, but got {text!r}.")
    return tuple(dict.fromkeys(int(part) for part in parts))


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise ValueError(f"must be numbers above 0, with commas, but got {text!r}.")
    return tuple(dict.fromkeys(rates))


RESOLUTIONS = Parsed("H[xW][,...]", Resolution.parse_list)
NAMES = Parsed("NAME[,...]", _names)
COUNTS = Parsed("N[,...]", _counts)
RATES = Parsed("N[,...]", _rates)


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator; `--help` lists them in this order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def given_options(context: click.Context) -> set[str]:
    """The options that the user wrote."""
    return {
        name
        for name in context.params
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }


def flag(name: str) -> str:
    """An option as it is written: `--largest-batch`."""
    return f"--{name.replace('_', '-')}"


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
    type=RESOLUTIONS,
    help="The size that the networks see, in pixels.",
)
runtime_option = click.option(
    "--runtime",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="onnxruntime, onnxruntime-tensorrt, openvino, tensorrt, tensorrt-rtx or torch.",
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
