"""A camera on loopback whose pictures show the time: what age a frame really has can be read off it.

    python3 -I clock_server.py rtsp PORT            # H.264 over RTSP, by gst-rtsp-server: rtsp://127.0.0.1:PORT/cam
    python3 -I clock_server.py through ffmpeg ...   # yuv420p frames into an encoder's standard input

Run as a file, by a Python that has Debian's `python3-gi`; so it imports nothing of ours. SIGUSR1 makes
the pictures stand still while the connection lives, and again makes them go on.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

WIDTH, HEIGHT, FPS = 640, 480, 25
BITS = 32
BAR_PX = WIDTH // BITS
BAND_PX = 64
"""The time in bars of bits, the highest first; below it the same inverted, to tell a damaged picture."""
_WHITE, _BLACK, _GREY = b"\xeb", b"\x10", b"\x80"
_PIPELINE = (
    f"( appsrc name=source is-live=true format=time do-timestamp=true block=false"
    f" caps=video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={FPS}/1"
    f" ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=2000 key-int-max={FPS}"
    f" ! rtph264pay name=pay0 config-interval=1 )"
)


def clock_picture(milliseconds: int) -> bytes:
    """A yuv420p picture that shows a time."""
    bits = [milliseconds >> (BITS - 1 - place) & 1 for place in range(BITS)]
    band = b"".join((_WHITE if bit else _BLACK) * BAR_PX for bit in bits)
    inverted = b"".join((_BLACK if bit else _WHITE) * BAR_PX for bit in bits)
    # Something that moves, so that the encoder has work.
    place = milliseconds // 10 % WIDTH
    rest = (bytes(range(16, 236)) * 4)[place : place + WIDTH].ljust(WIDTH, _GREY)
    luma = band * BAND_PX + inverted * BAND_PX + rest * (HEIGHT - 2 * BAND_PX)
    return luma + _GREY * (WIDTH * HEIGHT // 2)


class Ticker:
    """Calls with a fresh picture 25 times a second, in a thread."""

    def __init__(self) -> None:
        self._running = threading.Event()
        self._running.set()
        signal.signal(signal.SIGUSR1, self._toggle)

    def _toggle(self, number: int, frame: object) -> None:
        if self._running.is_set():
            self._running.clear()
        else:
            self._running.set()

    def run(self, give: Callable[[bytes], object]) -> None:
        """Until `give` raises."""
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + 1 / FPS, time.monotonic() - 1 / FPS)
            time.sleep(max(0.0, due_s - time.monotonic()))
            self._running.wait()
            give(clock_picture(int(1000 * time.monotonic()) & 2**BITS - 1))


def _serve_rtsp(port: int) -> None:
    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    # Whether each has taken a picture: at first it may not be ready, after that a refusal is its end.
    sources: dict[Any, bool] = {}

    def give(picture: bytes) -> None:
        for source, began in list(sources.items()):
            result = source.emit("push-buffer", Gst.Buffer.new_wrapped(picture))
            if result == Gst.FlowReturn.OK:
                sources[source] = True
            elif began:
                del sources[source]

    def configured(factory: object, media: Any) -> None:  # noqa: ANN401
        sources[media.get_element().get_by_name_recurse_up("source")] = False

    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(_PIPELINE)
    factory.set_shared(True)
    factory.connect("media-configure", configured)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(port))
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    ticker = Ticker()
    threading.Thread(target=ticker.run, args=(give,), daemon=True).start()
    GLib.MainLoop().run()


def _serve_through(encoder: list[str]) -> None:
    """Write pictures into an encoder that serves one viewer, and start it again when that one has left."""
    ticker = Ticker()
    while True:
        process = subprocess.Popen(encoder, stdin=subprocess.PIPE)
        pipe = process.stdin
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            ticker.run(pipe.write)
        process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "rtsp":
        _serve_rtsp(int(sys.argv[2]))
    else:
        _serve_through(sys.argv[2:])
