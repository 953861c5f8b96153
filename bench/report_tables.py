"""The tables of a report, as texts: in HTML and in Markdown the same."""

from __future__ import annotations

from depthmask.bench.result import BenchResult, Cell
from depthmask.bench.table import TextTable, cell_table, load_table

_METRICS = (
    ("mask.iou", "mask IoU"),
    ("mask.dice", "Dice"),
    ("mask.mae", "MAE"),
    ("mask.f_beta", "Fβ"),
    ("mask.boundary_iou", "boundary IoU"),
    ("abs_rel", "AbsRel"),
    ("rmse", "RMSE"),
    ("log10", "log10"),
    ("silog", "SILog"),
    ("delta1", "δ1"),
    ("delta2", "δ2"),
    ("delta3", "δ3"),
)


def report_tables(result: BenchResult) -> list[TextTable]:
    """Every table that this result has something for."""
    found = [
        cell_table(result),
        load_table(result),
        _accuracy_table(result),
        _flicker_table(result),
    ]
    return [table for table in found if table is not None]


def _accuracy_table(result: BenchResult) -> TextTable | None:
    rows = tuple(_accuracy_row(cell) for cell in _judged(result) if cell.accuracy)
    if not rows:
        return None
    headings = ("bundle", "size", "runtime", *(text for _, text in _METRICS))
    note = (
        "Depth is median-scaled, inside the true mask for a foreground chain and over the whole frame for"
        " one of relevance. Intervals: bootstrap over the images."
    )
    return TextTable("Accuracy, with 95 % intervals", headings, rows, note)


def _accuracy_row(cell: Cell) -> tuple[str, ...]:
    accuracy = cell.accuracy
    assert accuracy is not None
    region = "depth_in_mask" if cell.kind == "foreground" else "depth_frame"
    texts = list(_names(cell))
    for name, _ in _METRICS:
        of_mask = name.startswith("mask.")
        found = accuracy.mask if of_mask else cell.depth and cell.depth.median_scaled
        if not found:
            texts.append("-")
            continue
        text = f"{getattr(found, name.removeprefix('mask.')):.3f}"
        interval = accuracy.intervals.get(name if of_mask else f"{region}.median_scaled.{name}")
        texts.append(f"{text} ({interval[0]:.3f} to {interval[1]:.3f})" if interval else text)
    return tuple(texts)


def _flicker_table(result: BenchResult) -> TextTable | None:
    rows = tuple(_flicker_row(cell) for cell in _judged(result) if cell.flicker)
    if not rows:
        return None
    headings = (
        *("bundle", "size", "runtime", "mask", "mask, motion left in"),
        *("depth in the mask", "depth, whole frame", "pairs", "left out", "compared"),
    )
    note = (
        "Mean change from frame to frame, after the maps of the frame before were moved along the optical"
        " flow (Lai et al., ECCV 2018; depthmask/flicker.py): of the mask as a difference, of the depth as a"
        " share of it. Compared: the share of the pixels that the flow could follow. Left out: pairs with a"
        " cut between them, or of which less than half could be followed."
    )
    return TextTable("Flicker", headings, rows, note)


def _flicker_row(cell: Cell) -> tuple[str, ...]:
    found = cell.flicker
    assert found is not None
    values = (found.mask, found.mask_unwarped, found.depth_in_mask, found.depth_frame)
    return (
        *_names(cell),
        *("-" if value is None else f"{value:.4f}" for value in values),
        str(found.pairs),
        str(found.pairs_left_out),
        "-" if found.visible_share is None else f"{found.visible_share:.0%}",
    )


def _judged(result: BenchResult) -> list[Cell]:
    """One cell for each thing that was judged: threads and batches do not change it."""
    judged: dict[tuple[object, ...], Cell] = {}
    for cell in result.cells:
        if cell.status == "ok":
            judged.setdefault(_names(cell), cell)
    return list(judged.values())


def _names(cell: Cell) -> tuple[str, str, str]:
    return (f"{cell.bundle} {cell.precision}", str(cell.resolution), cell.runtime)
