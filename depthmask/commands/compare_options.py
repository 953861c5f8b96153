"""How sure a comparison must be, and what of it fails a command."""

from __future__ import annotations

import math
from typing import Any

import click

_LIMITS = ("slower", "p99-slower")


def parse_share(text: str) -> float | None:
    """`3%` or `0.03` as a share; None if it is neither."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number)
    except ValueError:
        return None
    return (value / 100 if percent else value) if math.isfinite(value) else None


class Share(click.ParamType[float]):
    """A share, as `2%` or `0.02`."""

    name = "SHARE"

    def __init__(self, least: float, most: float) -> None:
        self._least = least
        self._most = most

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> float:
        """Parse; anything else is a usage error."""
        share = parse_share(value) if isinstance(value, str) else float(value)
        if share is None or not self._least <= share <= self._most:
            least, most = f"{100 * self._least:g}%", f"{100 * self._most:g}%"
            self.fail(
                f"it must be {least} to {most}, as in 2% or 0.02, but got {value!r}", param, ctx
            )
        return share


class FailIf(click.ParamType[tuple[str, float]]):
    """`slower=3%` or `p99-slower=10%`."""

    name = "slower=SHARE"

    def convert(
        self,
        value: Any,  # noqa: ANN401
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, float]:
        """Parse; anything else is a usage error."""
        if isinstance(value, tuple):
            return value
        name, _, text = str(value).partition("=")
        share = parse_share(text)
        if name.strip() not in _LIMITS or share is None or share < 0:
            self.fail(
                f"it must be slower=SHARE or p99-slower=SHARE, as in slower=3%, but got {value!r}",
                param,
                ctx,
            )
        return name.strip(), share


confidence_option = click.option(
    "--confidence",
    type=Share(0.5, 0.999),
    default="99%",
    show_default=True,
    help="Of the intervals.",
)
tolerance_option = click.option(
    "--tolerance",
    type=Share(0, 0.5),
    default="2%",
    show_default=True,
    help="The change that does not matter.",
)
fail_if_option = click.option(
    "--fail-if",
    type=FailIf(),
    multiple=True,
    help="Exit 1 if a cell's median (p99-slower: its p99) is proven slower by more; may be repeated.",
)
