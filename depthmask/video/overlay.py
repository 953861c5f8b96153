"""Views of a prediction: pure functions from arrays to a picture, (H,W,3) uint8 RGB."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.errors import UsageError
from depthmask.frames import FloatArray, UInt8Array
from depthmask.presets import Kind

if TYPE_CHECKING:
    from depthmask.pipeline import Prediction

# Perceptually uniform; near is bright.
_COLOURS_RGB = np.ascontiguousarray(
    cv2.applyColorMap(np.arange(255, -1, -1, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[
        :, 0, ::-1
    ]
)
_OUTLINE_RGB = _TEXT_RGB = (255, 255, 255)
_OUTSIDE_LIGHT = 0.35
_TINT = 0.4
_PERCENTILES = (2.0, 98.0)
_SAMPLES_PER_RANGE = 65536
_SMALLEST_BAR_PX = 120


@dataclass(frozen=True)
class DepthRange:
    """The depths that the ends of the colour scale stand for, in the bundle's unit; near < far."""

    near: float
    far: float

    def __post_init__(self) -> None:
        if not self.near < self.far:
            raise ValueError(f"near must be less than far, but got {self.near} and {self.far}")

    @classmethod
    def of(cls, prediction: Prediction, kind: Kind) -> DepthRange | None:
        """The middle 96 % of a frame's depths; of a foreground chain, of those in the mask.

        None where there is nothing to measure: an empty mask.
        """
        depth_HW, mask_HW = prediction.depth_HW, prediction.mask_HW
        step = max(1, int(np.sqrt(depth_HW.size / _SAMPLES_PER_RANGE)))
        values = depth_HW[::step, ::step]
        counted = np.isfinite(values)
        if kind == "foreground":
            counted = counted & (mask_HW[::step, ::step] >= 0.5)
        if not counted.any():
            return None
        near, far = (float(value) for value in np.percentile(values[counted], _PERCENTILES))
        # A flat surface would otherwise show its noise in full contrast.
        margin = max(0.0, 0.05 * max(abs(near), abs(far), 1e-3) - (far - near)) / 2
        return cls(near - margin, far + margin)

    def moved_towards(self, other: DepthRange, share: float) -> DepthRange:
        """The range with each end moved by a share (0 to 1) of its way to the other's."""
        return DepthRange(
            self.near + share * (other.near - self.near), self.far + share * (other.far - self.far)
        )


def next_range(
    previous: DepthRange | None, prediction: Prediction, kind: Kind, share: float = 1.0
) -> DepthRange:
    """The range for a frame, given the one before it.

    A share of 1 takes each frame's own range (photographs); a small one holds a video's colours steady.
    """
    measured = DepthRange.of(prediction, kind)
    if measured is None:
        return previous or DepthRange.of(prediction, "relevance") or DepthRange(0.0, 1.0)
    return previous.moved_towards(measured, share) if previous else measured


@dataclass(frozen=True)
class Look:
    """What a view needs to know besides the maps."""

    kind: Kind = "foreground"
    depth_unit: str = "relative"
    """`m` or `relative`, for the scale bar."""
    show_bar: bool = True


def render(
    view: str,
    frame_HW3: UInt8Array,
    prediction: Prediction,
    depth_range: DepthRange,
    look: Look | None = None,
) -> UInt8Array:
    """Draw a view, one of `VIEWS`, at the frame's size; `side` is three times as wide.

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
    grey_HW = cv2.cvtColor(frame_HW3, cv2.COLOR_RGB2GRAY)
    outside_HW3 = cv2.cvtColor(
        cv2.convertScaleAbs(grey_HW, alpha=_OUTSIDE_LIGHT), cv2.COLOR_GRAY2RGB
    )
    colours_HW3 = _coloured(prediction.depth_HW, depth_range)
    inside_HW3 = cv2.addWeighted(frame_HW3, 1 - _TINT, colours_HW3, _TINT, 0)
    shown_HW3 = _blended(inside_HW3, outside_HW3, prediction.mask_HW)
    within_HW = (prediction.mask_HW >= 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(within_HW, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    thickness_px = max(1, round(min(frame_HW3.shape[:2]) / 350))
    cv2.drawContours(shown_HW3, outlines, -1, _OUTLINE_RGB, thickness_px, cv2.LINE_AA)
    return shown_HW3


def _mask(
    frame_HW3: UInt8Array, prediction: Prediction, depth_range: DepthRange, look: Look
) -> UInt8Array:
    """The soft mask in grey."""
    return _rgb(cv2.cvtColor(mask_levels(prediction.mask_HW), cv2.COLOR_GRAY2RGB))


def _depth(
    frame_HW3: UInt8Array, prediction: Prediction, depth_range: DepthRange, look: Look
) -> UInt8Array:
    """Depth in colours with a scale; dark where it does not count, outside a foreground chain's mask."""
    shown_HW3 = _coloured(prediction.depth_HW, depth_range)
    if look.kind == "foreground":
        outside_HW3 = _rgb(cv2.convertScaleAbs(shown_HW3, alpha=0.2))
        shown_HW3 = _blended(shown_HW3, outside_HW3, prediction.mask_HW)
    if look.show_bar:
        _draw_bar(shown_HW3, depth_range, look.depth_unit)
    return shown_HW3


def _side(
    frame_HW3: UInt8Array, prediction: Prediction, depth_range: DepthRange, look: Look
) -> UInt8Array:
    """Frame, mask and depth beside each other."""
    parts = [view(frame_HW3, prediction, depth_range, look) for view in (_mask, _depth)]
    return np.hstack([frame_HW3, *parts])


VIEWS: dict[str, Callable[[UInt8Array, Any, DepthRange, Look], UInt8Array]] = {
    "overlay": _overlay,
    "mask": _mask,
    "depth": _depth,
    "side": _side,
}


def mask_levels(mask_HW: FloatArray) -> UInt8Array:
    """A mask in [0, 1] as 0 to 255."""
    return np.asarray(np.clip(mask_HW * 255 + 0.5, 0, 255), np.uint8)


def _coloured(depth_HW: FloatArray, depth_range: DepthRange) -> UInt8Array:
    scale = np.float32(255 / (depth_range.far - depth_range.near))
    levels_HW = (depth_HW - np.float32(depth_range.near)) * scale + np.float32(0.5)
    np.clip(levels_HW, 0, 255, out=levels_HW)
    # What is not a number has no colour of its own: it is shown as far away.
    np.nan_to_num(levels_HW, copy=False, nan=255.0)
    return _rgb(cv2.applyColorMap(levels_HW.astype(np.uint8), _COLOURS_RGB[:, None]))


def _blended(inside_HW3: Any, outside_HW3: Any, mask_HW: FloatArray) -> UInt8Array:  # noqa: ANN401  (cv2)
    share_HW = np.clip(mask_HW, 0, 1)
    return _rgb(cv2.blendLinear(inside_HW3, outside_HW3, share_HW, 1 - share_HW))


def _rgb(image: npt.NDArray[Any] | Any) -> UInt8Array:  # noqa: ANN401  (cv2's stubs allow any array)
    return np.ascontiguousarray(image, np.uint8)


def _draw_bar(image_HW3: UInt8Array, depth_range: DepthRange, unit: str) -> None:
    """Draw a colour scale with its two ends' depths into the lower left corner."""
    height, width = image_HW3.shape[:2]
    if min(height, width) < _SMALLEST_BAR_PX:
        return
    text_scale = max(0.35, min(height, width) / 900)
    bar_height, bar_width = round(22 * text_scale), round(width * 0.3)
    margin = round(16 * text_scale)
    top, left = height - margin - bar_height, margin
    gradient = _COLOURS_RGB[np.linspace(0, 255, bar_width).astype(np.uint8)]
    suffix = f" {unit}" if unit == "m" else ""
    near, far = (f"{value:.3g}{suffix}" for value in (depth_range.near, depth_range.far))
    if not suffix:
        near, far = f"near {near}", f"{far} far"
    thickness_px = max(1, round(1.5 * text_scale))

    def text_width(text: str) -> int:
        return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, text_scale, thickness_px)[0][0])

    panel_top = top - round(34 * text_scale)
    panel_right = (
        max(left + bar_width, left + text_width(near) + margin + text_width(far)) + margin // 2
    )
    panel = image_HW3[panel_top:, : panel_right + margin // 2]
    panel[:] = panel // 4
    image_HW3[top : top + bar_height, left : left + bar_width] = gradient
    far_left = max(left + bar_width - text_width(far), left + text_width(near) + margin)
    for text, x in ((near, left), (far, far_left)):
        at, font = (x, top - round(8 * text_scale)), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(image_HW3, text, at, font, text_scale, _TEXT_RGB, thickness_px, cv2.LINE_AA)
