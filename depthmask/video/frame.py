"""What a source delivers, and what a source is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np

from depthmask.errors import InputError
from depthmask.frames import UInt8Array

SourceKind = Literal["images", "video", "camera"]
"""`images` have no clock, a `video` ends by itself, a `camera` is live and goes on until it is stopped."""


@dataclass(frozen=True, repr=False)
class Frame:
    """One picture of a source."""

    image_HW3: UInt8Array
    """uint8 RGB."""
    name: str
    """Unique in its source and fit for a file name, without a suffix: `cat`, `clip_000012`."""
    index: int
    """Counts from 0 in its source."""
    time_s: float | None = None
    """Since the source's first frame, by the source's own timestamps; None for photographs."""
    captured_s: float | None = None
    """`time.monotonic()` of its capture, for its age: see `depthmask.video.clock`. None for photographs."""

    def __post_init__(self) -> None:
        image = self.image_HW3
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(
                f"a frame must be (H,W,3) uint8 RGB, but got {image.shape} {image.dtype}"
            )

    def __repr__(self) -> str:
        height, width = self.image_HW3.shape[:2]
        time = "" if self.time_s is None else f", {self.time_s:.3f} s"
        return f"Frame({self.name!r}, {self.index}, {height}x{width}{time})"


@dataclass(frozen=True)
class SourceCounts:
    """What a source has to say about itself so far."""

    dropped: int = 0
    """Frames that came while the one before was not taken yet."""
    decode_errors: int = 0
    """Packets and pictures that were damaged, and left out."""
    losses: int = 0
    """How often a live source was lost."""


class Source(Protocol):
    """An iterator of frames, once; a context manager that gives the file or device back."""

    @property
    def kind(self) -> SourceKind:
        """What it is."""

    @property
    def name(self) -> str:
        """For messages; never holds a password."""

    @property
    def fps(self) -> float | None:
        """Frames per second as declared; None for photographs and where it is not known."""

    @property
    def count(self) -> int | None:
        """How many frames there are by the container's word; None where it does not say."""

    @property
    def unreadable(self) -> tuple[InputError, ...]:
        """Photographs that were left out so far, because they could not be read."""

    @property
    def counts(self) -> SourceCounts:
        """Drops, damage and losses so far."""

    def __iter__(self) -> Iterator[Frame]:
        """Frames in order: every one of photographs and videos, of a camera always the newest. A source
        that ends early raises SourceLostError after its last one.
        """

    def close(self) -> None:
        """Give the file or device back; closing twice is harmless."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
