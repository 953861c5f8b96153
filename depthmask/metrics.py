"""How far a mask and a depth map are from the truth.

Depth (all lengths in the unit of the maps; p prediction, t target):

- mse mean((p - t)^2), rmse its root, mae mean(|p - t|), abs_rel mean(|p - t| / t), log10
  mean(|log10 p - log10 t|), delta1..3 the share of pixels with max(p / t, t / p) < 1.25^1..3
  (Eigen, Puhrsch, Fergus, NIPS 2014), silog the standard deviation of ln p - ln t (their
  scale-invariant error with lambda = 1, as a root: it does not see a wrong scale).
- Every one is over the valid pixels of the whole batch: the root in rmse comes last. A target that
  is NaN, infinite, zero or negative is missing, never valid.
- In log10, silog and the deltas, a prediction below a thousandth of the target (zero, negative)
  counts as a thousandth of it. So one bad pixel is bad, and the mean stays finite.
- Without a valid pixel there is no result: `depth_metrics` raises, `DepthAccumulator.result` gives
  None.

Masks (both thresholded at half, but for mae, which compares the soft maps):

- iou, dice, f_beta with beta^2 = 0.3 (Achanta et al., CVPR 2009), mae, boundary_iou of the pixels
  within d = 2 % of the diagonal of the outline (Cheng et al., CVPR 2021; the erosion and the
  frame's border as in their code).
- Where both masks (or both outlines) are empty, they agree: 1. Where one is, they do not: 0.
- Of several images the mean over images, not over pixels.

A prediction that is not finite is an error, so that no NaN ever reaches a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from depthmask.errors import CheckFailedError, InputError

BETA_SQUARED = 0.3
BOUNDARY_SHARE_OF_DIAGONAL = 0.02
SMALLEST_RATIO = 1e-3
_THRESHOLD = 0.5
_ROUNDING = 1e-3
_RESAMPLES = 1000

Array = npt.NDArray[np.generic]
BoolArray = npt.NDArray[np.bool_]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DepthMetrics:
    """Over `pixels` valid pixels; see the top of the module. Only deltas are better when higher."""

    mse: float
    rmse: float
    mae: float
    abs_rel: float
    log10: float
    delta1: float
    delta2: float
    delta3: float
    silog: float
    pixels: int


@dataclass(frozen=True)
class MaskMetrics:
    """Each in [0, 1]; see the top of this module. Only mae is better when lower."""

    iou: float
    dice: float
    mae: float
    f_beta: float
    boundary_iou: float


Intervals = dict[str, tuple[float, float]]
"""Of each metric, by name: what the mean over other images of the same kind could well have been."""


class DepthAccumulator:
    """Depth metrics of any number of maps, one after the other; ten numbers are kept of each."""

    def __init__(self) -> None:
        self._rows: list[list[float]] = []

    def add(self, prediction: Array, target: Array, valid: Array | None = None) -> None:
        """Take in maps of one shape, any; `valid` (bool, same shape) narrows what counts.

        Raises:
            InputError: the shapes differ.
            CheckFailedError: the prediction is not finite where it counts.
        """
        p, t = _counted(prediction, target, valid)
        if not np.isfinite(p).all():
            raise CheckFailedError(
                f"a predicted depth must be finite, but {np.count_nonzero(~np.isfinite(p))} of"
                f" {p.size} valid pixels are not. Try `dmx verify` on the bundle"
            )
        difference = np.abs(p - t)
        ratio = np.maximum(p / t, SMALLEST_RATIO)
        log_ratio = np.log(ratio)
        factor = np.maximum(ratio, 1 / ratio)
        row = [
            p.size,
            (difference**2).sum(),
            difference.sum(),
            (difference / t).sum(),
            np.abs(log_ratio).sum() / math.log(10),
            *(np.count_nonzero(factor < 1.25**power) for power in (1, 2, 3)),
            log_ratio.sum(),
            (log_ratio**2).sum(),
        ]
        self._rows.append([float(value) for value in row])

    def result(self) -> DepthMetrics | None:
        """Metrics of everything added; None where no pixel was valid."""
        sums = np.sum(self._rows, axis=0) if self._rows else np.zeros(1)
        if not sums[0]:
            return None
        return DepthMetrics(**_floats(_depth_values(sums)), pixels=round(sums[0]))

    def intervals(self, confidence: float = 0.95) -> Intervals:
        """By bootstrap over the maps that have a valid pixel; none for fewer than two of them."""
        rows_NK = np.array([row for row in self._rows if row[0]])
        return _intervals(rows_NK, _depth_values, confidence)


class MaskAccumulator:
    """Mask metrics of any number of images, averaged over images."""

    def __init__(self) -> None:
        self._rows: list[list[float]] = []

    def add(self, prediction: Array, target: Array) -> None:
        """Take in one image (H,W) or several (...,H,W).

        Values are floats in [0, 1], bool, or uint8 from 0 to 255.

        Raises:
            InputError: the shapes differ or are not maps, or the values are out of range.
            CheckFailedError: the prediction is not finite.
        """
        if prediction.shape != target.shape or prediction.ndim < 2 or 0 in prediction.shape:
            raise InputError(
                "a predicted and a true mask must have one shape (...,H,W), but got"
                f" {prediction.shape} and {target.shape}"
            )
        if not np.isfinite(prediction).all():
            raise CheckFailedError("a predicted mask must be finite, but it holds NaN or infinity")
        size = prediction.shape[-2:]
        predictions_NHW = _soft(prediction, "a predicted mask").reshape(-1, *size)
        targets_NHW = _soft(target, "a true mask").reshape(-1, *size)
        for prediction_HW, target_HW in zip(predictions_NHW, targets_NHW, strict=True):
            self._rows.append([1.0, *_one_mask(prediction_HW, target_HW)])

    def result(self) -> MaskMetrics | None:
        """Means over the images added; None where there was none."""
        if not self._rows:
            return None
        return MaskMetrics(**_floats(_mask_values(np.sum(self._rows, axis=0))))

    def intervals(self, confidence: float = 0.95) -> Intervals:
        """By bootstrap over the images; none for fewer than two of them."""
        return _intervals(np.array(self._rows), _mask_values, confidence)


def depth_metrics(prediction: Array, target: Array, valid: Array | None = None) -> DepthMetrics:
    """Compare depth maps of one shape, any; `valid` (bool, same shape) narrows what counts.

    Raises:
        InputError: the shapes differ, or no pixel is valid.
        CheckFailedError: the prediction is not finite where it counts.
    """
    accumulator = DepthAccumulator()
    accumulator.add(prediction, target, valid)
    result = accumulator.result()
    if result is None:
        raise InputError("a depth target must have at least one valid pixel, but all are missing")
    return result


def mask_metrics(prediction: Array, target: Array) -> MaskMetrics:
    """Compare masks (...,H,W): floats in [0, 1], bool, or uint8 from 0 to 255; either may be soft.

    Raises:
        InputError: the shapes differ or are not maps, or the values are out of range.
        CheckFailedError: the prediction is not finite.
    """
    accumulator = MaskAccumulator()
    accumulator.add(prediction, target)
    result = accumulator.result()
    assert result is not None  # `add` refuses an empty array
    return result


def median_scaled(
    prediction: npt.NDArray[np.float32], target: Array, valid: Array | None = None
) -> npt.NDArray[np.float32]:
    """`prediction` times the factor that makes the medians over the valid pixels agree.

    For depths of unknown scale. Unchanged where no such factor exists: no valid pixel, or a median
    of the prediction that is not positive.

    Raises:
        InputError: the shapes differ.
    """
    p, t = _counted(prediction, target, valid)
    if not p.size:
        return prediction
    median = float(np.median(p))
    if not (math.isfinite(median) and median > 0):
        return prediction
    factor = float(np.median(t)) / median
    return np.asarray(prediction * np.float32(factor), np.float32)


def valid_pixels(prediction: Array, target: Array, valid: Array | None = None) -> BoolArray:
    """Where a target is a depth: finite and above 0; `valid` (bool, same shape) narrows that.

    Raises:
        InputError: the shapes differ.
    """
    if prediction.shape != target.shape or (valid is not None and valid.shape != target.shape):
        raise InputError(
            f"a predicted depth, its target and the valid pixels must have one shape, but got"
            f" {prediction.shape}, {target.shape} and {None if valid is None else valid.shape}"
        )
    present = np.isfinite(target) & (target > 0)  # type: ignore[operator]  # any real dtype
    return np.asarray(present if valid is None else present & valid.astype(bool))


def binary(mask: Array) -> BoolArray:
    """Where a mask (floats in [0, 1], bool, or uint8 from 0 to 255) is at least half."""
    return np.asarray(_soft(mask, "a mask") >= _THRESHOLD)


def _depth_values(sums: Float64Array) -> dict[str, Any]:
    """From (...,10) sums over maps, as `DepthAccumulator` keeps them."""
    mse, mae, abs_rel, log10, delta1, delta2, delta3, log_mean, log_square = np.moveaxis(
        sums[..., 1:] / sums[..., :1], -1, 0
    )
    return {
        "mse": mse,
        "rmse": np.sqrt(mse),
        "mae": mae,
        "abs_rel": abs_rel,
        "log10": log10,
        "delta1": delta1,
        "delta2": delta2,
        "delta3": delta3,
        "silog": np.sqrt(np.maximum(0.0, log_square - log_mean**2)),
    }


def _mask_values(sums: Float64Array) -> dict[str, Any]:
    """From (...,6) sums over images, as `MaskAccumulator` keeps them."""
    means = np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0)
    return dict(zip(("iou", "dice", "mae", "f_beta", "boundary_iou"), means, strict=True))


def _floats(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _intervals(
    rows_NK: Float64Array, values_of: Callable[[Float64Array], dict[str, Any]], confidence: float
) -> Intervals:
    """Efron's percentile bootstrap: images are drawn again, with repetition, as many as there are."""
    if len(rows_NK) < 2:
        return {}
    rng = np.random.default_rng(0)
    counts_RN = rng.multinomial(len(rows_NK), np.full(len(rows_NK), 1 / len(rows_NK)), _RESAMPLES)
    tail = (1 - confidence) / 2
    found = values_of(counts_RN @ rows_NK)
    return {
        name: (float(np.quantile(drawn_R, tail)), float(np.quantile(drawn_R, 1 - tail)))
        for name, drawn_R in found.items()
    }


def _counted(
    prediction: Array, target: Array, valid: Array | None
) -> tuple[Float64Array, Float64Array]:
    """The K valid pixels of both, (K,)."""
    counted = valid_pixels(prediction, target, valid)
    if counted.all():
        return prediction.ravel().astype(np.float64), target.ravel().astype(np.float64)
    return prediction[counted].astype(np.float64), target[counted].astype(np.float64)


def _soft(mask: Array, name: str) -> Float64Array:
    """To [0, 1]. A uint8 mask of zeros and ones is refused: it would pass for an empty one."""
    if mask.dtype == np.uint8:
        if mask.size and mask.max() == 1:
            raise InputError(
                f"{name} of dtype uint8 must reach from 0 to 255, but its largest value is 1. Pass"
                " zeros and ones as bool or float"
            )
        return mask.astype(np.float64) / 255
    soft = mask.astype(np.float64)
    if soft.size and not (soft.min() >= -_ROUNDING and soft.max() <= 1 + _ROUNDING):
        raise InputError(
            f"{name} must be in [0, 1], but its values are {soft.min():g} to {soft.max():g}"
        )
    return soft.clip(0, 1)


def _one_mask(prediction_HW: Float64Array, target_HW: Float64Array) -> list[float]:
    predicted, true = prediction_HW >= _THRESHOLD, target_HW >= _THRESHOLD
    both = np.count_nonzero(predicted & true)
    only_predicted = np.count_nonzero(predicted) - both
    only_true = np.count_nonzero(true) - both
    weighted = (1 + BETA_SQUARED) * both
    return [
        _share(both, both + only_predicted + only_true),
        _share(2 * both, 2 * both + only_predicted + only_true),
        float(np.abs(prediction_HW - target_HW).mean()),
        _share(weighted, weighted + BETA_SQUARED * only_true + only_predicted),
        _iou(_boundary(predicted), _boundary(true)),
    ]


def _iou(first: BoolArray, second: BoolArray) -> float:
    return _share(np.count_nonzero(first & second), np.count_nonzero(first | second))


def _share(part: float | np.number, whole: float | np.number) -> float:
    return float(part / whole) if whole else 1.0


def _boundary(mask_HW: BoolArray) -> BoolArray:
    """The mask's pixels within d of its outline; the frame's border is an outline too."""
    import cv2

    distance_px = max(1, round(BOUNDARY_SHARE_OF_DIAGONAL * math.hypot(*mask_HW.shape)))
    padded = np.pad(mask_HW.astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance_px)
    return np.asarray(mask_HW & (eroded[1:-1, 1:-1] == 0))
