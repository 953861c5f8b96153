"""Views of a prediction: pure functions from arrays to a picture, (H,W,3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from depthmask.errors import UsageError
from depthmask.frames import FloatArray, UInt8Array
from depthmask.presets import Kind
from depthmask.video.blending import dimmed, levels, rgb
from depthmask.video.cutout import Background, cut_out
from depthmask.video.depth_colours import coloured, draw_bar
from depthmask.video.depth_range import DepthRange, next_range
from depthmask.video.lens_blur import blurred_background

if TYPE_CHECKING:
    from depthmask.pipeline import Prediction

__all__ = ["VIEWS", "DepthRange", "Look", "mask_levels", "next_range", "render"]

_OUTLINE_RGB = (255, 255, 255)
_OUTSIDE_LIGHT = 0.35
_TINT = 0.4
_OUTSIDE_DEPTH_LIGHT = 0.2


@dataclass(frozen=True)
class Look:
    """What a view needs to know besides the maps."""

    kind: Kind = "foreground"
    depth_unit: str = "relative"
    """`m` or `relative`, for the scale bar and the lens of `blur`."""
    show_bar: bool = True
    background: Background | None = None
    """Of `cutout`; None is transparent."""


def render(
    view: str,
    frame_HW3: UInt8Array,
    prediction: Prediction,
    depth_range: DepthRange,
    look: Look | None = None,
) -> UInt8Array:
    """Draw a view, one of `VIEWS`, at the frame's size; `side` is three times as wide.

    `cutout` without a background is RGBA, (H,W,4).

    Raises:
        UsageError: there is no such view.
        ValueError: the maps are not of the frame's size.
    """
    if view not in VIEWS:
        raise UsageError(f"a view must be one of {', '.join(VIEWS)}, but got {view!r}")
    for map_HW in (prediction.mask_HW, prediction.depth_HW):
        if map_HW.shape != frame_HW3.shape[:2]:
            raise ValueError(
                f"a map must be of the frame's size {frame_HW3.shape[:2]}, but got {map_HW.shape}"
            )
    return VIEWS[view](frame_HW3, prediction, depth_range, look or Look())


def _overlay(
    frame_HW3: UInt8Array, prediction: Prediction, depth_range: DepthRange, look: Look
) -> UInt8Array:
    """Outside the mask grey and dark, inside tinted by depth, with an outline."""
    share_HW = levels(prediction.mask_HW)
    shown_HW3 = coloured(prediction.depth_HW, depth_range)
    cv2.addWeighted(frame_HW3, 1 - _TINT, shown_HW3, _TINT, 0, shown_HW3)
    grey_HW = cv2.cvtColor(frame_HW3, cv2.COLOR_RGB2GRAY)
    grey_HW = cv2.multiply(grey_HW, cv2.bitwise_not(share_HW), grey_HW, _OUTSIDE_LIGHT / 255)
    shown_HW3 = dimmed(shown_HW3, share_HW)
    cv2.add(shown_HW3, cv2.cvtColor(grey_HW, cv2.COLOR_GRAY2RGB), shown_HW3)
    _, within_HW = cv2.threshold(share_HW, 127, 1, cv2.THRESH_BINARY)
    outlines, _ = cv2.findContours(within_HW, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    thickness_px = max(1, round(min(frame_HW3.shape[:2]) / 350))
    cv2.drawContours(shown_HW3, outlines, -1, _OUTLINE_RGB, thickness_px, cv2.LINE_AA)
    return shown_HW3


def _mask(
    frame_HW3: UInt8Array, prediction: Prediction, depth_range: DepthRange, look: Look
) -> UInt8Array:
    """The soft mask in grey."""
    return rgb(cv2.cvtColor(levels(prediction.mask_HW), cv2.COLOR_GRAY2RGB))


def _depth(
    frame_HW3: UInt8Array, prediction: Prediction, depth_range: DepthRange, look: Look
) -> UInt8Array:
    """Depth in colours with a scale; dark where it does not count, outside a foreground chain's mask."""
    shown_HW3 = coloured(prediction.depth_HW, depth_range)
    if look.kind == "foreground":
        light = 255 * _OUTSIDE_DEPTH_LIGHT
        mask_HW = levels(prediction.mask_HW)
        light_HW = cv2.convertScaleAbs(mask_HW, alpha=1 - _OUTSIDE_DEPTH_LIGHT, beta=light)
        shown_HW3 = dimmed(shown_HW3, rgb(light_HW))
    if look.show_bar:
        draw_bar(shown_HW3, depth_range, look.depth_unit)
    return shown_HW3


def _side(
    frame_HW3: UInt8Array, prediction: Prediction, depth_range: DepthRange, look: Look
) -> UInt8Array:
    """Frame, mask and depth beside each other."""
    parts = [view(frame_HW3, prediction, depth_range, look) for view in (_mask, _depth)]
    return np.hstack([frame_HW3, *parts])


def _blur(
    frame_HW3: UInt8Array, prediction: Prediction, depth_range: DepthRange, look: Look
) -> UInt8Array:
    """The background out of focus."""
    maps = (prediction.mask_HW, prediction.depth_HW)
    return blurred_background(frame_HW3, *maps, depth_range, look.kind, look.depth_unit)


def _cutout(
    frame_HW3: UInt8Array, prediction: Prediction, depth_range: DepthRange, look: Look
) -> UInt8Array:
    """What the mask holds, on another background."""
    return cut_out(frame_HW3, prediction.mask_HW, look.background)


VIEWS: dict[str, Callable[[UInt8Array, Any, DepthRange, Look], UInt8Array]] = {
    "overlay": _overlay,
    "mask": _mask,
    "depth": _depth,
    "side": _side,
    "blur": _blur,
    "cutout": _cutout,
}


def mask_levels(mask_HW: FloatArray) -> UInt8Array:
    """A mask in [0, 1] as 0 to 255."""
    return levels(mask_HW)
