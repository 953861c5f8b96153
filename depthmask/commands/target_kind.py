"""What one kind of target brings to `dmx export`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from depthmask.commands.options import together

if TYPE_CHECKING:
    from depthmask.bundle import Bundle
    from depthmask.export.targets import Target


@dataclass(frozen=True, kw_only=True)
class TargetKind:
    """Its options, what they mean, and what is said of what was made."""

    names: tuple[str, ...]
    """What `--to` calls it; the last one is what a user is told to try."""
    title: str
    """What its own options are of."""
    options: tuple[Callable[[Any], Any], ...]
    """Its own, as click's decorators."""
    shared: tuple[str, ...] = ()
    """Those that it heeds too."""
    chosen: Callable[[Mapping[str, Any]], Target]
    """The target that a command line asks for."""
    show: Callable[[Bundle], None]
    """Says what a bundle has of it; nothing, where it has none."""

    def own(self) -> tuple[str, ...]:
        """The names of its own options."""
        command = click.command("export")(together(*self.options)(lambda: None))
        return tuple(str(option.name) for option in command.params)
