"""Cameras on loopback, to be killed, frozen and started again: RTSP by gst-rtsp-server, MJPEG by ffmpeg."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from depthmask.bench import clock_server
from depthmask.errors import UnavailableError
from depthmask.frames import UInt8Array

_SCRIPT = Path(clock_server.__file__)
_START_S = 10.0
_LISTEN_OR_ESTABLISHED = ("0A", "01")


class StreamServer:
    """One camera at a fixed address, a group of processes; a context manager."""

    def __init__(self, url: str, port: int, command: list[str]) -> None:
        self.url = url
        self._port, self._command = port, command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens.

        Raises:
            UnavailableError: it does not.
        """
        self._process = subprocess.Popen(self._command, start_new_session=True)
        deadline_s = time.monotonic() + _START_S
        while not _listens(self._port):
            if time.monotonic() > deadline_s or self._process.poll() is not None:
                raise UnavailableError(f"the server of {self.url} must start, but it does not")
            time.sleep(0.02)

    def kill(self) -> None:
        """As a camera that loses its power: the connection breaks."""
        self._signal_all(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """As a camera that hangs: the connection stands, and nothing comes."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """The end of `freeze`."""
        self._signal_all(signal.SIGCONT)

    def toggle_pictures(self) -> None:
        """Stop the pictures, while the server goes on to answer; or let them go on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR1)

    def _signal_all(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()


def rtsp_server() -> StreamServer:
    """rtsp://127.0.0.1:PORT/cam.

    Raises:
        UnavailableError: gst-rtsp-server is not installed.
    """
    python = _python_with_gi()
    if python is None:
        raise UnavailableError(
            "gst-rtsp-server must be installed, but it is not. Try apt-get install python3-gi"
            " gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
            " gstreamer1.0-plugins-ugly"
        )
    port = free_port()
    command = [python, "-I", str(_SCRIPT), "rtsp", str(port)]
    return StreamServer(f"rtsp://127.0.0.1:{port}/cam", port, command)


def mjpeg_server() -> StreamServer:
    """http://127.0.0.1:PORT/cam, for one viewer at a time.

    Raises:
        UnavailableError: ffmpeg is not installed.
    """
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        raise UnavailableError(
            "ffmpeg must be installed, but it is not. Try apt-get install ffmpeg"
        )
    port = free_port()
    url = f"http://127.0.0.1:{port}/cam"
    size = f"{clock_server.WIDTH}x{clock_server.HEIGHT}"
    command = [
        ffmpeg, "-loglevel", "quiet", "-fflags", "nobuffer", "-probesize", "32", "-f", "rawvideo", "-pix_fmt",
        "yuv420p", "-video_size", size, "-framerate", str(clock_server.FPS), "-i", "pipe:0", "-c:v", "mjpeg",
        "-threads", "1", "-q:v", "4", "-flush_packets", "1", "-f", "mpjpeg", "-listen", "1", url,
    ]  # fmt: skip

    return StreamServer(url, port, [sys.executable, "-I", str(_SCRIPT), "through", *command])


def shown_ms(image_HW3: UInt8Array) -> int | None:
    """The time that a picture of the server shows; None where it is damaged."""
    grey_HW = image_HW3.mean(2)
    band = clock_server.BAND_PX
    bars = grey_HW[: 2 * band].reshape(2, band, clock_server.BITS, clock_server.BAR_PX)
    bits = bars[:, band // 4 : 3 * band // 4, :, 4:-4].mean((1, 3)) > 127
    if (bits[0] == bits[1]).any():
        return None
    return int(np.dot(bits[0], 2 ** np.arange(clock_server.BITS - 1, -1, -1, dtype=np.int64)))


def true_age_ms(image_HW3: UInt8Array) -> float | None:
    """How long ago a picture of the server was made; None where it is damaged."""
    made_ms = shown_ms(image_HW3)
    if made_ms is None:
        return None
    return (1000 * time.monotonic() - made_ms) % float(2**clock_server.BITS)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def _listens(port: int) -> bool:
    """Whether a server is at the port, or its one viewer already.

    Asked of the kernel, as to connect would use up a server that serves one viewer.
    """
    wanted = f"0100007F:{port:04X}"
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(
        row.split()[1] == wanted and row.split()[3] in _LISTEN_OR_ESTABLISHED for row in rows
    )


@cache
def _python_with_gi() -> str | None:
    test = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    for python in (sys.executable, shutil.which("python3", path="/usr/bin")):
        if (
            python
            and subprocess.run([python, "-I", "-c", test], capture_output=True).returncode == 0
        ):
            return python
    return None
