"""What a cell makes of samples: image, mask and depth, and where they are wrong, as JPEG."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from depthmask.accuracy import Predict, PredictionLike
from depthmask.bench.data import Data
from depthmask.frames import FloatArray, UInt8Array
from depthmask.metrics import binary, median_scaled
from depthmask.presets import Kind
from depthmask.samples import LabelledSample

TILE_PX = 160
_JPEG_QUALITY = 85
_FALSE_RGB, _MISSED_RGB = (230, 90, 40), (60, 120, 255)
_WORST_RATIO = 1.25**3
"""Of depths: so far from 1 the colour scale ends; at its middle is 1.25^1.5."""
_UNKNOWN_RGB = (70, 70, 70)


@dataclass(frozen=True)
class SamplePicture:
    """Tiles side by side, and what they are."""

    name: str
    titles: tuple[str, ...]
    jpeg: bytes


def sample_pictures(predict: Predict, data: Data, kind: Kind, count: int) -> list[SamplePicture]:
    """`count` samples at most, spread over the data."""
    pictures = []
    for sample in data.spread(count):
        tiles = _tiles(sample, predict(sample.image_HW3), kind)
        row = np.hstack([_tile(image) for image in tiles.values()])
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        _, jpeg = cv2.imencode(".jpg", row[:, :, ::-1], quality)
        pictures.append(SamplePicture(sample.name, tuple(tiles), jpeg.tobytes()))
    return pictures


def _tiles(sample: LabelledSample, found: PredictionLike, kind: Kind) -> dict[str, UInt8Array]:
    mask_HW = np.asarray(np.rint(255 * found.mask_HW.clip(0, 1)), np.uint8)
    tiles = {"image": sample.image_HW3, "mask": np.repeat(mask_HW[:, :, None], 3, axis=2)}
    true_HW = None if sample.mask_HW is None else binary(sample.mask_HW.astype(np.float32) / 255)
    if true_HW is not None:
        tiles["mask: false, missed"] = _mask_errors(sample.image_HW3, found.mask_HW, true_HW)
    tiles["depth"] = _nearness(found.depth_HW)
    if sample.depth_m_HW is not None:
        counted = true_HW if kind == "foreground" and true_HW is not None else None
        tiles["depth: error"] = _depth_errors(found.depth_HW, sample.depth_m_HW, counted)
    return tiles


def _mask_errors(image_HW3: UInt8Array, mask_HW: FloatArray, true_HW: np.ndarray) -> UInt8Array:
    """Orange where the mask should not be, blue where it is missing."""
    shown_HW3 = image_HW3 // 3
    predicted_HW = mask_HW >= 0.5
    shown_HW3[predicted_HW & ~true_HW] = _FALSE_RGB
    shown_HW3[~predicted_HW & true_HW] = _MISSED_RGB
    return np.asarray(shown_HW3, np.uint8)


def _nearness(depth_HW: FloatArray) -> UInt8Array:
    """Near is bright, on a logarithmic scale of the picture's own."""
    log_HW = np.log(np.maximum(depth_HW, 1e-3))
    near, far = np.percentile(log_HW, [2, 98])
    return _coloured((far - log_HW) / max(far - near, 1e-3))


def _depth_errors(
    depth_HW: FloatArray, true_HW: FloatArray, counted: np.ndarray | None
) -> UInt8Array:
    """How far the median-scaled depth is from the truth, as a ratio; grey where it does not count."""
    valid_HW = np.isfinite(true_HW) & (true_HW > 0)
    if counted is not None:
        valid_HW = valid_HW & counted
    scaled_HW = median_scaled(depth_HW, true_HW, valid_HW)
    shown_HW3 = np.full((*true_HW.shape, 3), _UNKNOWN_RGB, np.uint8)
    if valid_HW.any():
        ratio = np.maximum(scaled_HW[valid_HW], 1e-6) / true_HW[valid_HW]
        error_HW = np.zeros(true_HW.shape, np.float32)
        error_HW[valid_HW] = np.abs(np.log(ratio)) / math.log(_WORST_RATIO)
        shown_HW3[valid_HW] = _coloured(error_HW)[valid_HW]
    return shown_HW3


def _coloured(share_HW: FloatArray) -> UInt8Array:
    levels_HW = np.rint(255 * np.clip(share_HW, 0, 1)).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels_HW, cv2.COLORMAP_VIRIDIS)[:, :, ::-1], np.uint8)


def _tile(image_HW3: UInt8Array) -> UInt8Array:
    height = TILE_PX
    width = max(1, round(TILE_PX * image_HW3.shape[1] / image_HW3.shape[0]))
    return np.asarray(
        cv2.resize(image_HW3, (width, height), interpolation=cv2.INTER_AREA), np.uint8
    )
