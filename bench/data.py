"""What a benchmark measures on: a data set, or a video."""

from __future__ import annotations

import time
from contextlib import closing
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from depthmask.errors import InputError
from depthmask.frames import IMAGE_SUFFIXES, Resolution, UInt8Array
from depthmask.samples import Samples, open_samples
from depthmask.video.clip import CLIP_FRAMES, Clip

TIMED_FRAMES = 8
"""Frames of the data that are timed in turn, at most."""

Data = Samples | Clip


def open_data(path: Path | None, limit: int | None = None) -> Data:
    """Open a data set folder (by default the shipped one) or the first `limit` frames of a video file.

    Raises:
        InputError: it is missing, damaged or neither.
    """
    if path is not None and not path.exists():
        raise InputError(f"{path} must be a data set folder or a video file, but there is none")
    if path is not None and path.is_file() and path.suffix.lower() not in IMAGE_SUFFIXES:
        return Clip(path, limit or CLIP_FRAMES)
    return open_samples(path)


def timed_frames(data: Data, size: Resolution | None = None) -> tuple[list[UInt8Array], float]:
    """The frames to time with, stretched to `size`, and the median time to read and decode one, in ms.

    Raises:
        InputError: a file is damaged.
    """
    frames, times_ms = [], []
    with closing(data.images()) as images:
        begun = time.perf_counter()
        for frame in islice(images, TIMED_FRAMES):
            times_ms.append(1000 * (time.perf_counter() - begun))
            frames.append(frame)
            begun = time.perf_counter()
    if size is not None:
        frames = [
            np.asarray(cv2.resize(frame, (size.width, size.height)), np.uint8) for frame in frames
        ]
    return frames, float(np.median(times_ms))
