"""Losses and returns, with libavfilter's test picture in the camera's place."""

from __future__ import annotations

import time

import av
import pytest

from depthmask.errors import InputError, SourceLostError
from depthmask.video.live_source import Connection, LiveOptions, LiveSource
from depthmask.video.sources import open_source
from depthmask.video.streams import OpenedStream, first_stream


def opened(frames=5, stall_s=None, wait=None):
    graph = f"testsrc2=size=64x48:rate=50:duration={frames / 50},realtime"
    container = av.open(graph, format="lavfi")
    return OpenedStream(
        container, first_stream(container, "camera", "test"), stall_s=stall_s, wait=wait
    )


class Camera:
    """Fails to open so many times after each loss."""

    def __init__(self, failures=0, frames=5):
        self.failures, self.frames, self.attempts = failures, frames, 0

    def __call__(self, timeout_s):
        self.attempts += 1
        if self.attempts <= self.failures:
            raise SourceLostError("not there")
        return opened(self.frames)


def live(camera, **options):
    return LiveSource(opened(), Connection(camera), "test", LiveOptions(**options))


def test_it_comes_back_and_counts_on():
    events = []
    with live(Camera(failures=1), on_event=events.append) as source:
        frames = []
        for frame in source:
            frames.append(frame)
            if len(frames) == 7:
                break
        assert source.counts.losses == 1
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    times_s = [frame.time_s for frame in frames]
    assert times_s == sorted(set(times_s))
    assert times_s[-1] > 0.7  # the gap of two pauses is in it
    assert [event.lost for event in events[:2]] == [True, False]
    assert "was lost: it ended" in events[0].text
    assert "is back after" in events[1].text


def test_it_is_given_up_after_so_many_attempts():
    camera = Camera(failures=99)
    with (
        live(camera, max_reconnects=2) as source,
        pytest.raises(SourceLostError, match=r"after \d frames: it ended; 2 attempts") as lost,
    ):
        list(source)
    assert camera.attempts == 2
    assert lost.value.exit_code == 5


def test_without_reconnects_the_first_loss_ends_it():
    camera = Camera()
    with (
        live(camera, max_reconnects=0) as source,
        pytest.raises(SourceLostError, match=r"was lost after \d frames: it ended$"),
    ):
        list(source)
    assert camera.attempts == 0


def test_opening_without_a_picture_is_no_return():
    """Else a camera that opens and says nothing would be tried for ever."""
    with (
        live(Camera(frames=0), max_reconnects=2) as source,
        pytest.raises(SourceLostError, match="2 attempts"),
    ):
        list(source)


def test_a_slow_reader_gets_the_newest():
    with open_source("lavfi:testsrc2=size=64x48:rate=50,realtime") as source:
        assert source.kind == "camera"
        indices = []
        for frame in source:
            indices.append(frame.index)
            if len(indices) == 6:
                break
            time.sleep(0.1)
        assert source.counts.dropped == indices[-1] - 5
    assert indices[-1] > 12  # a queue would have given number 5


def test_numbers_and_times_begin_with_the_first_frame_that_is_read():
    with open_source("lavfi:testsrc2=size=64x48:rate=50,realtime") as source:
        time.sleep(0.3)
        frame = next(iter(source))
        assert frame.index < 5  # not 15, for the pictures of these 0.3 s
        assert frame.time_s < 0.1
        assert source.counts.dropped == frame.index


def test_closing_is_quick_and_twice_is_harmless():
    source = live(Camera(failures=10**6))
    time.sleep(0.3)
    began_s = time.monotonic()
    source.close()
    source.close()
    assert time.monotonic() - began_s < 0.9  # it does not wait until the attempts are over


def test_a_pattern_without_a_pace_is_a_video():
    with open_source("lavfi:testsrc2=size=64x48:rate=10:duration=2") as source:
        assert source.kind == "video"
        frames = list(source)
    assert len(frames) == 20
    assert frames[-1].time_s == pytest.approx(1.9)


def test_a_pattern_that_does_not_exist():
    with pytest.raises(InputError, match="must be a test pattern"):
        open_source("lavfi:nonsense=1")
