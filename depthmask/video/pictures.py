"""From a decoded picture to (H,W,3) uint8 RGB: upright, full range, by the matrix that it was coded with."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import Colorspace, VideoReformatter

from depthmask.frames import UInt8Array

_UNSPECIFIED = 2
# What players assume of pictures that do not say: BT.709 from this height on, BT.601 below.
_HD_HEIGHT_PX = 720


class PictureReader:
    """Converts the pictures of one stream; they may change in size, format and rotation on the way."""

    def __init__(self) -> None:
        # Kept, as making a new one takes longer than the conversion itself.
        self._reformatter = VideoReformatter()

    def read(self, picture: av.VideoFrame) -> UInt8Array:
        """The picture with the container's rotation applied, which PyAV gives counterclockwise."""
        rgb = self._reformatter.reformat(
            picture, format="rgb24", src_colorspace=_assumed_matrix(picture), threads=1
        )
        quarter_turns = round(picture.rotation / 90) % 4
        image_HW3 = np.ascontiguousarray(np.rot90(rgb.to_ndarray(), quarter_turns), np.uint8)
        # Of a picture that is RGB already it may be a view into memory which a camera takes back.
        return image_HW3.copy() if rgb is picture else image_HW3


def _assumed_matrix(picture: av.VideoFrame) -> Colorspace | None:
    """The matrix to be assumed; None where the picture says it itself, or is a JPEG (always BT.601)."""
    says_so = picture.colorspace != _UNSPECIFIED or picture.format.name.startswith("yuvj")
    if says_so or picture.format.is_rgb or picture.height < _HD_HEIGHT_PX:
        return None
    return Colorspace.ITU709
