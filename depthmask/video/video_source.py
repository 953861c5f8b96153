"""Videos with an end, as a source of frames: files, pipes, test patterns. Every frame, in order."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import av

from depthmask.errors import InputError, SourceLostError
from depthmask.video.frame import Frame, SourceCounts, SourceKind
from depthmask.video.names import file_name_part
from depthmask.video.pictures import PictureReader
from depthmask.video.streams import OpenedStream, StalledError, first_stream, reason

# What a declared duration may exceed the frames found by, before the file counts as cut short.
_DURATION_SLACK_S = 0.5
_LOCAL = {"protocol_whitelist": "file,pipe"}
"""A file may be a list of other addresses: none is called."""


class VideoSource:
    """The frames of one opened video, each once, in the order of their time."""

    kind: SourceKind = "video"
    unreadable: tuple[InputError, ...] = ()

    def __init__(self, opened: OpenedStream, name: str) -> None:
        self.name = name
        self.fps = opened.fps
        self._opened = opened
        self._packets_declared = _declared_packets(opened)
        self._duration_s = _declared_duration_s(opened)
        self.count = self._packets_declared or (
            round(self._duration_s * self.fps) if self._duration_s and self.fps else None
        )

    @property
    def counts(self) -> SourceCounts:
        """Damaged packets and pictures so far."""
        return SourceCounts(decode_errors=self._opened.damage.damaged)

    def __iter__(self) -> Iterator[Frame]:
        """Frames at their own size, upright, as full-range RGB.

        Raises:
            InputError: the file holds no picture that can be decoded.
            SourceLostError: after the last frame: the file is cut short or damaged.
        """
        prefix = file_name_part(self.name)
        reader = PictureReader()
        first_time_s: float | None = None
        index, end_s = 0, 0.0
        lost: av.FFmpegError | StalledError | None = None
        try:
            for picture in self._opened.pictures():
                time_s = picture.time
                if index == 0:
                    first_time_s = time_s
                if time_s is not None and first_time_s is not None:
                    time_s -= first_time_s
                    end_s = time_s + _duration_s(picture)
                name = f"{prefix}_{index:06d}"
                yield Frame(reader.read(picture), name, index, time_s, time.monotonic())
                index += 1
        except (av.FFmpegError, StalledError) as error:
            lost = error
        self._check_end(index, end_s, lost)

    def _check_end(
        self, frames: int, end_s: float, lost: av.FFmpegError | StalledError | None
    ) -> None:
        if frames == 0:
            raise InputError(
                f"{self.name} must be a video, but none of its pictures can be decoded"
            )
        if lost is not None:
            raise SourceLostError(
                f"{self.name} was lost after {frames} frames: {reason(lost)}. The frames before were used"
            )
        damage = self._opened.damage
        short = (self._packets_declared or 0) > damage.packets + damage.damaged or (
            self._duration_s is not None and self._duration_s > end_s + _DURATION_SLACK_S
        )
        if short or damage.damaged:
            of = f" of {self.count}" if self.count and self.count > frames else ""
            state = "is cut short" if short or damage.damaged == 1 else "is damaged"
            raise SourceLostError(
                f"{self.name} {state}: {frames} frames{of} could be read, and were used"
                f" ({damage.damaged} damaged)"
            )

    def close(self) -> None:
        """Give the file back."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_video(path: Path) -> VideoSource:
    """Open a video file.

    Raises:
        InputError: it cannot be read, is neither an image nor a video, or has no pictures.
    """
    try:
        # `file:` keeps a colon in a name from being read as a protocol.
        container = av.open(f"file:{path}", options=_LOCAL, metadata_errors="replace")
    except av.FFmpegError as error:
        raise InputError(_not_a_video(path, error)) from error
    stream = first_stream(container, "video", str(path))
    return VideoSource(OpenedStream(container, stream), str(path))


def open_pipe(path: Path | None) -> VideoSource:
    """Open a named pipe, or standard input for None; it waits for the one that writes into it.

    Raises:
        InputError: what comes out of it is not a video.
    """
    name = "standard input" if path is None else str(path)
    try:
        container = av.open(
            "pipe:0" if path is None else f"file:{path}", options=_LOCAL, metadata_errors="replace"
        )
    except av.FFmpegError as error:
        raise InputError(f"{name} must give a video, but got: {reason(error)}") from error
    return VideoSource(OpenedStream(container, first_stream(container, "video", name)), name)


def _declared_packets(opened: OpenedStream) -> int | None:
    """How many packets an MP4's index promises.

    The header's number would not do: an edit list may leave some of them out.
    """
    if opened.stream.frames and opened.container.format.name.startswith("mov"):
        return len(opened.stream.index_entries)
    return None


def _declared_duration_s(opened: OpenedStream) -> float | None:
    """Where no packets are promised: the seconds that the header promises."""
    container, stream = opened.container, opened.stream
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
    return f"{path} cannot be read: {reason(error)}"
