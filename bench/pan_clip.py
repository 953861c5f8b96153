"""A clip of real pictures that move: a window that pans over the shipped photographs."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from depthmask.bundle import SHIPPED_BUNDLE
from depthmask.frames import UInt8Array, read_image
from depthmask.video.images import images_of_folder

PHOTOS = SHIPPED_BUNDLE.parent / "samples" / "photos"
_FRAMES_PER_PHOTO = 60
_LARGER = 1.25


def pan_frames(frames: int, height: int = 480, width: int = 640) -> Iterator[UInt8Array]:
    """So many frames, (H,W,3) uint8 RGB; a cut to the next photograph every 60 frames."""
    photos = images_of_folder(PHOTOS)
    for index in range(frames):
        number, step = divmod(index, _FRAMES_PER_PHOTO)
        if step == 0:
            photo_HW3 = _covering(read_image(photos[number % len(photos)]), height, width)
        share = step / (_FRAMES_PER_PHOTO - 1)
        top = round(share * (photo_HW3.shape[0] - height))
        left = round(share * (photo_HW3.shape[1] - width))
        yield np.ascontiguousarray(photo_HW3[top : top + height, left : left + width])


def write_pan_clip(path: Path, frames: int, fps: int = 30) -> None:
    """Write `pan_frames` as H.264, 640x480."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        assert isinstance(stream, VideoStream)
        stream.height, stream.width, stream.pix_fmt = 480, 640, "yuv420p"
        for index, image_HW3 in enumerate(pan_frames(frames)):
            picture = av.VideoFrame.from_ndarray(image_HW3, format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _covering(photo_HW3: UInt8Array, height: int, width: int) -> UInt8Array:
    """Scaled so that it is a quarter larger than the window in at least one direction, and fills it."""
    scale = _LARGER * max(height / photo_HW3.shape[0], width / photo_HW3.shape[1])
    size = (round(photo_HW3.shape[1] * scale), round(photo_HW3.shape[0] * scale))
    return np.asarray(cv2.resize(photo_HW3, size, interpolation=cv2.INTER_AREA), np.uint8)
