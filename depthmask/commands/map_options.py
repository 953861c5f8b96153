"""`dmx run --smooth-ms` and `--skip-identical`: what else is done with the maps of a video."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from depthmask.commands.options import together
from depthmask.errors import UsageError

if TYPE_CHECKING:
    from depthmask.video.frame import Source


map_options = together(
    click.option(
        "--smooth-ms",
        type=click.FloatRange(min=0, min_open=True),
        metavar="T",
        help="Average mask and depth over time where the picture stands still, with the time constant"
        " T. Less flicker, but what changes only slowly shows about T late; what moves is not"
        " delayed. 100 is a start. Off by default.",
    ),
    click.option(
        "--skip-identical",
        is_flag=True,
        help="No inference on a frame that equals the one before in every bit (slides, screen"
        " recordings, a frozen camera): its maps are used again. Off by default.",
    ),
)
"""--smooth-ms and --skip-identical."""


def check_map_options(source: Source, smooth_ms: float | None, *, skip_identical: bool) -> None:
    """Refuse for photographs what only a video has.

    Raises:
        UsageError: photographs have no time.
    """
    given = [
        name
        for name, on in (("--smooth-ms", smooth_ms), ("--skip-identical", skip_identical))
        if on
    ]
    if given and source.kind == "images":
        raise UsageError(
            f"{given[0]} must go with a video or a camera, but {source.name} is photographs, which have no"
            " time"
        )
