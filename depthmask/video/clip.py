"""A video file as data to measure on: its frames in order, again and again, without labels."""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice
from pathlib import Path

import numpy as np

from depthmask.errors import InputError, SourceLostError
from depthmask.frames import UInt8Array
from depthmask.samples import LabelledSample
from depthmask.video.video_source import open_video

CLIP_FRAMES = 300
"""So many frames are used where nothing else is said: 10 s at 30 a second."""


class Clip:
    """The first `limit` frames of a video; each pass decodes them anew, and keeps none."""

    labelled = False

    def __init__(self, path: Path, limit: int = CLIP_FRAMES) -> None:
        """Open the file once, to see that it is a video.

        Raises:
            InputError: it cannot be read, or is no video.
        """
        self.name = path.name
        self._path = path
        self._limit = limit
        open_video(path).close()

    def __repr__(self) -> str:
        return f"Clip({self.name}, the first {self._limit} frames)"

    def images(self) -> Generator[UInt8Array, None, None]:
        """The frames (H,W,3), uint8 RGB, upright.

        Raises:
            InputError: the file is damaged or cut short before the limit.
        """
        with open_video(self._path) as source:
            read = 0
            try:
                for frame in islice(source, self._limit):
                    read += 1
                    yield frame.image_HW3
            except SourceLostError as error:
                raise InputError(
                    f"{self._path} must be a whole video to be measured with, but it is cut short or"
                    f" damaged after {read} frames. Try --limit {read}"
                ) from error

    def spread(self, count: int) -> list[LabelledSample]:
        """`count` frames, or fewer if there are no more, evenly spread over the clip.

        Raises:
            InputError: as `images`.
        """
        kept: list[LabelledSample] = []
        step = 1
        for index, image_HW3 in enumerate(self.images()):
            if index % step == 0:
                kept.append(LabelledSample(f"frame {index}", image_HW3))
            if len(kept) == 2 * count:  # the length is not known before the end
                kept, step = kept[::2], 2 * step
        chosen = np.linspace(0, len(kept) - 1, min(count, len(kept))).round().astype(int)
        return [kept[index] for index in chosen.tolist()]
