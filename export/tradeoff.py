"""The trade-off of an int8 export, as `tradeoff.json` and drawn as `tradeoff.svg`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import msgspec

from depthmask.export.int8 import Tradeoff
from depthmask.frames import Resolution

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 40, 64
# Sizes of text of 11 px, as most fonts have them.
_CHARACTER_PX, _LINE_PX = 7.0, 11.0
_RADIUS_PX, _CHOSEN_RADIUS_PX = 3.5, 6.0
_HIGHEST_SHARE = 3.0
"""Points far beyond the budget would press all others flat: they are drawn at the upper edge."""
# The colours of the report's charts, in light and dark (Okabe and Ito).
_STYLE = """
svg { --ink: #222; --paper: #fff; --line: #8886; --k0: #0072b2; --k1: #d55e00; --k2: #009e73;
  --k3: #cc79a7; background: var(--paper); }
@media (prefers-color-scheme: dark) { svg { --ink: #ddd; --paper: #16181c; --k0: #4aa8e0;
  --k1: #ff8a4c; --k2: #35c79a; --k3: #e29bc4; } }
text { fill: var(--ink); } .paper { fill: var(--paper); } .title { font-size: 13px; }
.axis, .budget, .leader { stroke: var(--line); } .budget { stroke-dasharray: 5 4; }
.chosen { fill: none; stroke: var(--ink); stroke-width: 1.5; }
.c0 { fill: var(--k0); } .c1 { fill: var(--k1); } .c2 { fill: var(--k2); } .c3 { fill: var(--k3); }
.k0 { stroke: var(--k0); } .k1 { stroke: var(--k1); } .k2 { stroke: var(--k2); } .k3 { stroke: var(--k3); }
"""


def save_tradeoffs(tradeoffs: Mapping[Resolution, Tradeoff], folder: Path) -> None:
    """Write both files."""
    document = {"schema": 1, "resolutions": {str(r): t for r, t in tradeoffs.items()}}
    encoded = msgspec.json.format(msgspec.json.encode(document), indent=2)
    (folder / "tradeoff.json").write_bytes(encoded + b"\n")
    (folder / "tradeoff.svg").write_text(draw(tradeoffs), encoding="utf-8")


def draw(tradeoffs: Mapping[Resolution, Tradeoff]) -> str:
    """One plot per resolution: latency to the right, upwards the share of the budget that is lost.

    Each mark has the number of sites in int8 beside it. In the colours of the reader's light or dark mode.
    """
    plots = [
        f'<g transform="translate(0 {number * _HEIGHT})">{_plot(resolution, tradeoff)}</g>'
        for number, (resolution, tradeoff) in enumerate(tradeoffs.items())
    ]
    height = _HEIGHT * len(plots)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}"'
        f' height="{height}" font-family="sans-serif" font-size="11"><style>{_STYLE}</style>'
        f'<rect class="paper" width="100%" height="100%"/>{"".join(plots)}</svg>\n'
    )


@dataclass(frozen=True)
class Box:
    """A part of the plot that is taken, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Whether the two share more than an edge."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


@dataclass
class Labels:
    """Places for words beside marks: none over another, over a mark, or outside of the plot."""

    bounds: Box
    taken: list[Box] = field(default_factory=list)

    def avoid(self, x: float, y: float, radius: float) -> None:
        """Leave a mark free."""
        self.taken.append(Box(x - radius, y - radius, x + radius, y + radius))

    def place(self, x: float, y: float, radius: float, words: str) -> Box | None:
        """The nearest free place beside a mark; None where everything around is taken."""
        width = _CHARACTER_PX * len(words)
        for left, top in _around(x, y, radius, width):
            box = Box(left, top, left + width, top + _LINE_PX)
            inside = (
                self.bounds.left <= box.left
                and box.right <= self.bounds.right
                and self.bounds.top <= box.top
                and box.bottom <= self.bounds.bottom
            )
            if inside and not any(box.overlaps(other) for other in self.taken):
                self.taken.append(box)
                return box
        return None


def _around(x: float, y: float, radius: float, width: float) -> Iterator[tuple[float, float]]:
    """Left upper corners of a label beside a mark, the nearest first."""
    for distance in (2.0, 10.0, 20.0, 32.0, 46.0, 62.0):
        gap = radius + distance
        above, below = y - gap - _LINE_PX, y + gap
        yield x + gap, y - _LINE_PX / 2
        yield x - gap - width, y - _LINE_PX / 2
        for left in (x - width / 2, x + gap, x - gap - width):
            yield left, above
            yield left, below


def _plot(resolution: Resolution, tradeoff: Tradeoff) -> str:
    points = tradeoff.points
    runtimes = list(points[0].latency_ms)
    longest_ms = max((ms for p in points for ms in p.latency_ms.values()), default=1.0)
    highest = min(max(1.2, *(p.budget_share for p in points)), _HIGHEST_SHARE)
    beyond = "+" if any(point.budget_share > highest for point in points) else ""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x(ms: float) -> float:
        return _LEFT + (right - _LEFT) * ms / (1.05 * longest_ms)

    def y(share: float) -> float:
        return bottom - (bottom - _TOP) * min(max(share, 0), highest) / highest

    parts = [
        _text(_LEFT, 18, f"int8 at {resolution}: accuracy lost by latency", kind="title"),
        _line(_LEFT, bottom, right, bottom, "axis"),
        _line(_LEFT, bottom, _LEFT, _TOP, "axis"),
        _line(_LEFT, y(1), right, y(1), "budget"),
        _text(_LEFT - 6, y(0) + 4, "0", anchor="end"),
        _text(_LEFT - 6, y(1) + 4, "budget", anchor="end"),
        _text(_LEFT - 6, y(highest) + 4, f"{highest:.2g}x{beyond}", anchor="end"),
        *(
            _text(x(share * longest_ms), bottom + 15, f"{share * longest_ms:.3g}", anchor="middle")
            for share in (0, 0.25, 0.5, 0.75, 1)
        ),
        _text((_LEFT + right) / 2, bottom + 30, "milliseconds on this machine", anchor="middle"),
    ]
    labels = Labels(Box(_LEFT + 2, _TOP - 14, _WIDTH - 2, bottom - 1))
    marks = [
        (
            x(point.latency_ms[runtime]),
            y(point.budget_share),
            _CHOSEN_RADIUS_PX if index == tradeoff.chosen else _RADIUS_PX,
            number % 4,
            str(point.int8_sites),
        )
        for number, runtime in enumerate(runtimes)
        for index, point in enumerate(points)
    ]
    for left, top, radius, _, _ in marks:
        labels.avoid(left, top, radius)
    for left, top, radius, colour, words in marks:
        parts.append(_mark(left, top, radius, colour, words))
        box = labels.place(left, top, radius, words)
        if box is None:
            continue  # the pointer still shows it
        centre = (box.left + box.right) / 2, (box.top + box.bottom) / 2
        if max(abs(centre[0] - left), abs(centre[1] - top)) > radius + 14:
            parts.append(_line(left, top, *centre, f"leader k{colour}", opacity=0.35))
        parts.append(_text(box.left, box.bottom - 2, words, kind=f"c{colour}"))
    left = float(_LEFT)
    for number, runtime in enumerate(runtimes):
        parts.append(f'<circle class="c{number % 4}" cx="{left}" cy="{_HEIGHT - 14}" r="4"/>')
        parts.append(_text(left + 8, _HEIGHT - 10, runtime))
        left += 30 + _CHARACTER_PX * len(runtime)
    parts.append(_text(left, _HEIGHT - 10, "numbers: convolutions in int8; ring: exported"))
    return "".join(parts)


def _mark(x: float, y: float, radius: float, colour: int, words: str) -> str:
    title = f"<title>{escape(words)} convolutions in int8</title>"
    ring = radius == _CHOSEN_RADIUS_PX
    drawn = f'<circle class="c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS_PX}">{title}</circle>'
    if ring:
        drawn += f'<circle class="chosen" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
    return drawn


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, opacity: float = 1.0) -> str:
    return (
        f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        f' opacity="{opacity:g}"/>'
    )


def _text(x: float, y: float, text: str, *, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )
