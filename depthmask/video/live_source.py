"""A live source: always the newest frame, and it comes back when it was lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import av

from depthmask.errors import DepthmaskError, InputError, SourceLostError
from depthmask.frames import UInt8Array
from depthmask.video.clock import SourceClock, Stamp
from depthmask.video.frame import Frame, SourceCounts, SourceKind
from depthmask.video.handover import CancelledError, Slot, start_stage
from depthmask.video.names import file_name_part
from depthmask.video.pictures import PictureReader
from depthmask.video.streams import OpenedStream, StalledError, reason

OPEN_TIMEOUT_S = 10.0
STALL_S = 4.0
"""A loss is to be noticed within 5 s."""
# How long each attempt to come back may take: mostly short, so that a camera that returns during one is met
# soon by the next; but one that is slow to open gets its time, too.
_REOPEN_TIMEOUTS_S = (2.5, 2.5, OPEN_TIMEOUT_S)
_PAUSES_S = (0.25, 0.5, 1.0)
"""Before the first attempts, the last one before all others."""
_JOIN_S = 1.0


@dataclass(frozen=True)
class SourceEvent:
    """A live source was lost, or is back."""

    lost: bool
    text: str
    """For the user."""


@dataclass(frozen=True)
class LiveOptions:
    """How a live source is treated."""

    stall_s: float = STALL_S
    """Without a picture for so long it counts as lost."""
    max_reconnects: int | None = None
    """Attempts in a row before it is given up; None for no end."""
    on_event: Callable[[SourceEvent], None] = lambda event: None
    """Called from the thread that captures."""


@dataclass(frozen=True)
class Connection:
    """How to open a live source again, and what its timestamps say."""

    open: Callable[[float], OpenedStream]
    """Within so many seconds; raises a DepthmaskError."""
    has_timestamps: bool = True
    """False where the stream's timestamps say nothing: the time of arrival serves."""
    same_clock: bool = False
    """See `SourceClock`."""


@dataclass(frozen=True)
class _Captured:
    picture: av.VideoFrame | UInt8Array
    index: int
    stamp: Stamp


class LiveSource:
    """The frames of a camera or live stream; a thread of its own holds the newest one ready.

    Frames that are not taken in time are dropped and counted. A loss (the connection breaks, no picture
    comes for `stall_s`) leads to new attempts, with pauses that grow to a second, until it is back.
    Without a `connection` to be opened again, the end is the end.
    """

    kind: SourceKind = "camera"
    unreadable: tuple[InputError, ...] = ()
    count: int | None = None

    def __init__(
        self,
        opened: OpenedStream,
        connection: Connection | None,
        name: str,
        options: LiveOptions,
    ) -> None:
        self.name = name
        self.fps = opened.fps
        self._connection, self._options = connection, options
        self._has_timestamps = connection is None or connection.has_timestamps
        self._same_clock = connection is not None and connection.same_clock
        self._opened = opened
        self._reader = PictureReader()
        self._slot: Slot[_Captured] = Slot(newest=True)
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._losses = self._decode_errors = self._frames = self._attempts = 0
        self._lost_s: float | None = None
        self._first_s: float | None = None
        # From now on, so that no queue grows while the user gets ready.
        self._thread = start_stage("capture", self._capture, self._slot)

    @property
    def counts(self) -> SourceCounts:
        """Drops, damage and losses so far."""
        errors = self._decode_errors + self._opened.damage.damaged
        return SourceCounts(self._slot.dropped, errors, self._losses)

    def __iter__(self) -> Iterator[Frame]:
        """The newest frame, each at most once; numbers that are missing were dropped.

        Raises:
            SourceLostError: it was lost, and did not come back within `max_reconnects` attempts.
        """
        prefix = file_name_part(self.name)
        self._wanted.set()
        for captured in self._slot:
            held = captured.picture
            image_HW3 = (
                self._converted(self._reader, held) if isinstance(held, av.VideoFrame) else held
            )
            if image_HW3 is not None:
                stamp = captured.stamp
                name = f"{prefix}_{captured.index:06d}"
                yield Frame(image_HW3, name, captured.index, stamp.time_s, stamp.captured_s)

    def _converted(self, reader: PictureReader, picture: av.VideoFrame) -> UInt8Array | None:
        try:
            return reader.read(picture)
        except (av.FFmpegError, ValueError):
            self._decode_errors += 1
            return None

    def _capture(self) -> None:
        """The thread: capture, and come back after each loss."""
        try:
            while (why := self._capture_until_lost()) and self._connection is not None:
                if self._stopped.is_set():
                    return
                if self._lost_s is None:
                    self._lost_s = time.monotonic()
                    self._losses += 1
                    self._tell(lost=True, text=f"{self.name} was lost: {why}")
                self._decode_errors += self._opened.damage.damaged
                self._opened.damage.damaged = 0
                self._opened.close()  # an RTSP server that hangs is waited for here
                self._reopen(self._connection, why)
        finally:
            self._opened.close()

    def _capture_until_lost(self) -> str:
        """Why the source was lost."""
        try:
            self._hand_over(self._opened)
        except StalledError as stalled:
            return str(stalled)
        except (av.FFmpegError, OSError) as error:
            return reason(error)
        return "it ended"

    def _hand_over(self, opened: OpenedStream) -> None:
        clock: SourceClock | None = None
        # A raw picture lies in the camera's own memory, which is gone when the camera is closed, and reading
        # it then kills the process. Others are converted when they are taken: to drop one costs nothing.
        is_raw, reader = opened.stream.codec_context.name == "rawvideo", PictureReader()
        for picture in opened.pictures():
            arrived_s = time.monotonic()
            if self._stopped.is_set():
                raise CancelledError
            self._came_back(arrived_s)
            if not self._wanted.is_set():
                continue
            if self._first_s is None:
                self._first_s = arrived_s
            if clock is None:
                clock = SourceClock(arrived_s - self._first_s, same_clock=self._same_clock)
            stamp = clock.stamp(picture.time if self._has_timestamps else None, arrived_s)
            held = self._converted(reader, picture) if is_raw else picture
            if held is not None:
                self._slot.put(_Captured(held, self._frames, stamp))
                self._frames += 1

    def _came_back(self, now_s: float) -> None:
        """A picture has come: if the source was lost, it is not any more."""
        if self._lost_s is not None:
            self._tell(lost=False, text=f"{self.name} is back after {now_s - self._lost_s:.1f} s")
        self._lost_s, self._attempts = None, 0

    def _reopen(self, connection: Connection, why: str) -> None:
        """Open again and again, with pauses.

        Raises:
            SourceLostError: `max_reconnects` attempts in a row brought no picture.
            CancelledError: the source was closed.
        """
        while True:
            if self._attempts == self._options.max_reconnects:
                tries = f"; {self._attempts} attempts to get it back failed" * (self._attempts > 0)
                raise SourceLostError(
                    f"{self.name} was lost after {self._frames} frames: {why}{tries}"
                )
            pause_s = _PAUSES_S[min(self._attempts, len(_PAUSES_S) - 1)]
            if self._stopped.wait(pause_s):
                raise CancelledError
            timeout_s = _REOPEN_TIMEOUTS_S[self._attempts % len(_REOPEN_TIMEOUTS_S)]
            self._attempts += 1
            with suppress(DepthmaskError):
                self._opened = connection.open(timeout_s)
                return

    def _tell(self, *, lost: bool, text: str) -> None:
        self._options.on_event(SourceEvent(lost, text))

    def close(self) -> None:
        """Stop, and give the camera or connection back."""
        self._stopped.set()
        self._slot.cancel()
        # The thread closes it. A read that stands still ends by its timeout; nobody need wait for that.
        self._thread.join(_JOIN_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
