"""The background out of focus, as by a lens with a wide aperture: the view `blur`.

A point at depth z is blurred into a disc (the circle of confusion). With the focus at depth f, its radius
grows with |z - f| / z (Potmesil and Chakravarty, "A lens and aperture camera model for synthetic image
generation", SIGGRAPH 1981), which near objects reach soon and far ones slowly. In focus are the depths of
the subject, from the near to the far end of the colour scale.

The background is blurred by itself, without the subject's pixels, and the sharp subject is laid over it:
otherwise its colours would glow around it.

Shapes: H and W the frame's size, h and w a fraction of it on which the blur is made.
"""

from __future__ import annotations

import cv2
import numpy as np

from depthmask.frames import FloatArray, UInt8Array
from depthmask.presets import Kind
from depthmask.video.blending import average_within, blend, blur_within, disc, levels, rgb
from depthmask.video.depth_range import DepthRange

_RADIUS_PER_DIAGONAL = 0.025
_SMALL_RADIUS_PX = 4.0  # of the widest disc, where the blur is made
_REACH_PX = 24
# The steps between which a radius is interpolated, as shares of the widest one.
_STEPS = (0.3, 0.6, 1.0)
_DISCS = tuple(disc(step * _SMALL_RADIUS_PX) for step in _STEPS)
# What the mask leaves out is blurred so much even at the subject's depth: the mask is surer than the depth.
_LEAST_BEHIND = 0.4


def blurred_background(
    frame_HW3: UInt8Array,
    mask_HW: FloatArray,
    depth_HW: FloatArray,
    depth_range: DepthRange,
    kind: Kind,
    unit: str,
) -> UInt8Array:
    """The frame with its background out of focus.

    The subject of a foreground chain is what its mask holds; else it is what is as near as the range.
    """
    height, width = frame_HW3.shape[:2]
    shrink = max(1.0, _RADIUS_PER_DIAGONAL * float(np.hypot(height, width)) / _SMALL_RADIUS_PX)
    size = max(1, round(width / shrink)), max(1, round(height / shrink))

    depth_hw = cv2.resize(depth_HW, size, interpolation=cv2.INTER_AREA)
    depth_hw = np.nan_to_num(depth_hw, nan=depth_range.far)
    radius_hw = out_of_focus(np.asarray(depth_hw, np.float32), depth_range, unit)
    if kind == "foreground":
        subject_HW = mask_HW
        subject_hw = cv2.resize(mask_HW, size, interpolation=cv2.INTER_AREA)
        radius_hw = _LEAST_BEHIND + (1 - _LEAST_BEHIND) * radius_hw
    else:
        subject_hw = 1 - np.clip(radius_hw / _STEPS[0], 0, 1)
        subject_HW = np.asarray(cv2.resize(subject_hw, (width, height)), np.float32)
    small_hw3 = rgb(cv2.resize(frame_HW3, size, interpolation=cv2.INTER_AREA))
    # Where the mask is not sure, the pixel may be the subject's: better without it.
    subject_hw = cv2.dilate(np.clip(2 * subject_hw, 0, 1), np.ones((3, 3), np.uint8))
    blurred_hw3 = _blurred(small_hw3, np.asarray(1 - subject_hw, np.float32), radius_hw)
    behind_HW3 = rgb(cv2.resize(blurred_hw3, (width, height), interpolation=cv2.INTER_LINEAR))
    return blend(frame_HW3, behind_HW3, levels(subject_HW))


def out_of_focus(depth_hw: FloatArray, in_focus: DepthRange, unit: str) -> FloatArray:
    """The radius of the circle of confusion as a share of the widest one, in [0, 1].

    For metres the lens' formula. Relative depths have no zero to divide by: there the distance from what is
    in focus is set against the extent of that.
    """
    near, far = in_focus.near, in_focus.far
    beyond_hw = np.maximum(depth_hw - far, 0) + np.maximum(near - depth_hw, 0)
    if unit == "m":
        scale_hw = np.maximum(np.minimum(depth_hw, far), 1e-3)
    else:
        scale_hw = np.full_like(depth_hw, far - near)
    return np.asarray(np.clip(beyond_hw / (beyond_hw + scale_hw), 0, 1), np.float32)


def _blurred(image_hw3: UInt8Array, weight_hw: FloatArray, radius_hw: FloatArray) -> UInt8Array:
    """Each pixel of the weighted part at its own radius."""
    # Light adds up, and not the levels on a screen, which are about its square root.
    light_hw3 = np.square(image_hw3.astype(np.float32))
    beyond_hw3 = average_within(light_hw3, weight_hw, _REACH_PX)
    steps: list[FloatArray] = []
    for kernel in reversed(_DISCS):
        beyond_hw3 = blur_within(light_hw3, weight_hw, kernel, beyond_hw3)
        steps.insert(0, beyond_hw3)
    shown_hw3 = steps[0]
    for below, above, step_hw3 in zip(_STEPS, _STEPS[1:], steps[1:], strict=False):
        share_hw = np.clip((radius_hw - below) / (above - below), 0, 1)
        shown_hw3 = shown_hw3 + share_hw[:, :, None] * (step_hw3 - shown_hw3)
    return rgb(np.clip(np.sqrt(shown_hw3) + 0.5, 0, 255))
