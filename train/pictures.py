"""What a training shows for the eye: a grid of samples and the learning curves, as PNG bytes."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.frames import UInt8Array
from depthmask.train.nearness import nearness
from depthmask.train.run_folder import LOG_FILE, METRICS_FILE
from depthmask.train.validation import Row

TILE_PX = 128
_TITLES = ("image", "mask", "true mask", "depth", "true depth")
_TITLE_PX = 20
_CURVES = ("mask_iou", "depth_in_mask_scaled_delta1", "depth_frame_scaled_delta1", "mask_share")
_POINTS = 200
_UNKNOWN = np.array([60, 30, 60], np.uint8)


def picture_grid(rows: Sequence[Row]) -> bytes:
    """A PNG: one sample a row; depth near bright, far dark, on the true one's logarithmic scale.

    What is not known is dark violet.
    """
    title = np.zeros((_TITLE_PX, TILE_PX * len(_TITLES), 3), np.uint8)
    for number, text in enumerate(_TITLES):
        place = (number * TILE_PX + 4, _TITLE_PX - 6)
        cv2.putText(title, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (255, 255, 255), 1)
    sheet_HW3 = np.vstack([title, *(np.hstack(_tiles(row)) for row in rows)])
    _, png = cv2.imencode(".png", sheet_HW3[:, :, ::-1])
    return png.tobytes()


def learning_curves(run: Path) -> bytes:
    """A PNG of the losses (smoothed) and the metrics over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="tight")
    left, right = figure.subplots(1, 2)
    log = _lines(run / LOG_FILE)
    for name in (key for key in (log[-1] if log else {}) if key.startswith("loss_")):
        points = [(line["step"], line[name]) for line in log if name in line]
        left.plot(*_smoothed(points), label=name)
    metrics = _lines(run / METRICS_FILE)
    for name in _CURVES:
        points = [(line["step"], line[name]) for line in metrics if name in line]
        if points:
            right.plot(*zip(*points, strict=True), marker="o", label=name)
    for axes, title in ((left, "losses"), (right, "held-out samples")):
        axes.set(title=title, xlabel="step")
        if axes.lines:
            axes.legend()
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)  # type: ignore[no-untyped-call]
    return content.getvalue()


def _lines(path: Path) -> list[dict[str, float]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _smoothed(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Means of so many neighbours that about `_POINTS` are left."""
    several = math.ceil(len(points) / _POINTS)
    parts = [points[k : k + several] for k in range(0, len(points), several)]
    return [part[-1][0] for part in parts], [sum(y for _, y in part) / len(part) for part in parts]


def _tiles(row: Row) -> list[UInt8Array]:
    near, far = _range(row)
    return [
        _tile(row.image_HW3),
        _tile(_grey(row.mask_HW)),
        _tile(_grey(row.true_mask_HW if row.true_mask_HW is not None else row.mask_HW * np.nan)),
        _tile(_grey(nearness(row.depth_m_HW, near, far))),
        _tile(_grey(nearness(row.true_depth_HW, near, far))),
    ]


def _range(row: Row) -> tuple[float, float]:
    known = row.true_depth_HW[np.isfinite(row.true_depth_HW) & (row.true_depth_HW > 0)]
    shown = known if known.size else np.maximum(row.depth_m_HW, 1e-3)
    return float(shown.min()), float(shown.max())


def _grey(map_HW: npt.NDArray[np.floating]) -> UInt8Array:
    """(H,W,3) of a map in [0, 1]; NaN has a colour of its own."""
    known_HW1 = np.isfinite(map_HW)[:, :, None]
    level_HW1 = (255 * np.nan_to_num(map_HW)).astype(np.uint8)[:, :, None]
    return np.where(known_HW1, level_HW1, _UNKNOWN).astype(np.uint8)


def _tile(image_HW3: UInt8Array) -> UInt8Array:
    size = (TILE_PX, TILE_PX)
    return np.asarray(cv2.resize(image_HW3, size, interpolation=cv2.INTER_NEAREST), np.uint8)
