"""A real window under Xvfb, looked at from outside and closed by a key. Skipped where Xvfb is missing."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from depthmask.video.screen import window_size

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("Xvfb", "xdotool", "ffmpeg"))),
    reason="Xvfb, xdotool and ffmpeg must be installed (apt-get install xvfb xdotool ffmpeg)",
)
PATTERN = "lavfi:smptebars=size=320x240:rate=20,realtime"
LARGE = "lavfi:smptebars=size=1280x720:rate=20,realtime"
_FAKE = """
import numpy as np
from depthmask.cli import main
from depthmask.pipeline import Pipeline, Prediction
from types import SimpleNamespace as Of

class Fake:
    runtime = Of(name="fake", device="cpu")
    manifest = Of(chain=Of(kind="foreground", depth_unit="m"))
    resolution = 64
    def __call__(self, image):
        mask = np.zeros(image.shape[:2], np.float32)
        mask[:, image.shape[1] // 2 :] = 1
        rows = np.linspace(1, 3, image.shape[0], dtype=np.float32)
        return Prediction(mask, rows[:, None] * np.ones_like(mask))
    def __enter__(self): return self
    def __exit__(self, *_): pass

Pipeline.open = lambda *_, **__: Fake()
main()
"""


@pytest.fixture
def display():
    """The name of a display of its own."""
    read, write = os.pipe()
    options = ["-displayfd", str(write), "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    server = subprocess.Popen(["Xvfb", *options], pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as told:
        number = told.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


@pytest.fixture
def window(display, request):
    """`dmx run` in a window: the process and the environment."""
    source = getattr(request, "param", PATTERN)
    environment = {**os.environ, "DISPLAY": display, "QT_LOGGING_RULES": "*=false"}
    environment.pop("WAYLAND_DISPLAY", None)
    process = subprocess.Popen(
        [sys.executable, "-c", _FAKE, "run", "--source", source],
        env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process, environment
    process.kill()
    process.wait()


def wait_for_window(process, environment):
    for _ in range(100):
        found = subprocess.run(
            ["xdotool", "search", "--name", "depthmask"],
            env=environment,
            capture_output=True,
            text=True,
        )
        if found.stdout.strip():
            return found.stdout.split()[0]
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    pytest.fail("no window came")


def screenshot(display):
    # By the program: PyAV's own x11grab crashed now and then.
    command = [
        "ffmpeg",
        "-loglevel",
        "error",
        "-f",
        "x11grab",
        "-video_size",
        "640x480",
        "-i",
        display,
    ]
    command += ["-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(data, np.uint8).reshape(480, 640, 3).astype(int)


def test_window_shows_the_picture_and_closes_by_q(window):
    process, environment = window
    identity = wait_for_window(process, environment)
    for _ in range(50):
        time.sleep(0.1)
        shown = screenshot(environment["DISPLAY"])
        if np.ptp(shown, axis=2).max() > 60:
            break
    # Grey outside the mask (the left half), coloured inside.
    coloured = np.ptp(shown, axis=2) > 60
    columns = np.flatnonzero(coloured.any(axis=0))
    assert 140 <= np.ptp(columns) <= 165  # half of the pattern's 320
    geometry = subprocess.run(
        ["xdotool", "getwindowgeometry", identity], env=environment, capture_output=True, text=True
    )
    assert "320x240" in geometry.stdout
    subprocess.run(["xdotool", "key", "--window", identity, "q"], env=environment, check=True)
    _, messages = process.communicate(timeout=10)
    assert process.returncode == 0, messages
    assert "age p50/p95/p99" in messages


def test_sigterm_ends_the_window_cleanly(window):
    process, environment = window
    wait_for_window(process, environment)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate(timeout=10)
    assert process.returncode == 130, messages
    assert "frames in" in messages


def geometry(identity, environment):
    command = ["xdotool", "getwindowgeometry", "--shell", identity]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    values = dict(line.split("=") for line in told.stdout.split())
    return int(values["WIDTH"]), int(values["HEIGHT"])


@pytest.mark.parametrize(
    ("window", "size"), [(PATTERN, (320, 240)), (LARGE, (576, 324))], indirect=["window"]
)
def test_window_opens_at_the_frames_size_within_the_screen(window, size):
    process, environment = window
    identity = wait_for_window(process, environment)
    for _ in range(100):
        found = geometry(identity, environment)
        if found == size:
            break
        time.sleep(0.1)
    assert found == size


def press_close(identity, display):
    """What a desktop sends for the close button: WM_DELETE_WINDOW (xdotool 3.2016 cannot)."""
    x11 = ctypes.CDLL(ctypes.util.find_library("X11"))
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    connection = ctypes.c_void_p(x11.XOpenDisplay(display.encode()))
    protocols, delete = (
        x11.XInternAtom(connection, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW")
    )
    client_message, bits = 33, 32
    event = (ctypes.c_long * 24)(client_message, 0, 0, 0, int(identity), protocols, bits, delete)
    assert x11.XSendEvent(connection, ctypes.c_ulong(int(identity)), 0, ctypes.c_long(0), event)
    x11.XCloseDisplay(connection)


def test_closing_the_window_ends_the_run(window):
    process, environment = window
    identity = wait_for_window(process, environment)
    time.sleep(0.5)
    press_close(identity, environment["DISPLAY"])
    _, messages = process.communicate(timeout=10)
    assert process.returncode == 0, messages
    assert "frames in" in messages


def test_size_keeps_the_proportions_of_the_picture():
    assert window_size(640, 480) == (640, 480)
    assert window_size(640, 480, (1920, 1080)) == (640, 480)
    assert window_size(3840, 2160, (1920, 1080)) == (1728, 972)
    assert window_size(1080, 1920, (1920, 1080)) == (547, 972)
