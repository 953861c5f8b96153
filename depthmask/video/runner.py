"""The loop: frames of a source through a pipeline into a sink."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from depthmask.errors import InputError, SourceLostError
from depthmask.video.frame import Source
from depthmask.video.sinks import Sink

if TYPE_CHECKING:
    from depthmask.pipeline import Prediction


class Predictor(Protocol):
    """What a pipeline does with a frame."""

    def __call__(self, frame_HW3: npt.NDArray[np.uint8], /) -> Prediction:
        """Predict (H,W,3) uint8 RGB."""


@dataclass(frozen=True)
class RunSummary:
    """What a run did."""

    frames: int
    seconds: float
    """From the first frame's reading to the last one's writing."""
    inference_ms: float | None
    """The median of the frames'."""
    unreadable: tuple[InputError, ...] = ()
    """Photographs that were left out."""
    ended_by: SourceLostError | KeyboardInterrupt | None = field(default=None, compare=False)
    """Why a video or camera stopped before its end, or None."""

    @property
    def frames_per_s(self) -> float:
        """Reading, inference, drawing and writing together."""
        return self.frames / self.seconds if self.seconds > 0 else 0.0


def run(
    predict: Predictor,
    source: Source,
    sink: Sink,
    *,
    limit: int | None = None,
    on_frame: Callable[[int], None] | None = None,
) -> RunSummary:
    """Put up to `limit` frames through; `on_frame` hears how many photographs or frames are behind us.

    A video or camera that is lost or interrupted after its first frame ends the run early but well: the
    sink keeps what it has, and the summary's `ended_by` says why. Photographs are all or nothing.

    Raises:
        InputError: not one photograph could be read.
        SourceLostError, KeyboardInterrupt: before the first frame, or with photographs.
    """
    inference_ms: list[float] = []
    ended_by: SourceLostError | KeyboardInterrupt | None = None
    frames = 0
    started = time.perf_counter()
    try:
        for frame in source:
            prediction = predict(frame.image_HW3)
            sink.write(frame, prediction)
            frames += 1
            if "inference" in prediction.timings_ms:
                inference_ms.append(prediction.timings_ms["inference"])
            if on_frame is not None:
                on_frame(frame.index + 1)
            if frames == limit or not sink.is_open:
                break
    except (SourceLostError, KeyboardInterrupt) as error:
        if frames == 0 or source.kind == "images":
            raise
        ended_by = error
    if frames == 0:
        raise _nothing_read(source)
    return RunSummary(
        frames=frames,
        seconds=time.perf_counter() - started,
        inference_ms=statistics.median(inference_ms) if inference_ms else None,
        unreadable=source.unreadable,
        ended_by=ended_by,
    )


def _nothing_read(source: Source) -> InputError:
    if len(source.unreadable) == 1:
        return source.unreadable[0]
    first = f"; the first: {source.unreadable[0]}" if source.unreadable else ""
    return InputError(f"none of the {source.count} images of {source.name} could be read{first}")
