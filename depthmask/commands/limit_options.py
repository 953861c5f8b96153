"""The limits of an open batch and resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from depthmask.commands.options import flag, given_options, together
from depthmask.errors import UsageError
from depthmask.frames import Resolution

if TYPE_CHECKING:
    from collections.abc import Mapping

    from depthmask.bundle import Limits

_LIMITS = {
    "largest_batch": "dynamic_batch",
    "largest": "dynamic_resolution",
    "smallest": "dynamic_resolution",
}
"""Limits, and what they are of."""
OF_ENGINES = ("largest", "largest_batch")
"""Those that engines have too, without either."""

limit_options = together(
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
)


def chosen_limits(options: Mapping[str, Any], opened: Mapping[str, bool]) -> Limits:
    """The limits of an open batch and resolution.

    Args:
        options: of the command line.
        opened: whether `dynamic_batch` and `dynamic_resolution` were asked for.

    Raises:
        UsageError: a limit of what is not open, or an unusable one.
    """
    from depthmask.bundle import Limits

    given = given_options(click.get_current_context())
    for name, of in _LIMITS.items():
        of_target = options["target"].startswith("tensorrt") and name in OF_ENGINES
        if name in given and not opened[of] and not of_target:
            raise UsageError(f"{flag(name)} is of {flag(of)}. Try it with {flag(of)}")
    sizes = {
        name: Resolution.parse(options[name])
        for name in ("smallest", "largest")
        if options[name] is not None and opened["dynamic_resolution"]
    }
    return Limits.of(options["largest_batch"], **sizes)
