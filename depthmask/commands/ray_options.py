"""--engine and --address: on this machine, or on a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import click

from depthmask.commands.options import together
from depthmask.errors import UsageError

ray_options = together(
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Where the work is done: here, or on a Ray cluster (extra `ray`, docs/scale.md).",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="Of the Ray cluster.  [default: $RAY_ADDRESS, else one of this machine's own]",
    ),
)
"""Both options."""


@contextmanager
def ray_connection(address: str | None, workers: int | None) -> Iterator[int]:
    """As `ray_engine.connected`, but what Ray prints of its own accord goes to stderr."""
    from depthmask.ray_engine import connected

    with redirect_stdout(sys.stderr), connected(address, workers) as count:
        yield count


def check_engine(engine: str, address: str | None, out: str | None) -> None:
    """Refuse what only Ray has, before any work.

    Raises:
        UsageError: an address or a store without `--engine ray`, or a store that fsspec does not know.
        UnavailableError: the store's package is not installed.

    """
    from depthmask.storage import Storage, is_url

    if engine == "ray":
        if out is not None and is_url(out):
            Storage(out).check()
        return
    if address is not None:
        raise UsageError("--address is of --engine ray, but got --engine local. Try --engine ray")
    if out is not None and is_url(out):
        raise UsageError(
            f"--out must be a folder for --engine local, but got {out}. Try --engine ray"
        )
