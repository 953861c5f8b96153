"""Charts as SVG for a page: they take the page's colours, so that they are right in light, dark and print.

Coordinates are in pixels of the chart; a chart scales with the page. Text is escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

SHAPES = ("circle", "square", "diamond", "triangle", "down", "cross")
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 44
_FEWEST_TICKS = 3


@dataclass(frozen=True)
class Scale:
    """Values to the share of an axis, from 0 to 1, linear or logarithmic."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], *, log: bool = False, margin: float = 0.06) -> Scale:
        """With a little room on both sides; values on a logarithmic scale must be above 0."""
        low, high = min(values), max(values)
        if log:
            room = max((high / low) ** margin, 1.05)
            return cls(low / room, high * room, log=True)
        room = margin * (high - low) or 0.5 * abs(high) or 0.5
        return cls(low - room, high + room)

    def share(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values inside: 1, 2 or 5 times a power of ten."""
        return self._log_ticks() if self.log else self._linear_ticks()

    def _linear_ticks(self) -> list[float]:
        raw = (self.high - self.low) / 6
        power = 10 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
        first = math.ceil(self.low / step)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
            found = [f * 10.0**p for p in powers for f in factors]
            inside = [value for value in found if self.low <= value <= self.high]
            if len(inside) >= _FEWEST_TICKS:
                return inside
        return self._linear_ticks()


@dataclass
class Chart:
    """An area with two axes; marks are added in its own units."""

    x: Scale
    y: Scale
    x_label: str
    y_label: str = ""
    width: int = 460
    height: int = 320
    left: int = _LEFT
    y_ticks: bool = True
    _parts: list[str] = field(default_factory=list)

    def line(self, points: Sequence[tuple[float, float]], kind: str = "front") -> None:
        """A line through points; `kind` is its class in the page's style."""
        path = " ".join(f"{self._px(x):.1f},{self._py(y):.1f}" for x, y in points)
        self._parts.append(f'<polyline class="{kind}" points="{path}"/>')

    def mark(
        self, x: float, y: float, colour: int, shape: int, title: str, *, faint: bool = False
    ) -> None:
        """A mark, with a text that a pointer shows."""
        px, py = self._px(x), self._py(y)
        body = _shape(SHAPES[shape % len(SHAPES)], px, py)
        kind = f"c{colour % 8}{' faint' if faint else ''}"
        self._parts.append(f'<g class="{kind}"><title>{escape(title)}</title>{body}</g>')

    def bar(self, x0: float, x1: float, y: float, thickness: float, kind: str, title: str) -> None:
        """A horizontal bar from x0 to x1; `thickness` in units of y."""
        top, bottom = self._py(y + thickness / 2), self._py(y - thickness / 2)
        if top > bottom:
            top, bottom = bottom, top
        left = self._px(x0)
        self._parts.append(
            f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{self._px(x1) - left:.1f}"'
            f' height="{bottom - top:.1f}"><title>{escape(title)}</title></rect>'
        )

    def dot(self, x: float, y: float, kind: str = "dot") -> None:
        """A small point."""
        self._parts.append(
            f'<circle class="{kind}" cx="{self._px(x):.1f}" cy="{self._py(y):.1f}" r="1.4"/>'
        )

    def row_label(self, y: float, words: str) -> None:
        """Words left of the area."""
        self._parts.append(
            f'<text x="{self.left - 8}" y="{self._py(y):.1f}" dy="0.35em"'
            f' text-anchor="end">{escape(words)}</text>'
        )

    def svg(self, description: str) -> str:
        """The chart; `description` is for those who cannot see it."""
        bottom, right = self.height - _BOTTOM, self.width - _RIGHT
        parts = [
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img"'
            f' style="max-width:{self.width * 1.4:.0f}px"><title>{escape(description)}</title>'
        ]
        for value in self.x.ticks():
            px = self._px(value)
            parts.append(
                f'<line class="grid" x1="{px:.1f}" x2="{px:.1f}" y1="{_TOP}" y2="{bottom}"/>'
                f'<text x="{px:.1f}" y="{bottom + 15}" text-anchor="middle">{value:g}</text>'
            )
        if self.y_ticks:
            for value in self.y.ticks():
                py = self._py(value)
                parts.append(
                    f'<line class="grid" x1="{self.left}" x2="{right}" y1="{py:.1f}" y2="{py:.1f}"/>'
                    f'<text x="{self.left - 6}" y="{py:.1f}" dy="0.35em" text-anchor="end">'
                    f"{value:g}</text>"
                )
        middle = (self.left + right) / 2
        parts.append(
            f'<text class="label" x="{middle:.0f}" y="{self.height - 8}" text-anchor="middle">'
            f"{escape(self.x_label)}</text>"
        )
        if self.y_label:
            parts.append(
                f'<text class="label" text-anchor="middle" transform="translate(12 {bottom / 2:.0f})'
                f' rotate(-90)">{escape(self.y_label)}</text>'
            )
        return "".join([*parts, *self._parts, "</svg>"])

    def _px(self, x: float) -> float:
        return self.left + self.x.share(x) * (self.width - _RIGHT - self.left)

    def _py(self, y: float) -> float:
        return self.height - _BOTTOM - self.y.share(y) * (self.height - _BOTTOM - _TOP)


def swatch(colour: int | None, shape: int | None, words: str) -> str:
    """One entry of a legend."""
    drawn = _shape(SHAPES[(shape or 0) % len(SHAPES)], 7, 7)
    kind = "plain" if colour is None else f"c{colour % 8}"
    return (
        f'<span class="key"><svg viewBox="0 0 14 14" width="14" height="14"><g class="{kind}">'
        f"{drawn}</g></svg>{escape(words)}</span>"
    )


def _shape(name: str, x: float, y: float, r: float = 5.0) -> str:
    if name == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    corners = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        "down": ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
        "cross": (
            (-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4),
            (0.4, 1.2), (-0.4, 1.2), (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4),
        ),
    }[name]  # fmt: skip
    points = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}"/>'
