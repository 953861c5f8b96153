"""The trade-off of an int8 export, as `tradeoff.json` and drawn as `tradeoff.svg`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

import msgspec

from depthmask.export.int8 import Tradeoff
from depthmask.frames import Resolution

_WIDTH, _HEIGHT, _MARGIN = 560, 240, 56
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")


def save_tradeoffs(tradeoffs: Mapping[Resolution, Tradeoff], folder: Path) -> None:
    """Write both files."""
    document = {"schema": 1, "resolutions": {str(r): t for r, t in tradeoffs.items()}}
    encoded = msgspec.json.format(msgspec.json.encode(document), indent=2)
    (folder / "tradeoff.json").write_bytes(encoded + b"\n")
    (folder / "tradeoff.svg").write_text(draw(tradeoffs), encoding="utf-8")


def draw(tradeoffs: Mapping[Resolution, Tradeoff]) -> str:
    """One plot per resolution: latency to the right, upwards the share of the budget that is lost."""
    plots = [
        f'<g transform="translate(0 {number * _HEIGHT})">{_plot(resolution, tradeoff)}</g>'
        for number, (resolution, tradeoff) in enumerate(tradeoffs.items())
    ]
    height = _HEIGHT * len(plots)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}"'
        f' height="{height}" font-family="sans-serif" font-size="11">'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(plots)}</svg>\n'
    )


def _plot(resolution: Resolution, tradeoff: Tradeoff) -> str:
    points = tradeoff.points
    runtimes = list(points[0].latency_ms)
    longest_ms = max((ms for p in points for ms in p.latency_ms.values()), default=1.0)
    # Points far beyond the budget would press all others flat.
    highest = min(max(1.2, *(p.budget_share for p in points)), 3.0)

    def x(ms: float) -> float:
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * ms / longest_ms

    def y(share: float) -> float:
        return _HEIGHT - 40 - (_HEIGHT - 70) * min(max(share, 0), highest) / highest

    parts = [
        _text(_MARGIN, 16, f"{resolution}: share of the budget lost, by latency"),
        _line(x(0), y(0), x(longest_ms), y(0), "black"),
        _line(x(0), y(0), x(0), y(highest), "black"),
        _line(x(0), y(1), x(longest_ms), y(1), "#888"),
        _text(4, y(1) + 4, "budget"),
        _text(x(longest_ms) - 50, y(0) + 28, f"{longest_ms:.1f} ms"),
    ]
    for number, runtime in enumerate(runtimes):
        colour = _COLOURS[number % len(_COLOURS)]
        parts.append(_text(_MARGIN + 120 * number, y(0) + 28, runtime, colour))
        for index, point in enumerate(points):
            left, top = x(point.latency_ms[runtime]), y(point.budget_share)
            radius = 6 if index == tradeoff.chosen else 3
            parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{radius}" fill="{colour}"/>')
            parts.append(_text(left + 5, top - 5 - 9 * (index % 3), str(point.int8_sites), colour))
    return "".join(parts)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, colour: str = "black") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{escape(text)}</text>'
