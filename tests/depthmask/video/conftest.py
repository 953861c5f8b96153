from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from depthmask.pipeline import Prediction


@pytest.fixture
def write_video():
    """Write a video; frame i has the grey level 20 + 6 i, and red in its top left quarter."""

    def write(path, count=20, *, size=(48, 64), fps=10, rotation=None, ticks=None, options=None):
        with av.open(str(path), "w", options=options or {}) as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            stream.options = {"g": "5", "crf": "10", "preset": "ultrafast"}
            if rotation is not None:
                stream.set_display_rotation(rotation)
            for index in range(count):
                image = np.full((*size, 3), 20 + 6 * index, np.uint8)
                image[: size[0] // 2, : size[1] // 2] = (200, 30, 30)
                # Noise, so that every frame has bytes that can be cut off.
                image[:, -8:] = np.random.default_rng(index).integers(0, 255, (size[0], 8, 3))
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = ticks[index] if ticks else index
                frame.time_base = Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write


@pytest.fixture
def prediction_of():
    """A prediction for a frame's size: a disc as the mask, depth growing from left to right, 1 m to 3 m."""

    def make(height, width, *, empty=False):
        rows, columns = np.mgrid[:height, :width].astype(np.float32)
        radius = np.hypot(rows - height / 2, columns - width / 2)
        mask_HW = np.clip(min(height, width) / 3 - radius, 0, 1) * (not empty)
        depth_HW = 1 + 2 * columns / max(1, width - 1)
        return Prediction(
            mask_HW.astype(np.float32), depth_HW.astype(np.float32), {"inference": 2.0}
        )

    return make
