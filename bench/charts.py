"""The charts of a benchmark, as SVG: what accuracy costs in time, how times spread, what they consist of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from depthmask.bench.result import BenchResult, Cell
from depthmask.bench.roofline import Roofline
from depthmask.bench.svg import SHAPES, Chart, Scale, swatch
from depthmask.frames import Resolution

_ROW_PX = 24
_LABEL_PX = 210
_MOST_DOTS = 300
_WHISKER = 1.5
"""Of the distance of the quartiles (Tukey, 1977)."""

Accuracy = Callable[[Cell], float | None]


def mask_iou(cell: Cell) -> float | None:
    """The mask's, over the data set."""
    return cell.accuracy.mask.iou if cell.accuracy and cell.accuracy.mask else None


def depth_delta1(cell: Cell) -> float | None:
    """The depth's where this kind of chain is judged, median-scaled."""
    return cell.depth.median_scaled.delta1 if cell.depth else None


def pareto(result: BenchResult, value_of: Accuracy, label: str) -> str | None:
    """Latency against accuracy, a mark per cell; None where nothing was judged.

    The line is the front: no other cell is both faster and more accurate than one on it.
    """
    shown = [
        (cell, cell.latency.p50_ms, value)
        for cell in result.cells
        if cell.latency is not None and (value := value_of(cell)) is not None
    ]
    if not shown:
        return None
    chart = Chart(
        Scale.around([ms for _, ms, _ in shown], log=True),
        Scale.around([value for _, _, value in shown]),
        "latency, ms per call, median",
        label,
    )
    best = -math.inf
    front = []
    for _, ms, value in sorted(shown, key=lambda one: (one[1], -one[2])):
        if value > best:
            front.append((ms, value))
            best = value
    chart.line(front)
    styles = Styles(result)
    for cell, ms, value in shown:
        colour, shape = styles.of(cell)
        chart.mark(ms, value, colour, shape, f"{cell.label}: {ms:.2f} ms, {label} {value:.3f}")
    return chart.svg(f"{label} against latency, {len(shown)} cells")


class Styles:
    """Colour by resolution, shape by bundle and runner."""

    def __init__(self, result: BenchResult) -> None:
        measured = [cell for cell in result.cells if cell.latency is not None]
        self._resolutions = sorted({cell.resolution for cell in measured})
        self._runners = list(dict.fromkeys((cell.bundle, cell.runner) for cell in measured))

    def of(self, cell: Cell) -> tuple[int, int]:
        """Colour and shape."""
        runner = self._runners.index((cell.bundle, cell.runner))
        return self._resolutions.index(cell.resolution), runner % len(SHAPES)

    def legend(self) -> str:
        """What colours and shapes mean."""
        colours = [swatch(k, None, f"{size} px") for k, size in enumerate(self._resolutions)]
        names = {bundle for bundle, _ in self._runners}
        shapes = [
            swatch(None, k, runner if len(names) == 1 else f"{bundle}, {runner}")
            for k, (bundle, runner) in enumerate(self._runners)
        ]
        return f'<p class="legend">{"".join(colours + shapes)}</p>'


def distributions(result: BenchResult) -> str | None:
    """A box per cell (quartiles, whiskers, median), and the calls themselves as dots."""
    cells = [cell for cell in result.cells if cell.latency is not None]
    if not cells:
        return None
    samples = [np.array(cell.latency.samples_ms) for cell in cells if cell.latency is not None]
    everything = np.concatenate(samples)
    chart = _rows(cells, Scale.around([everything.min(), everything.max()], log=True))
    rng = np.random.default_rng(0)
    for row, (cell, samples_ms) in enumerate(zip(cells, samples, strict=True)):
        low, median, high = np.quantile(samples_ms, [0.25, 0.5, 0.75])
        reach = _WHISKER * (high - low)
        inside = samples_ms[(samples_ms >= low - reach) & (samples_ms <= high + reach)]
        chosen = rng.permutation(samples_ms)[:_MOST_DOTS]
        chosen = np.union1d(chosen, [samples_ms.min(), samples_ms.max()])
        for sample_ms, shift in zip(chosen, rng.uniform(-0.3, 0.3, len(chosen)), strict=True):
            chart.dot(float(sample_ms), row + float(shift))
        words = f"{cell.label}: median {median:.2f} ms, quartiles {low:.2f} to {high:.2f} ms"
        chart.line([(inside.min(), row), (inside.max(), row)], "whisker")
        chart.bar(low, high, row, 0.5, "box", words)
        chart.line([(median, row - 0.25), (median, row + 0.25)], "median")
    return chart.svg("distribution of latency by cell")


def stages(result: BenchResult) -> str | None:
    """The medians of the parts of a call, one after the other, as a bar per cell."""
    cells = [cell for cell in result.cells if cell.latency is not None]
    if not cells:
        return None
    parts = [cell.latency.stage_p50_ms for cell in cells if cell.latency is not None]
    decode_ms = result.decode_p50_ms or 0.0
    longest = max(decode_ms + sum(part.values()) for part in parts)
    chart = _rows(cells, Scale(0, longest * 1.05))
    names = list(dict.fromkeys(name for part in parts for name in part))
    for row, (cell, part) in enumerate(zip(cells, parts, strict=True)):
        start = 0.0
        for number, (name, ms) in enumerate([("decode", decode_ms), *part.items()]):
            kind = "s0" if number == 0 else f"s{1 + names.index(name)}"
            chart.bar(start, start + ms, row, 0.6, kind, f"{cell.label}: {name} {ms:.2f} ms")
            start += ms
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 14 14" width="14" height="14"><rect class="s{k}"'
        f' width="14" height="14"/></svg>{name}</span>'
        for k, name in enumerate(["decode (not in the latency)", *names])
    )
    return chart.svg("parts of a call by cell") + f'<p class="legend">{keys}</p>'


def load_chart(result: BenchResult, styles: Styles) -> str | None:
    """Rate of arrivals against latency, a line per cell; None where none was measured."""
    shown = [(cell, sorted(cell.load, key=lambda one: one.arrivals_per_s)) for cell in result.cells]
    everything = [one for _, load in shown for one in load]
    if not everything:
        return None
    shortest = min(one.p50_ms for one in everything)
    longest = max(one.p50_ms if one.sustained else one.longest_ms for one in everything)
    chart = Chart(
        Scale.around([one.arrivals_per_s for one in everything], log=True),
        Scale.around([shortest, longest], log=True),
        "frames that arrive, per second",
        "latency, ms, median",
    )
    for cell, load in shown:
        if not load:
            continue
        colour, shape = styles.of(cell)
        held = [(one.arrivals_per_s, one.p50_ms) for one in load if one.sustained]
        chart.line(held, f"curve l{colour % 8}")
        for one in load:
            y = one.p50_ms if one.sustained else one.longest_ms
            words = f"{cell.label} at {one.arrivals_per_s:g}/s: median {one.p50_ms:.2f} ms, longest"
            words += f" {one.longest_ms:.2f} ms{'' if one.sustained else ', not sustained'}"
            chart.mark(one.arrivals_per_s, y, colour, shape, words, faint=not one.sustained)
    return chart.svg("latency under load")


def roofline_chart(found: Sequence[Roofline]) -> str | None:
    """Arithmetic intensity against speed, under what the machine could do at best."""
    if not found:
        return None
    peaks = found[0].peaks
    top = peaks.fp32_flop_per_s.best / 1e9
    bandwidth = peaks.memory_bytes_per_s.best / 1e9
    points = [
        (
            one.work.intensity_flop_per_byte,
            one.reached.achieved_gflop_per_s,
            f"{one.bundle} {Resolution(one.height_px, one.width_px)} {one.runtime}:"
            f" {one.reached.share:.0%} of the roofline",
        )
        for one in found
    ]
    ridge = top / bandwidth
    x = Scale.around([ridge / 20, ridge * 20, *(point[0] for point in points)], log=True)
    y = Scale.around([top / 50, top, *(point[1] for point in points)], log=True, margin=0.1)
    chart = Chart(x, y, "FLOP per byte moved", "GFLOP/s")
    chart.line(
        [
            (max(x.low, y.low / bandwidth), max(y.low, x.low * bandwidth)),
            (ridge, top),
            (x.high, top),
        ],
        "roof",
    )
    for number, (intensity, speed, name) in enumerate(points):
        words = f"{name}: {speed:.1f} GFLOP/s at {intensity:.1f} FLOP/byte"
        chart.mark(intensity, speed, number, 0, words)
    keys = "".join(swatch(k, 0, name) for k, (_, _, name) in enumerate(points))
    return chart.svg("roofline") + f'<p class="legend">{keys}</p>'


def _rows(cells: Sequence[Cell], x: Scale) -> Chart:
    """A chart with a row per cell, the first one on top."""
    chart = Chart(
        x,
        Scale(len(cells) - 0.5, -0.5),
        "ms per call",
        width=760,
        height=60 + _ROW_PX * len(cells),
        left=_LABEL_PX,
        y_ticks=False,
    )
    bundles = {cell.bundle for cell in cells}
    for row, cell in enumerate(cells):
        words = f"{cell.resolution} {cell.runner}"
        chart.row_label(row, words if len(bundles) == 1 else f"{cell.bundle} {words}")
    return chart
