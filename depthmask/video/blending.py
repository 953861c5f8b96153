"""Mixing pictures by a soft mask, and blurs that take in only a part of a picture.

In integers and OpenCV: a frame of 640x480 is mixed in a third of a millisecond.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.frames import FloatArray, UInt8Array

_LEAST_WEIGHT = 1e-3


def levels(share_HW: FloatArray) -> UInt8Array:
    """Shares in [0, 1] as 0 to 255; what is beyond has the nearest end's value."""
    # Not convertScaleAbs, to which -1 is 1.
    return rgb(cv2.addWeighted(share_HW, 255, share_HW, 0, 0, dtype=cv2.CV_8U))


def blend(inside_HW3: UInt8Array, outside_HW3: UInt8Array, share_HW: UInt8Array) -> UInt8Array:
    """Share * inside + (1 - share) * outside, with the share in 0 to 255; right to one level."""
    share_HW3 = cv2.cvtColor(share_HW, cv2.COLOR_GRAY2RGB)
    mixed_HW3 = cv2.multiply(inside_HW3, share_HW3, scale=1 / 255)
    # In place: fresh memory costs more than the sums.
    cv2.bitwise_not(share_HW3, share_HW3)
    cv2.multiply(outside_HW3, share_HW3, share_HW3, scale=1 / 255)
    return rgb(cv2.add(mixed_HW3, share_HW3, mixed_HW3))


def dimmed(image_HW3: UInt8Array, light_HW: UInt8Array) -> UInt8Array:
    """Multiply an image by light / 255, in place."""
    return rgb(
        cv2.multiply(image_HW3, cv2.cvtColor(light_HW, cv2.COLOR_GRAY2RGB), image_HW3, 1 / 255)
    )


def rgb(image: npt.NDArray[Any] | Any) -> UInt8Array:  # noqa: ANN401  (cv2's stubs allow any array)
    """The array as what it is."""
    return np.ascontiguousarray(image, np.uint8)


def disc(radius_px: float) -> FloatArray:
    """A round kernel with a soft edge that sums to 1: what a lens makes of a point out of focus."""
    reach = int(np.ceil(radius_px))
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = np.clip(radius_px + 0.5 - np.hypot(rows, columns), 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def blur_within(
    image_HW3: FloatArray, weight_HW: FloatArray, kernel: FloatArray, beyond_HW3: FloatArray
) -> FloatArray:
    """Blur the part of an image that has weight, and only that part: nothing else bleeds into it.

    The image is multiplied by the weight, blurred, and divided by the weight's blur. Where no weight is
    in reach, `beyond` shows.
    """
    weighted_HW3 = image_HW3 * weight_HW[:, :, None]
    blurred_HW3 = cv2.filter2D(weighted_HW3, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    reached_HW = cv2.filter2D(weight_HW, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    reached_HW1 = np.maximum(reached_HW, 0)[:, :, None]
    filled_HW3 = (blurred_HW3 + _LEAST_WEIGHT * beyond_HW3) / (reached_HW1 + _LEAST_WEIGHT)
    return np.asarray(filled_HW3, np.float32)


def average_within(image_HW3: FloatArray, weight_HW: FloatArray, reach_px: int) -> FloatArray:
    """As `blur_within`, over a square that is so wide that it reaches everywhere but for lone corners.

    Beyond its reach the whole part's mean shows, and without any weight the image's.
    """
    size = (2 * reach_px + 1, 2 * reach_px + 1)
    weights = weight_HW if cv2.countNonZero(weight_HW) else np.ones_like(weight_HW)
    weighted_HW3 = cv2.multiply(image_HW3, cv2.cvtColor(weights, cv2.COLOR_GRAY2RGB))
    mean_3 = np.array(cv2.mean(weighted_HW3)[:3], np.float32) / np.float32(cv2.mean(weights)[0])
    weighted_HW3 = cv2.blur(weighted_HW3, size)
    reached_HW1 = np.maximum(cv2.blur(weights, size), 0)[:, :, None]
    filled = (weighted_HW3 + _LEAST_WEIGHT * mean_3) / (reached_HW1 + _LEAST_WEIGHT)
    return np.asarray(filled, np.float32)
