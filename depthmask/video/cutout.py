"""What the mask holds, on another background: the view `cutout`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from depthmask.errors import UsageError
from depthmask.frames import FloatArray, UInt8Array, read_image
from depthmask.video.blending import average_within, blend, blur_within, disc, levels, rgb

_SHRINK = 4
_REACH_PX = 24
_DISC = disc(2.0)
# How much of a pixel's own colour is taken, by its mask: a pixel of the edge shows the old background
# too, so that the colour of the subject beside it is better.
_OWN_COLOUR = np.asarray(255 * np.linspace(0, 1, 256) ** 4 + 0.5, np.uint8)


@dataclass(frozen=True)
class Background:
    """One colour, or a picture that fills the frame (what does not fit in is cut off on both sides)."""

    colour: tuple[int, int, int] = (0, 255, 0)
    picture_HW3: UInt8Array | None = field(default=None, repr=False, compare=False)
    _fitted: dict[tuple[int, int], UInt8Array] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def parse(cls, text: str) -> Background | None:
        """`#rrggbb`, the path of a picture, or `transparent` (None).

        Raises:
            UsageError: it begins with # and is no colour.
            InputError: there is no such picture, or it cannot be read as one.
        """
        if text == "transparent":
            return None
        if not text.startswith("#"):
            return cls(picture_HW3=read_image(Path(text)))
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
            raise UsageError(
                f"a background's colour must be # and six hexadecimal digits, but got {text!r}. Try '#00ff00'"
            )
        red, green, blue = bytes.fromhex(text[1:])
        return cls((red, green, blue))

    def of_size(self, height: int, width: int) -> UInt8Array:
        """(height,width,3); made once for each size."""
        if (height, width) not in self._fitted:
            self._fitted.clear()
            self._fitted[height, width] = self._made(height, width)
        return self._fitted[height, width]

    def _made(self, height: int, width: int) -> UInt8Array:
        picture = self.picture_HW3
        if picture is None:
            return np.full((height, width, 3), self.colour, np.uint8)
        scale = max(height / picture.shape[0], width / picture.shape[1])
        rows, columns = round(height / scale), round(width / scale)
        top, left = (picture.shape[0] - rows) // 2, (picture.shape[1] - columns) // 2
        cut = picture[top : top + max(1, rows), left : left + max(1, columns)]
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        return rgb(cv2.resize(cut, (width, height), interpolation=how))


def cut_out(
    frame_HW3: UInt8Array, mask_HW: FloatArray, background: Background | None
) -> UInt8Array:
    """What the mask holds on the background, (H,W,3); without one (H,W,4), RGBA, not premultiplied."""
    share_HW = levels(mask_HW)
    subject_HW3 = subject_colours(frame_HW3, mask_HW)
    if background is None:
        rgba_HW4 = cv2.cvtColor(subject_HW3, cv2.COLOR_RGB2RGBA)
        return rgb(cv2.insertChannel(share_HW, rgba_HW4, 3))
    return blend(subject_HW3, background.of_size(*share_HW.shape), share_HW)


def subject_colours(frame_HW3: UInt8Array, mask_HW: FloatArray) -> UInt8Array:
    """The subject's own colours, also where the edge's pixels are mixed with the old background.

    There the colours come from the sure part of the subject beside them: a blur within it, as in Forte,
    "Approximate fast foreground colour estimation" (ICIP 2021), in one pass. Otherwise the old background
    would stay as a fringe: dark on a bright new one.
    """
    height, width = mask_HW.shape
    size = max(1, width // _SHRINK), max(1, height // _SHRINK)
    small_hw3 = cv2.resize(frame_HW3, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    mask_hw = cv2.resize(mask_HW, size, interpolation=cv2.INTER_AREA)
    sure_hw = np.asarray(np.clip(2 * mask_hw - 1, 0, 1) ** 4, np.float32)
    beyond_hw3 = average_within(small_hw3, sure_hw, _REACH_PX)
    near_hw3 = blur_within(small_hw3, sure_hw, _DISC, beyond_hw3)
    near_HW3 = rgb(cv2.resize(rgb(np.clip(near_hw3 + 0.5, 0, 255)), (width, height)))
    return blend(frame_HW3, near_HW3, rgb(cv2.LUT(levels(mask_HW), _OWN_COLOUR)))
