"""How sure a comparison must be, and what of it fails a command."""

from __future__ import annotations

import math

import click

from depthmask.commands.options import Parsed

_LIMITS = ("slower", "p99-slower")


def _share(text: str) -> float | None:
    """`3%` or `0.03` as a share; None if it is neither."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number)
    except ValueError:
        return None
    return (value / 100 if percent else value) if math.isfinite(value) else None


def _share_between(least: float, most: float) -> Parsed[float]:
    def parse(text: str) -> float:
        share = _share(text)
        if share is None or not least <= share <= most:
            raise ValueError(
                f"it must be {100 * least:g}% to {100 * most:g}%, as in 2% or 0.02, but got {text!r}"
            )
        return share

    return Parsed("SHARE", parse)


def _limit(text: str) -> tuple[str, float]:
    name, _, after = text.partition("=")
    share = _share(after)
    if name.strip() not in _LIMITS or share is None or share < 0:
        raise ValueError(
            f"it must be slower=SHARE or p99-slower=SHARE, as in slower=3%, but got {text!r}"
        )
    return name.strip(), share


confidence_option = click.option(
    "--confidence",
    type=_share_between(0.5, 0.999),
    default="99%",
    show_default=True,
    help="Of the intervals.",
)
tolerance_option = click.option(
    "--tolerance",
    type=_share_between(0, 0.5),
    default="2%",
    show_default=True,
    help="The change that does not matter.",
)
fail_if_option = click.option(
    "--fail-if",
    type=Parsed("slower=SHARE", _limit),
    multiple=True,
    help="Exit 1 if a cell's median (p99-slower: its p99) is proven slower by more; may be repeated.",
)
