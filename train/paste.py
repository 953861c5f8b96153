"""Objects of one labelled photograph pasted into another one.

Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation",
CVPR 2021: a few photographs give many, with the light and edges of photographs.
Shapes: image_HW3 uint8 RGB, mask_HW uint8, object_HW4 uint8 RGBA.
"""

from __future__ import annotations

import cv2
import numpy as np

from depthmask.frames import FloatArray, UInt8Array

_OBJECT_SHARE = (0.02, 0.6)
"""Of a photograph: less is a speck, more is no object but the photograph."""
_MOST_DOUBT = 0.15
"""Mean of how far a mask's values are from 0 or 1, over the object, as a share of the most."""
_CERTAIN = (0.35, 0.75)
"""A teacher's mask is soft at edges: below is the old background, above is the object."""


def cut_object(image_HW3: UInt8Array, mask_HW: UInt8Array) -> UInt8Array | None:
    """The masked object, RGBA, cropped to what is visible; None where the mask is no clear object."""
    share_HW = mask_HW.astype(np.float32) / 255
    share = float(share_HW.mean())
    doubt = float((4 * share_HW * (1 - share_HW)).mean())
    if not _OBJECT_SHARE[0] <= share <= _OBJECT_SHARE[1] or doubt > _MOST_DOUBT * share:
        return None
    low, high = _CERTAIN
    alpha_HW = np.clip((share_HW - low) / (high - low), 0, 1)
    left, top, width, height = cv2.boundingRect((alpha_HW > 0).astype(np.uint8))
    box = (slice(top, top + height), slice(left, left + width))
    return np.dstack([image_HW3[box], np.rint(255 * alpha_HW[box]).astype(np.uint8)])


def paste_object(
    image_HW3: UInt8Array, object_HW4: UInt8Array, rng: np.random.Generator
) -> tuple[UInt8Array, FloatArray]:
    """The image with the object somewhere on it, at a random size; and where, in [0, 1], as (H,W)."""
    height, width = image_HW3.shape[:2]
    longest = max(object_HW4.shape[0] / height, object_HW4.shape[1] / width)
    scale = rng.uniform(0.25, 0.9) / longest
    size = (
        max(1, round(object_HW4.shape[1] * scale)),
        max(1, round(object_HW4.shape[0] * scale)),
    )
    shrinks = scale < 1
    placed_HW4 = cv2.resize(
        object_HW4, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    if rng.random() < 0.5:
        placed_HW4 = placed_HW4[:, ::-1]
    # Up to a fifth of it may be cut off by the border.
    top, left = (
        int(rng.uniform(-0.2 * side, room - 0.8 * side))
        for side, room in zip(placed_HW4.shape[:2], (height, width), strict=True)
    )
    shift = np.array([[1, 0, left], [0, 1, top]], np.float32)
    on_canvas_HW4 = cv2.warpAffine(placed_HW4, shift, (width, height), flags=cv2.INTER_NEAREST)
    alpha_HW = on_canvas_HW4[:, :, 3].astype(np.float32) / 255
    mixed_HW3 = image_HW3 + alpha_HW[:, :, None] * (
        on_canvas_HW4[:, :, :3] - image_HW3.astype(np.float32)
    )
    return np.rint(mixed_HW3).astype(np.uint8), np.asarray(alpha_HW, np.float32)
