"""Against a real V4L2 camera: `make test-camera` with DEPTHMASK_CAMERA=/dev/video0. Skipped without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from depthmask.commands.run_command import command
from depthmask.errors import SourceLostError, UnavailableError
from depthmask.video.cameras import CameraRequest
from depthmask.video.live_source import LiveOptions
from depthmask.video.sources import open_source
from depthmask.video.v4l2 import describe_camera

CAMERA = os.environ.get("DEPTHMASK_CAMERA", "")
STALL_S = 2.0
pytestmark = [
    pytest.mark.camera,
    pytest.mark.skipif(not CAMERA, reason="no camera: DEPTHMASK_CAMERA is not set"),
]


@pytest.fixture(scope="module")
def camera():
    return describe_camera(Path(CAMERA))


@pytest.fixture
def smallest(camera):
    """The mode with the fewest pixels, at a rate that the machine surely keeps up with."""
    mode = min(camera.modes, key=lambda mode: mode.width * mode.height)
    rates_hz = [rate for rate in mode.rates_hz if rate <= 15] or [None]
    return CameraRequest(mode.format, mode.width, mode.height, max(rates_hz))


@pytest.fixture
def vivid(camera):
    """Sets a control of the kernel's test driver."""
    if camera.name != "vivid" or shutil.which("v4l2-ctl") is None:
        pytest.skip("only vivid can be unplugged and stalled by v4l2-ctl")

    def control(name, value):
        subprocess.run(["v4l2-ctl", "-d", CAMERA, "-c", f"{name}={value}"], check=True)

    yield control
    control("percentage_of_dropped_buffers", 0)


def wait_for(condition, seconds):
    deadline_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert condition()


def test_it_is_listed(camera):
    assert camera.problem is None
    assert camera.modes
    listed = CliRunner().invoke(command, ["--list-cameras"])
    assert listed.exit_code == 0
    assert f"{CAMERA}: {camera.name}" in listed.output
    assert str(camera.modes[0]) in listed.output


def test_frames_come_as_asked_for_and_young(smallest):
    with open_source(CAMERA, camera=smallest) as source:
        frames, ages_s = [], []
        for frame in source:
            frames.append(frame)
            ages_s.append(time.monotonic() - frame.captured_s)
            if len(frames) == 8:
                break
    assert frames[0].image_HW3.shape == (smallest.height, smallest.width, 3)
    assert frames[0].image_HW3.std() > 5
    times_s = [frame.time_s for frame in frames]
    assert times_s == sorted(set(times_s))
    assert 0 < min(ages_s) < 0.5  # the kernel's own timestamps


@pytest.mark.parametrize(
    "change",
    [{"width": 20_000, "height": 20_000}, {"format": "no-such-format"}, {"rate_hz": 997.0}],
)
def test_what_it_does_not_offer_is_an_error(smallest, change):
    with pytest.raises(UnavailableError, match="It offers"):
        open_source(CAMERA, camera=replace(smallest, **change)).close()


def test_unplugged_it_is_noticed_and_comes_back(smallest, vivid):
    events = []
    with open_source(CAMERA, camera=smallest, live=LiveOptions(on_event=events.append)) as source:
        frames = iter(source)
        next(frames)
        vivid("disconnect", 1)
        wait_for(lambda: events, 5)
        assert events[0].lost
        # vivid comes back when the last one has let go of it.
        frame = next(frame for frame in frames if len(events) == 2)
        assert source.counts.losses == 1
        assert frame.image_HW3.shape[1] == smallest.width


def test_a_camera_that_stalls_is_noticed(smallest, vivid):
    events = []
    options = LiveOptions(STALL_S, on_event=events.append)
    with open_source(CAMERA, camera=smallest, live=options) as source:
        next(iter(source))
        vivid("percentage_of_dropped_buffers", 100)
        wait_for(lambda: events, STALL_S + 3)
    assert f"no picture came for {STALL_S:g} s" in events[0].text


def test_a_broken_stream_without_reconnects_ends(smallest, vivid):
    options = LiveOptions(STALL_S, max_reconnects=0)
    with open_source(CAMERA, camera=smallest, live=options) as source:
        frames = iter(source)
        next(frames)
        vivid("inject_fatal_streaming_error", 1)
        with pytest.raises(SourceLostError, match="was lost after"):
            list(frames)
