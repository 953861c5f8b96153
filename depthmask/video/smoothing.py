"""Masks and depths that flicker less from frame to frame: off unless asked for, as it delays them.

An exponential average with the time constant T: of two frames that are dt apart, the newer one's maps are

    shown = new + k (shown before - new),    k = exp(-dt / T) still

so that the frame rate, uneven times and dropped frames change nothing. `still` is 1 where the picture did not
change between the frames, 0 where it did, and there the new value is shown at once: nothing drags
behind what moves. Where it stands still, a sudden change of the maps is shown to 63 % after T, and
a steady one T late.

Whether the picture changed is judged on means over 4x4 pixels, in which the noise of cameras and codecs
is a quarter.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np

from depthmask.frames import FloatArray, UInt8Array
from depthmask.pipeline import Prediction
from depthmask.video.frame import Frame

if TYPE_CHECKING:
    from types import TracebackType

    from depthmask.video.sinks import Sink

_SHRINK = 4
# Of the means, in levels of 255: up to the first it is noise, from the second on another thing at this place.
_SAME, _OTHER = 3, 12
_STILL = np.clip((_OTHER - np.arange(256, dtype=np.float32)) / (_OTHER - _SAME), 0, 1)
_AROUND = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class _Before:
    time_s: float
    size: tuple[int, ...]
    small_hw3: UInt8Array
    mask_HW: FloatArray
    depth_HW: FloatArray


class Smoother:
    """The average over the frames of one video, in order."""

    def __init__(self, time_constant_ms: float) -> None:
        if not 0 < time_constant_ms < math.inf:
            raise ValueError(f"the time constant must be more than 0, but got {time_constant_ms}")
        self._time_constant_s = time_constant_ms / 1000
        self._before: _Before | None = None

    def __call__(self, frame: Frame, new: Prediction) -> Prediction:
        """The maps to show; `timings_ms` gets `smooth`.

        It begins anew with a frame that has no time, goes back in time, or is of another size.
        """
        started = time.perf_counter()
        size = frame.image_HW3.shape
        small = (max(1, size[1] // _SHRINK), max(1, size[0] // _SHRINK))
        small_hw3 = np.asarray(
            cv2.resize(frame.image_HW3, small, interpolation=cv2.INTER_AREA), np.uint8
        )
        mask_HW, depth_HW = new.mask_HW, new.depth_HW
        before = self._before
        if before is not None and frame.time_s is not None:
            passed_s = frame.time_s - before.time_s
            if before.size == size and passed_s >= 0:
                keep = math.exp(-passed_s / self._time_constant_s)
                share_HW = _share_of_old(before.small_hw3, small_hw3, keep, size)
                mask_HW = _mixed(before.mask_HW, mask_HW, share_HW)
                depth_HW = _mixed(before.depth_HW, depth_HW, share_HW)
        self._before = (
            None
            if frame.time_s is None
            else _Before(frame.time_s, size, small_hw3, mask_HW, depth_HW)
        )
        smooth_ms = 1000 * (time.perf_counter() - started)
        return Prediction(mask_HW, depth_HW, new.timings_ms | {"smooth": smooth_ms})


class SmoothedSink:
    """A sink that is given the average instead of each frame's own maps.

    It smooths where the sink draws, and passes on what the sink can do besides writing.
    """

    def __init__(self, sink: Sink, time_constant_ms: float) -> None:
        self._sink: Any = sink
        self._smooth = Smoother(time_constant_ms)

    @property
    def is_open(self) -> bool:
        """Whether the sink is."""
        return bool(self._sink.is_open)

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Average, and write."""
        self.put(self.draw(frame, prediction))

    def draw(self, frame: Frame, prediction: Prediction) -> Any:  # noqa: ANN401  (the sink's own)
        """Average, and draw where the sink draws apart from writing."""
        smooth = self._smooth(frame, prediction)
        if hasattr(self._sink, "draw"):
            return self._sink.draw(frame, smooth)
        return frame, smooth

    def put(self, drawn: Any) -> None:  # noqa: ANN401
        """Write what `draw` made."""
        if hasattr(self._sink, "draw"):
            self._sink.put(drawn)
        else:
            self._sink.write(*drawn)

    def idle(self) -> None:
        """Keep a window alive while no frame comes."""
        if hasattr(self._sink, "idle"):
            self._sink.idle()

    def __enter__(self) -> Self:
        self._sink.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sink.__exit__(kind, error, traceback)


def _share_of_old(
    before_hw3: UInt8Array, now_hw3: UInt8Array, keep: float, size: tuple[int, ...]
) -> FloatArray:
    """How much of the old value each pixel of the frame keeps: none where the picture changed."""
    red, green, blue = cv2.split(cv2.absdiff(before_hw3, now_hw3))
    # The surroundings count too: the edge of what moves lies between the means.
    changed_hw = cv2.dilate(cv2.max(cv2.max(red, green), blue), _AROUND)
    share_hw = cv2.LUT(changed_hw, keep * _STILL)
    return np.asarray(cv2.resize(share_hw, (size[1], size[0])), np.float32)


def _mixed(old_HW: FloatArray, new_HW: FloatArray, share_HW: FloatArray) -> FloatArray:
    difference_HW = cv2.subtract(old_HW, new_HW)
    cv2.multiply(difference_HW, share_HW, difference_HW)
    return np.asarray(cv2.add(difference_HW, new_HW, difference_HW), np.float32)
