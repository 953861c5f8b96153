"""Photographs and videos as pieces of work, each fit for a worker: some photographs, or one video."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from depthmask.errors import InputError
from depthmask.frames import IMAGE_SUFFIXES
from depthmask.storage import Storage, is_url
from depthmask.video.images import images_of_folder, unique_names

PHOTOS_PER_PIECE = 16
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm"})


@dataclass(frozen=True)
class Piece:
    """Files, and what their outputs are called."""

    kind: Literal["photographs", "video"]
    files: tuple[str, ...]
    """Paths or URLs; one for a video."""
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return f"{self.files[0]}{more}"


def plan(sources: Sequence[str]) -> tuple[Piece, ...]:
    """The pieces of files, folders, globs and stores' folders, in a fixed order.

    Args:
        sources: As a user writes them. A folder stands for the images and videos in it.

    Raises:
        InputError: one is not there, or has no image and no video.

    """
    files = list(dict.fromkeys(file for source in sources for file in _files(source)))
    photos = [file for file in files if _suffix(file) in IMAGE_SUFFIXES]
    videos = [file for file in files if _suffix(file) not in IMAGE_SUFFIXES]
    names = unique_names([Path(photo) for photo in photos])
    video_names = unique_names([Path(video) for video in videos])
    starts = range(0, len(photos), PHOTOS_PER_PIECE)
    parts = [slice(start, start + PHOTOS_PER_PIECE) for start in starts]
    # Videos first: they are the longest, and nobody waits for the last one.
    return (
        *(
            Piece("video", (video,), (name,))
            for video, name in zip(videos, video_names, strict=True)
        ),
        *(Piece("photographs", tuple(photos[part]), tuple(names[part])) for part in parts),
    )


def _files(source: str) -> list[str]:
    if is_url(source):
        if _suffix(source) in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            return [source]
        names = sorted(Storage(source).names())
        found = [f"{source.rstrip('/')}/{name}" for name in names if _is_wanted(name)]
    else:
        found = _local_files(source)
    if not found:
        raise InputError(f"{source} must hold images or videos, but there are none in it")
    return found


def _local_files(source: str) -> list[str]:
    path = Path(source)
    if path.is_dir():
        videos = [
            str(file) for file in sorted(path.iterdir()) if _suffix(file.name) in VIDEO_SUFFIXES
        ]
        try:
            return [*map(str, images_of_folder(path)), *videos]
        except InputError:
            if not videos:
                raise
            return videos
    if path.exists():
        return [source]
    if glob.has_magic(source):
        # Path.glob wants the fixed part apart from the pattern.
        matches = sorted(glob.glob(source, recursive=True))  # noqa: PTH207
        return [match for match in matches if _is_wanted(match) and Path(match).is_file()]
    raise InputError(f"a source must be a file, folder, glob or URL, but {source} does not exist")


def _is_wanted(name: str) -> bool:
    return _suffix(name) in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
