"""One opened video stream, read by PyAV: its pictures, and what was damaged or missing.

Not by `cv2.VideoCapture`: it ends a truncated file without a word, rescales when the size changes in
mid-stream, and has no timeouts that work.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from depthmask.errors import InputError
from depthmask.video.frame import SourceKind

# libavformat shows text files as a teletype's picture, and single images as one-frame videos.
_NOT_VIDEO = re.compile(r"tty|.*_pipe|image2|ilbc|bin|.*_pipe,.*")


class StalledError(Exception):
    """The stream is open, but no picture came for too long."""


@dataclass
class Damage:
    """What a stream has had so far."""

    packets: int = 0
    damaged: int = 0


class OpenedStream:
    """A container's video stream.

    Args:
        container: opened; closed by `close`.
        stream: one of its streams.
        stall_s: without a picture for so long the stream counts as stalled; None waits for ever.
        wait: blocks until there is something to read, or raises StalledError; for devices, whose reads
            know no timeout.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        *,
        stall_s: float | None = None,
        wait: Callable[[float], None] | None = None,
    ) -> None:
        self.container, self.stream = container, stream
        self.damage = Damage()
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else None
        self._stall_s = stall_s
        self._wait = wait
        self._closing = threading.Event()
        self._reading = threading.Lock()

    def pictures(self) -> Iterator[av.VideoFrame]:
        """Decoded pictures; damaged ones are left out and counted.

        Raises:
            av.FFmpegError: the stream broke off.
            StalledError: no picture came in time.
        """
        packets = iter(self.container.demux())
        last_s = time.monotonic()
        begun = False
        while (decoded := self._next(packets)) is not None:
            for picture in decoded:
                if not begun:
                    # What precedes the first key frame of a recording is not a loss.
                    begun, self.damage.damaged = True, 0
                yield picture
                last_s = time.monotonic()
            # Sound may go on while the picture stands still, which no read timeout notices.
            if self._stall_s is not None and time.monotonic() - last_s > self._stall_s:
                raise StalledError(f"no picture came for {self._stall_s:g} s")

    def _next(self, packets: Iterator[Packet[Stream]]) -> list[av.VideoFrame] | None:
        """What the next packet holds; None at the end."""
        with self._reading:
            if self._closing.is_set():
                return None
            if self._wait is not None and self._stall_s is not None:
                self._wait(self._stall_s)
            packet = next(packets, None)
            decoded = None if packet is None else self._decoded(packet)
        if self._closing.is_set():
            self.close()
            return None
        return decoded

    def _decoded(self, packet: Packet[Stream]) -> list[av.VideoFrame]:
        if packet.stream.index != self.stream.index:
            return []
        if packet.is_corrupt:
            self.damage.damaged += 1
            return []
        self.damage.packets += packet.size > 0
        try:
            decoded = self.stream.decode(packet)
        except av.error.InvalidDataError:
            self.damage.damaged += 1
            return []
        whole = [picture for picture in decoded if not picture.is_corrupt]
        self.damage.damaged += len(decoded) - len(whole)
        return whole

    def close(self) -> None:
        """Give the file, connection or device back; a read in another thread does it when it returns."""
        self._closing.set()
        # To close it under a reader would crash the process: libavformat's memory is gone at once.
        if self._reading.acquire(blocking=False):
            try:
                self.container.close()
            finally:
                self._reading.release()


def first_stream(container: InputContainer, kind: SourceKind, name: str) -> VideoStream:
    """The stream with the picture.

    Raises:
        InputError: there is none, or the file is not a video; the container is closed then.
    """
    if kind == "video" and _NOT_VIDEO.fullmatch(container.format.name):
        container.close()
        raise InputError(f"{name} must be an image or a video, but it is neither")
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        container.close()
        raise InputError(f"{name} must be a video, but there is no picture in it, only sound")
    if kind == "video":
        # Threads that decode ahead would add their number of frames to a live stream's delay.
        streams[0].thread_type = "AUTO"
    return streams[0]


def reason(error: Exception) -> str:
    """An error's own words, without the address, which PyAV appends and which may hold a password."""
    if isinstance(error, av.error.ExitError):
        return "nothing came in time"
    if isinstance(error, av.FFmpegError | OSError):
        return error.strerror or type(error).__name__
    return str(error) or type(error).__name__
