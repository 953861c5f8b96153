from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from depthmask.errors import CheckFailedError, SourceLostError, UsageError
from depthmask.pipeline import Prediction
from depthmask.video.frame import Frame, SourceCounts
from depthmask.video.runner import run
from depthmask.video.statistics import RunStatistics

ONES = np.ones((4, 4), np.float32)
IMAGE = np.zeros((4, 4, 3), np.uint8)


class Source:
    """Frames every `every_s`; of kind camera they are dropped by nobody here."""

    name, fps, unreadable, counts = "test", 25.0, (), SourceCounts()

    def __init__(self, kind, count=20, every_s=0.0, error=None):
        self.kind, self.count, self.every_s, self.error = kind, count, every_s, error
        self.closed = False

    def __iter__(self):
        for index in range(self.count):
            time.sleep(self.every_s)
            yield Frame(IMAGE, f"f{index}", index, index / 25, time.monotonic())
        if self.error is not None:
            raise self.error

    def close(self):
        self.closed = True


class Sink:
    """Notes what comes; closes itself after `closes_after` frames."""

    def __init__(self, write_s=0.0, closes_after=None):
        self.write_s, self.closes_after, self.indices = write_s, closes_after, []

    @property
    def is_open(self):
        return len(self.indices) != self.closes_after

    def write(self, frame, prediction):
        time.sleep(self.write_s)
        self.indices.append(frame.index)


class StagedSink(Sink):
    """Draws in another thread than it writes."""

    def __init__(self):
        super().__init__()
        self.threads = set()

    def draw(self, frame, prediction):
        self.threads.add(threading.current_thread().name)
        return frame.index

    def put(self, drawn):
        self.threads.add(threading.current_thread().name)
        self.indices.append(drawn)


def predict(image_HW3):
    return Prediction(ONES, ONES, {"inference": 2.0})


def slow(image_HW3):
    time.sleep(0.03)
    return predict(image_HW3)


def failing(image_HW3):
    raise CheckFailedError("not finite")


@pytest.mark.parametrize("sink", [Sink(0.002), StagedSink()])
def test_every_frame_of_a_file_comes_out_in_order(sink):
    summary = run(predict, Source("video", 50), sink)
    assert sink.indices == list(range(50))
    assert summary.frames == 50
    assert summary.inference_ms == 2.0
    assert summary.ended_by is None


def test_drawing_and_writing_are_in_two_threads():
    sink = StagedSink()
    run(predict, Source("video"), sink)
    assert sink.threads == {"depthmask-draw", threading.current_thread().name}


def test_steps_overlap():
    """The second frame is predicted while the first one is being written."""
    calls, second = [], threading.Event()

    def count(image_HW3):
        calls.append(image_HW3)
        if len(calls) == 2:
            second.set()
        return predict(image_HW3)

    class WaitingSink(Sink):
        def write(self, frame, prediction):
            assert second.wait(10)
            super().write(frame, prediction)

    assert run(count, Source("video"), WaitingSink()).frames == 20


def test_a_live_sink_that_is_slow_gets_the_newest():
    statistics = RunStatistics()
    sink = Sink(0.05)
    run(predict, Source("camera", 50, every_s=0.005), sink, statistics=statistics)
    assert sink.indices == sorted(sink.indices)
    assert len(sink.indices) < 20
    assert sink.indices[-1] == 49
    assert statistics.drops.handed_over == 50 - len(sink.indices)
    assert statistics.age.count == len(sink.indices)


def test_late_frames_are_left_out():
    statistics = RunStatistics()
    sink = Sink()
    with pytest.raises(Exception, match="ended before the first"):
        run(slow, Source("camera", 5), sink, max_age_ms=1, statistics=statistics)
    assert sink.indices == []
    assert statistics.drops.late > 0
    with pytest.raises(UsageError, match="live source"):
        run(slow, Source("video"), sink, max_age_ms=100)


def test_limit_and_a_closed_window_end_the_run():
    sink = Sink()
    assert run(predict, Source("video"), sink, limit=3).frames == 3
    assert sink.indices == [0, 1, 2]
    source = Source("camera", 10_000, every_s=0.001)
    assert run(predict, source, Sink(closes_after=4)).frames == 4
    assert source.closed


def test_stopping_is_an_interruption_between_frames():
    stop = threading.Event()
    sink = Sink()
    summary = run(
        predict,
        Source("video", 1000, every_s=0.001),
        sink,
        stop=stop,
        on_frame=lambda done: done == 5 and stop.set(),
    )
    assert isinstance(summary.ended_by, KeyboardInterrupt)
    assert sink.indices == [0, 1, 2, 3, 4]
    with pytest.raises(KeyboardInterrupt):
        run(predict, Source("images"), Sink(), stop=stop)


def test_a_source_that_was_lost_keeps_what_came_before():
    sink = Sink()
    summary = run(predict, Source("video", 7, error=SourceLostError("gone")), sink)
    assert sink.indices == list(range(7))
    assert str(summary.ended_by) == "gone"
    with pytest.raises(SourceLostError, match="at once"):
        run(predict, Source("video", 0, error=SourceLostError("at once")), Sink())


def test_errors_of_a_step_reach_the_caller():
    with pytest.raises(CheckFailedError, match="not finite"):
        run(failing, Source("video"), Sink())

    class Full(Sink):
        def write(self, frame, prediction):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run(predict, Source("video"), Full())
    leftovers = [one.name for one in threading.enumerate() if one.name.startswith("depthmask-")]
    assert leftovers == []
