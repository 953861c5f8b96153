"""A sample as files: JPEG, mask PNG, depth PNG and, in shards, what it was made of as JSON."""

from __future__ import annotations

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from depthmask.samples import DEPTH_SUFFIX, MASK_SUFFIX, DepthUnit
from depthmask.train.grid import placements
from depthmask.train.material import FloatArray, Sample
from depthmask.train.recipe import GridRecipe, Recipe

JPEG_QUALITY = 92
DEPTH_SCALE_M = 0.001
_LARGEST = 65535
_RANGE = 1000
"""Of relative depths in one image: the farthest is at most so many times the nearest."""


def depth_unit(recipe: Recipe) -> DepthUnit:
    """Of a recipe's samples: a teacher's depth is relative."""
    return "relative" if getattr(recipe, "depth", "stage") == "teacher" else "m"


def depth_scale(unit: DepthUnit) -> float:
    """What a step of 1 is: a millimetre, or a share of the image's largest relative depth (clipped)."""
    return DEPTH_SCALE_M if unit == "m" else 1 / _LARGEST


def encode_sample(sample: Sample, unit: DepthUnit) -> dict[str, bytes]:
    """Files by suffix, the image last: .mask.png and .depth.png (those that there are), .jpg.

    Depths are 16 bit, 0 = missing. Metres are millimetres from 1 to 65535. A relative depth is scaled
    so that the image's largest is 65535, in equal steps: what is nearest has the fewest of them, so
    depths are clipped to 1,000 times the nearest first.
    """
    files = {}
    if sample.mask_HW is not None:
        files[MASK_SUFFIX] = _encode(".png", np.ascontiguousarray(sample.mask_HW))
    if sample.depth_m_HW is not None:
        files[DEPTH_SUFFIX] = _encode(".png", _depth_values(sample.depth_m_HW, unit))
    bgr_HW3 = np.ascontiguousarray(sample.image_HW3[:, :, ::-1])
    files[".jpg"] = _encode(".jpg", bgr_HW3, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return files


def describe_sample(recipe: Recipe, index: int) -> bytes:
    """JSON: the index, and of a grid what the sample is made of."""
    made_of = {"index": index}
    if isinstance(recipe, GridRecipe):
        chosen = placements(recipe, np.array([index]))
        made_of |= {name: int(values[0]) for name, values in vars(chosen).items()}
    return msgspec.json.encode(made_of)


def encode_png(image: npt.NDArray[np.uint8]) -> bytes:
    """(H,W) grey or (H,W,3) RGB."""
    return _encode(".png", np.ascontiguousarray(image[..., ::-1] if image.ndim == 3 else image))


def _depth_values(depth_HW: FloatArray, unit: DepthUnit) -> npt.NDArray[np.uint16]:
    known_HW = np.isfinite(depth_HW)
    step = DEPTH_SCALE_M
    if unit == "relative":
        step = _relative_step(depth_HW[known_HW & (depth_HW > 0)])
    values_HW = np.clip(np.rint(np.where(known_HW, depth_HW, 1) / step), 1, _LARGEST)
    return np.where(known_HW, values_HW, 0).astype(np.uint16)


def _relative_step(depths_N: FloatArray) -> float:
    """One far pixel, such as an inverse depth of almost 0, must not take the steps of all others."""
    if not depths_N.size:
        return 1.0
    return min(float(depths_N.max()), _RANGE * float(depths_N.min())) / _LARGEST


def _encode(
    suffix: str,
    image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    options: list[int] | None = None,
) -> bytes:
    return cv2.imencode(suffix, image, options or [])[1].tobytes()
