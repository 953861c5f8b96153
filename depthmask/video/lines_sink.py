"""A line of JSON for each frame: what was seen, in numbers."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import cv2
import numpy as np

from depthmask.errors import OutputError
from depthmask.video.blending import levels
from depthmask.video.depth_range import counted_depths
from depthmask.video.frame import Frame
from depthmask.video.overlay import Look

if TYPE_CHECKING:
    from depthmask.pipeline import Prediction

_QUANTILES = {"p5": 0.05, "median": 0.5, "p95": 0.95}


def frame_numbers(frame: Frame, prediction: Prediction, look: Look) -> dict[str, Any]:
    """What is written of a frame.

    `mask.area` is the share of pixels whose mask is 0.5 or more, `mask.box` their left, top, right and
    bottom in pixels (right and bottom beyond the last one), None if there are none. `depth` is over the
    pixels that count (see `counted_depths`), None if there are none.
    """
    height, width = frame.image_HW3.shape[:2]
    _, inside_HW = cv2.threshold(levels(prediction.mask_HW), 127, 255, cv2.THRESH_BINARY)
    left, top, box_width, box_height = cv2.boundingRect(inside_HW)
    return {
        "index": frame.index,
        "name": frame.name,
        "time_s": _rounded(frame.time_s),
        "width": width,
        "height": height,
        "mask": {
            "area": round(cv2.countNonZero(inside_HW) / inside_HW.size, 6),
            "box": [left, top, left + box_width, top + box_height] if box_width else None,
        },
        "depth": _depth_numbers(prediction, look),
        "timings_ms": {name: _rounded(ms) for name, ms in prediction.timings_ms.items()},
    }


class LinesSink:
    """Appends a line for each frame to a file, or to standard output; each can be read at once.

    The file is no temporary one, so that others can follow it while it grows.
    """

    def __init__(self, target: Path | None, look: Look) -> None:
        self._target, self._look = target, look
        self._file: IO[str] | None = None
        self.is_open = True
        """False once nobody reads the standard output any more."""

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Write a frame's line.

        Raises:
            OutputError: the disk is full.
        """
        self.put(self.draw(frame, prediction))

    def draw(self, frame: Frame, prediction: Prediction) -> dict[str, Any]:
        """The frame's numbers."""
        return frame_numbers(frame, prediction, self._look)

    def put(self, drawn: dict[str, Any]) -> None:
        """Write what `draw` made.

        Raises:
            OutputError: the disk is full.
        """
        if self._file is None:
            raise RuntimeError("write is for inside the with block")
        try:
            self._file.write(json.dumps(drawn, allow_nan=False) + "\n")
            self._file.flush()
        except BrokenPipeError:
            self.is_open = False
            # Python flushes again when it ends, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            raise self._not_written(error) from error

    def __enter__(self) -> Self:
        if self._target is None:
            self._file = sys.stdout
            return self
        try:
            self._file = self._target.open("w", encoding="utf-8")
        except OSError as error:
            raise self._not_written(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._target is not None and self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> OutputError:
        return OutputError(f"{self._target or 'stdout'} cannot be written: {error.strerror}")


def _depth_numbers(prediction: Prediction, look: Look) -> dict[str, Any] | None:
    values = counted_depths(prediction, look.kind)
    if not values.size:
        return None
    quantiles = np.quantile(values, tuple(_QUANTILES.values())).tolist()
    return {
        "unit": look.depth_unit,
        "of": "mask" if look.kind == "foreground" else "frame",
        "min": _rounded(float(values.min())),
        **{name: _rounded(value) for name, value in zip(_QUANTILES, quantiles, strict=True)},
        "max": _rounded(float(values.max())),
        "mean": _rounded(float(values.mean(dtype=np.float64))),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
