"""The loop: frames of a source through a pipeline into a sink, each step in a thread of its own.

    capture -> predict -> draw -> write

Between two steps is a slot of one frame. From a live source the newest frame replaces the one in the
slot, so that nothing waits in a queue and the age of what is shown stays bounded. From a file the
faster step waits, and every frame goes through. The last step is the caller's thread, where windows and
Ctrl-C live.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from depthmask.errors import InputError, SourceLostError, UsageError
from depthmask.video.frame import Frame, Source
from depthmask.video.handover import Slot, start_stage
from depthmask.video.sinks import Sink
from depthmask.video.statistics import RunStatistics

if TYPE_CHECKING:
    from depthmask.pipeline import Prediction

_JOIN_S = 2.0
_TICK_S = 0.1


class Predictor(Protocol):
    """What a pipeline does with a frame."""

    def __call__(self, frame_HW3: npt.NDArray[np.uint8], /) -> Prediction:
        """Predict (H,W,3) uint8 RGB."""


@runtime_checkable
class StagedSink(Protocol):
    """A sink whose drawing can go on beside its writing: `write` is `put` of what `draw` made."""

    def draw(self, frame: Frame, prediction: Prediction) -> Any:  # noqa: ANN401  (the sink's own)
        """Draw; called from another thread than `put`, in order."""

    def put(self, drawn: Any) -> None:  # noqa: ANN401
        """Write or show."""


@runtime_checkable
class IdleSink(Protocol):
    """A sink that has something to do while no frame comes, such as a window that hears its keys."""

    def idle(self) -> None:
        """Called some ten times a second."""


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


@dataclass
class _Work:
    """A frame on its way."""

    frame: Frame
    prediction: Prediction
    drawn: Any = None


def run(
    predict: Predictor,
    source: Source,
    sink: Sink,
    *,
    limit: int | None = None,
    on_frame: Callable[[int], None] | None = None,
    max_age_ms: float | None = None,
    stop: threading.Event | None = None,
    statistics: RunStatistics | None = None,
) -> RunSummary:
    """Put up to `limit` frames through; `on_frame` hears how many photographs or frames are behind us.

    A video or camera that is lost or interrupted after its first frame ends the run early but well: the
    sink keeps what it has, and the summary's `ended_by` says why. Photographs are all or nothing. Setting
    `stop` is an interruption between two frames. A live source's frames that are older than `max_age_ms`
    are left out.

    Raises:
        InputError: not one photograph could be read.
        SourceLostError, KeyboardInterrupt: before the first frame, or with photographs.
        UsageError: `max_age_ms` for a source that is not live.
    """
    if max_age_ms is not None and source.kind != "camera":
        raise UsageError(
            "--max-age-ms must go with a live source, as every frame of a file is wanted, but the source is"
            f" {source.name}"
        )
    loop = _Loop(predict, source, sink, max_age_ms, statistics or RunStatistics())
    ended_by: SourceLostError | KeyboardInterrupt | None = None
    started = time.perf_counter()
    try:
        loop.go_on(limit, on_frame, stop or threading.Event())
    except (SourceLostError, KeyboardInterrupt) as error:
        if loop.statistics.frames == 0 or source.kind == "images":
            raise
        ended_by = error
    finally:
        loop.close()
    if loop.statistics.frames == 0:
        raise _nothing_read(source)
    return RunSummary(
        frames=loop.statistics.frames,
        seconds=time.perf_counter() - started,
        inference_ms=loop.statistics.inference.quantile_ms(0.5),
        unreadable=source.unreadable,
        ended_by=ended_by,
    )


class _Loop:
    """The threads and slots of a run."""

    def __init__(
        self,
        predict: Predictor,
        source: Source,
        sink: Sink,
        max_age_ms: float | None,
        statistics: RunStatistics,
    ) -> None:
        self.statistics = statistics
        self._predict, self._source, self._sink = predict, source, sink
        self._max_age_ms = max_age_ms
        live = source.kind == "camera"
        # A live source has a thread and a slot of its own.
        self._captured: Slot[Frame] | None = None if live else Slot(newest=False)
        self._predicted: Slot[_Work] = Slot(newest=live)
        self._drawn: Slot[_Work] = Slot(newest=live)
        self._threads = [
            start_stage("predict", self._predict_all, self._predicted),
            start_stage("draw", self._draw_all, self._drawn),
        ]
        if self._captured is not None:
            captured = self._captured
            read = start_stage("read", lambda: self._read_all(captured), captured)
            self._threads.append(read)

    def go_on(
        self, limit: int | None, on_frame: Callable[[int], None] | None, stop: threading.Event
    ) -> None:
        """The last step: write, until the end.

        Raises:
            KeyboardInterrupt: `stop` was set.
            DepthmaskError: from the source, the pipeline or the sink.
        """
        statistics = self.statistics
        while (work := self._next(stop)) is not None:
            if self._is_late(work.frame, "write"):
                continue
            with statistics.timed("write"):
                self._write(work)
            statistics.shown(work.frame.captured_s, work.prediction.timings_ms.get("inference"))
            self._note_drops()
            if on_frame is not None:
                # Photographs that could not be read are behind us, too; dropped frames are nobody's aim.
                is_image = self._source.kind == "images"
                on_frame(work.frame.index + 1 if is_image else statistics.frames)
            if statistics.frames == limit or not self._sink.is_open:
                return

    def close(self) -> None:
        """End the threads. One that is in a read which does not return is left to end with the process."""
        for slot in (self._captured, self._predicted, self._drawn):
            if slot is not None:
                slot.cancel()
        if self._source.kind == "camera":
            self._source.close()
        for thread in self._threads:
            thread.join(_JOIN_S)
        self._note_drops()

    def _next(self, stop: threading.Event) -> _Work | None:
        while not stop.is_set() and self._sink.is_open:
            try:
                return self._drawn.take(_TICK_S)
            except TimeoutError:
                self._note_drops()
                if isinstance(self._sink, IdleSink):
                    self._sink.idle()
        if stop.is_set():
            raise KeyboardInterrupt
        return None

    def _read_all(self, captured: Slot[Frame]) -> None:
        for frame in self._source:
            captured.put(frame)

    def _predict_all(self) -> None:
        frames: Iterable[Frame] = self._source if self._captured is None else self._captured
        for frame in frames:
            if self._is_late(frame, "predict"):
                continue
            with self.statistics.timed("predict"):
                prediction = self._predict(frame.image_HW3)
            self._predicted.put(_Work(frame, prediction))

    def _draw_all(self) -> None:
        sink = self._sink
        for work in self._predicted:
            if isinstance(sink, StagedSink):
                with self.statistics.timed("draw"):
                    work.drawn = sink.draw(work.frame, work.prediction)
            self._drawn.put(work)

    def _write(self, work: _Work) -> None:
        if isinstance(self._sink, StagedSink):
            self._sink.put(work.drawn)
        else:
            self._sink.write(work.frame, work.prediction)

    def _is_late(self, frame: Frame, step: str) -> bool:
        if self._max_age_ms is None or frame.captured_s is None:
            return False
        late = 1000 * (time.monotonic() - frame.captured_s) > self._max_age_ms
        self.statistics.late[step] += late
        return late

    def _note_drops(self) -> None:
        self.statistics.handed_over_dropped = self._predicted.dropped + self._drawn.dropped
        self.statistics.source = self._source.counts


def _nothing_read(source: Source) -> InputError:
    if source.kind != "images":
        return InputError(f"{source.name} must give a frame, but it ended before the first")
    if len(source.unreadable) == 1:
        return source.unreadable[0]
    first = f"; the first: {source.unreadable[0]}" if source.unreadable else ""
    return InputError(f"none of the {source.count} images of {source.name} could be read{first}")
