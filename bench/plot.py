"""One picture of a benchmark: what accuracy costs in time, and how the times spread."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from depthmask.bench.result import BenchResult, Cell
from depthmask.errors import UnavailableError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = "osD^vP"
_DPI = 130
_MAX_ROWS = 40


def plot_png(result: BenchResult) -> bytes:
    """Draw latency against mask IoU and against depth delta1, and the latency distributions.

    One mark per bundle, resolution and runtime: the colour is the resolution, the shape the runtime.

    Raises:
        UnavailableError: matplotlib is not installed.
    """
    require_matplotlib()
    # Figure and not pyplot: no display is looked for and no global state is left behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [cell for cell in result.cells if cell.latency][:_MAX_ROWS]
    figure = Figure(figsize=(15, max(5.0, 1.6 + 0.35 * len(shown))), layout="constrained")
    FigureCanvasAgg(figure)
    mask_axes, depth_axes, spread_axes = figure.subplots(1, 3)
    _scatter(mask_axes, shown, "mask IoU", _mask_iou)
    _scatter(depth_axes, shown, "depth δ1, median-scaled", _delta1)
    _spread(spread_axes, shown)
    handles, labels = mask_axes.get_legend_handles_labels()
    if not handles:
        handles, labels = depth_axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=7)
    figure.suptitle(f"{result.data} on {result.machine.summary}", fontsize=9)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=_DPI)
    return image.getvalue()


def require_matplotlib() -> None:
    """Check before any measuring that the plot can be drawn.

    Raises:
        UnavailableError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401  (only whether it is there)
    except ImportError as error:
        raise UnavailableError(
            "a plot needs matplotlib, which is not installed. Try `pip install 'depthmask[report]'`"
        ) from error


def _mask_iou(cell: Cell) -> float | None:
    return cell.accuracy.mask.iou if cell.accuracy and cell.accuracy.mask else None


def _delta1(cell: Cell) -> float | None:
    return cell.depth.median_scaled.delta1 if cell.depth else None


def _scatter(
    axes: Axes, cells: list[Cell], label: str, value_of: Callable[[Cell], float | None]
) -> None:
    axes.set(xlabel="latency, ms per frame (median, line to p90)", ylabel=label, xscale="log")
    styles = _styles(cells)
    drawn = 0
    for cell in cells:
        value, latency = value_of(cell), cell.latency
        if value is None or latency is None:
            continue
        colour, marker = styles[cell.label]
        if latency.p90_ms is not None:
            axes.plot([latency.p50_ms, latency.p90_ms], [value, value], color=colour, linewidth=1)
        axes.plot(latency.p50_ms, value, marker, color=colour, markersize=7, label=cell.label)
        drawn += 1
    axes.grid(alpha=0.3)
    if not drawn:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)


def _spread(axes: Axes, cells: list[Cell]) -> None:
    """A box per cell: quartiles, whiskers to 1.5 of their distance, and every run beyond."""
    axes.set(xlabel="latency, ms per frame", xscale="log")
    latencies = [cell.latency.samples_ms for cell in cells if cell.latency]
    if not latencies:
        axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
        return
    axes.boxplot(latencies, orientation="horizontal", flierprops={"markersize": 2})
    axes.set_yticks(range(1, len(cells) + 1), [cell.label for cell in cells], fontsize=7)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)


def _styles(cells: list[Cell]) -> dict[str, tuple[Any, str]]:
    """Colour by resolution, marker by bundle and runtime."""
    resolutions = sorted({cell.resolution for cell in cells})
    runners = list(dict.fromkeys((cell.bundle, cell.runner) for cell in cells))
    return {
        cell.label: (
            f"C{resolutions.index(cell.resolution)}",
            _MARKERS[runners.index((cell.bundle, cell.runner)) % len(_MARKERS)],
        )
        for cell in cells
    }
