"""Depth in colours, and the scale that explains them."""

from __future__ import annotations

import cv2
import numpy as np

from depthmask.frames import FloatArray, UInt8Array
from depthmask.video.blending import rgb
from depthmask.video.depth_range import DepthRange

# Perceptually uniform; 255 is near, and bright.
_COLOURS_RGB = np.ascontiguousarray(
    cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[:, :, ::-1]
)
_TEXT_RGB = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_SMALLEST_BAR_PX = 120


def coloured(depth_HW: FloatArray, depth_range: DepthRange) -> UInt8Array:
    """Depth (H,W) in colours, (H,W,3); what is not a number is shown as far away."""
    scale = 255 / (depth_range.far - depth_range.near)
    # One pass, which also rounds and saturates; NaN and infinity become 0.
    nearness_HW = cv2.addWeighted(
        depth_HW, -scale, depth_HW, 0, scale * depth_range.far, dtype=cv2.CV_8U
    )
    return rgb(cv2.applyColorMap(nearness_HW, _COLOURS_RGB))


def draw_bar(image_HW3: UInt8Array, depth_range: DepthRange, unit: str) -> None:
    """Draw a colour scale with its two ends' depths into the lower left corner."""
    height, width = image_HW3.shape[:2]
    if min(height, width) < _SMALLEST_BAR_PX:
        return
    text_scale = max(0.35, min(height, width) / 900)
    bar_height, bar_width = round(22 * text_scale), round(width * 0.3)
    margin = round(16 * text_scale)
    top, left = height - margin - bar_height, margin
    gradient = _COLOURS_RGB[np.linspace(255, 0, bar_width).astype(np.uint8), 0]
    near, far = _labels(depth_range, unit)
    thickness_px = max(1, round(1.5 * text_scale))

    def text_width(text: str) -> int:
        return int(cv2.getTextSize(text, _FONT, text_scale, thickness_px)[0][0])

    panel_top = top - round(34 * text_scale)
    panel_right = (
        max(left + bar_width, left + text_width(near) + margin + text_width(far)) + margin // 2
    )
    panel = image_HW3[panel_top:, : panel_right + margin // 2]
    panel[:] = panel // 4
    image_HW3[top : top + bar_height, left : left + bar_width] = gradient
    far_left = max(left + bar_width - text_width(far), left + text_width(near) + margin)
    for text, x in ((near, left), (far, far_left)):
        at = (x, top - round(8 * text_scale))
        cv2.putText(image_HW3, text, at, _FONT, text_scale, _TEXT_RGB, thickness_px, cv2.LINE_AA)


def _labels(depth_range: DepthRange, unit: str) -> tuple[str, str]:
    near, far = f"{depth_range.near:.3g}", f"{depth_range.far:.3g}"
    return (f"{near} m", f"{far} m") if unit == "m" else (f"near {near}", f"{far} far")
