"""Videos, network streams and cameras as sources of frames, read by PyAV.

Not by `cv2.VideoCapture`: it ends a truncated file without a word, rescales when the size changes in
mid-stream, and has no timeouts that work.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from depthmask.errors import DepthmaskError, InputError, SourceLostError, UnavailableError
from depthmask.frames import UInt8Array
from depthmask.video.frame import Frame, SourceKind

# Opens an RTSP camera in 0.3 s instead of seconds, and keeps no queue of old frames.
LIVE_OPTIONS = {
    "rtsp_transport": "tcp",
    "fflags": "nobuffer",
    "flags": "low_delay",
    "analyzeduration": "200000",
    "probesize": "100000",
}
OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 10.0
# What a declared duration may exceed the frames found by, before the file counts as cut short.
_DURATION_SLACK_S = 0.5
# libavformat shows text files as a teletype's picture, and single images as one-frame videos.
_NOT_VIDEO = re.compile(r"tty|.*_pipe|image2|ilbc|bin|.*_pipe,.*")


class StreamSource:
    """The frames of one opened video stream, each once, in the order of their time."""

    unreadable: tuple[InputError, ...] = ()

    def __init__(
        self, container: InputContainer, stream: VideoStream, kind: SourceKind, name: str
    ) -> None:
        self.kind: SourceKind = kind
        self.name = name
        self._container = container
        self._stream = stream
        self._packets_declared = _declared_packets(container, stream)
        self._duration_s = _declared_duration_s(container, stream)
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else None
        self.count = self._packets_declared or (
            round(self._duration_s * self.fps) if self._duration_s and self.fps else None
        )

    def __iter__(self) -> Iterator[Frame]:
        """Frames at their own size, upright, as full-range RGB.

        Raises:
            InputError: the file holds no picture that can be decoded.
            SourceLostError: after the last frame: the file is cut short or damaged, or the camera or
                connection is gone.
        """
        prefix = _file_name_part(self.name)
        first_time_s: float | None = None
        index, packets, damaged, end_s = 0, 0, 0, 0.0
        lost: Exception | None = None
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    damaged += 1
                    continue
                packets += packet.size > 0
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError:
                    damaged += 1
                    continue
                for picture in decoded:
                    if picture.is_corrupt:
                        damaged += 1
                        continue
                    time_s = picture.time
                    if first_time_s is None:
                        # What precedes the first key frame of a recording is not a loss.
                        first_time_s, damaged = time_s, 0
                    if time_s is not None and first_time_s is not None:
                        time_s -= first_time_s
                        end_s = time_s + _duration_s(picture)
                    yield Frame(_upright_rgb(picture), f"{prefix}_{index:06d}", index, time_s)
                    index += 1
        except av.FFmpegError as error:
            lost = error
        self._check_end(index, packets, damaged, end_s, lost)

    def _check_end(
        self, frames: int, packets: int, damaged: int, end_s: float, lost: Exception | None
    ) -> None:
        if self.kind == "camera":
            reason = _reason(lost) if lost else "it ended"
            raise SourceLostError(f"{self.name} was lost after {frames} frames: {reason}") from lost
        if frames == 0:
            raise InputError(
                f"{self.name} must be a video, but none of its pictures can be decoded"
            )
        if lost is not None:
            raise SourceLostError(
                f"{self.name} was lost after {frames} frames: {_reason(lost)}. The frames before were used"
            ) from lost
        short = (self._packets_declared or 0) > packets + damaged or (
            self._duration_s is not None and self._duration_s > end_s + _DURATION_SLACK_S
        )
        if short or damaged:
            of = f" of {self.count}" if self.count and self.count > frames else ""
            state = "is cut short" if short or damaged == 1 else "is damaged"
            raise SourceLostError(
                f"{self.name} {state}: {frames} frames{of} could be read, and were used"
            )

    def close(self) -> None:
        """Give the file, connection or device back."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_video(path: Path) -> StreamSource:
    """Open a video file.

    Raises:
        InputError: it cannot be read, is neither an image nor a video, or has no pictures.
    """
    try:
        # `file:` keeps a colon in a name from being read as a protocol.
        container = av.open(f"file:{path}")
    except av.FFmpegError as error:
        raise InputError(_not_a_video(path, error)) from error
    return _first_stream(container, "video", str(path))


def open_url(url: str) -> StreamSource:
    """Open an rtsp:// or http(s):// source; one that declares its duration is a video, else it is live.

    Raises:
        InputError: the server says that there is no such thing, or it is not a video.
        SourceLostError: the server does not answer.
    """
    name = _without_password(url)
    # A server that sends nothing would block for ever without the timeouts.
    options = LIVE_OPTIONS if url.lower().startswith("rtsp") else {}
    try:
        container = av.open(url, options=options, timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S))
    except (av.error.HTTPClientError, av.error.InvalidDataError) as error:
        raise InputError(f"{name} must be a video stream, but got: {_reason(error)}") from error
    except av.FFmpegError as error:
        raise SourceLostError(f"{name} cannot be opened: {_reason(error)}") from error
    live = url.lower().startswith("rtsp") or not container.duration
    return _first_stream(container, "camera" if live else "video", name)


def open_camera(device: Path) -> StreamSource:
    """Open a V4L2 camera, such as /dev/video0.

    Raises:
        UnavailableError: there is no such camera, it is in use, or the system has no V4L2.
    """
    name = f"camera {device}"
    if not sys.platform.startswith("linux"):
        raise UnavailableError(f"{name} needs Linux (V4L2), but this is {sys.platform}")
    if not device.exists():
        there = sorted(map(str, device.parent.glob("video*")))
        found = f"there are: {', '.join(there)}" if there else "there is no camera on this machine"
        raise UnavailableError(f"{name} must exist, but it does not; {found}")
    try:
        container = av.open(str(device), format="v4l2", timeout=(OPEN_TIMEOUT_S, READ_TIMEOUT_S))
    except (av.FFmpegError, OSError) as error:
        raise UnavailableError(
            f"{name} cannot be opened: {_reason(error)}. It may be in use, or not be a camera"
        ) from error
    return _first_stream(container, "camera", name)


def _first_stream(container: InputContainer, kind: SourceKind, name: str) -> StreamSource:
    try:
        if kind == "video" and _NOT_VIDEO.fullmatch(container.format.name):
            raise InputError(f"{name} must be an image or a video, but it is neither")
        streams = [
            stream
            for stream in container.streams.video
            if not stream.disposition & av.stream.Disposition.attached_pic
        ]
        if not streams:
            raise InputError(f"{name} must be a video, but there is no picture in it, only sound")
        stream = streams[0]
        if kind == "video":
            stream.thread_type = "AUTO"
        return StreamSource(container, stream, kind, name)
    except DepthmaskError:
        container.close()
        raise


def _declared_packets(container: InputContainer, stream: VideoStream) -> int | None:
    """How many packets an MP4's index promises.

    The header's number would not do: an edit list may leave some of them out.
    """
    if stream.frames and container.format.name.startswith("mov"):
        return len(stream.index_entries)
    return None


def _declared_duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    """Where no packets are promised: the seconds that the header promises."""
    if stream.frames and container.format.name == "avi" and stream.average_rate:
        # A number of periods, not of pictures: an AVI may leave out those that show no change.
        return float(stream.frames / stream.average_rate)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
    if not stream.frames and len(container.streams) == 1 and container.duration:
        return float(container.duration / av.time_base)
    return None


def _duration_s(picture: av.VideoFrame) -> float:
    if not picture.duration or picture.time_base is None:
        return 0.0
    return float(picture.duration * picture.time_base)


def _upright_rgb(picture: av.VideoFrame) -> UInt8Array:
    """RGB with the container's rotation applied, which PyAV gives in degrees counterclockwise."""
    image_HW3 = picture.to_ndarray(format="rgb24")
    quarter_turns = round(picture.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image_HW3, quarter_turns), np.uint8)


def _not_a_video(path: Path, error: av.FFmpegError) -> str:
    size_bytes = 0
    with suppress(OSError):
        size_bytes = path.stat().st_size
    if size_bytes == 0:
        return f"{path} must be an image or a video, but the file is empty"
    if isinstance(error, av.error.InvalidDataError):
        with suppress(OSError), path.open("rb") as file:
            if file.read(12)[4:8] == b"ftyp":
                return f"{path} must be a whole video, but it is cut short: its index is missing"
        return f"{path} must be an image or a video, but it is neither"
    return f"{path} cannot be read: {_reason(error)}"


def _reason(error: Exception) -> str:
    """The error's own words, without the address that PyAV appends."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _without_password(url: str) -> str:
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", url)


def _file_name_part(name: str) -> str:
    """A name for a stream's frames: a file's stem, or an address made harmless."""
    stem = Path(name).stem if "://" not in name else name.split("://", 1)[1]
    return re.sub(r"[^\w.-]+", "_", stem).strip("._") or "frame"
