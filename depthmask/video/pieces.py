"""Photographs and videos as pieces of work, each fit for a worker: some photographs, a shard, or a video."""

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
SHARD_SUFFIX = ".tar"
_WANTED = IMAGE_SUFFIXES | VIDEO_SUFFIXES | {SHARD_SUFFIX}


@dataclass(frozen=True)
class Piece:
    """Files, and what their outputs are called."""

    kind: Literal["photographs", "shard", "video"]
    files: tuple[str, ...]
    """Paths or URLs; one for a video or a shard in WebDataset's layout."""
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
    others = [file for file in files if _suffix(file) not in IMAGE_SUFFIXES]
    names = unique_names([Path(photo) for photo in photos])
    other_names = unique_names([Path(other) for other in others])
    starts = range(0, len(photos), PHOTOS_PER_PIECE)
    parts = [slice(start, start + PHOTOS_PER_PIECE) for start in starts]
    # Videos first: they are the longest, and nobody waits for the last one.
    pieces = [
        Piece("shard" if _suffix(other) == SHARD_SUFFIX else "video", (other,), (name,))
        for other, name in zip(others, other_names, strict=True)
    ]
    return (
        *sorted(pieces, key=lambda piece: piece.kind != "video"),
        *(Piece("photographs", tuple(photos[part]), tuple(names[part])) for part in parts),
    )


def _files(source: str) -> list[str]:
    if is_url(source):
        if _is_wanted(source):
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
        others = [
            str(file)
            for file in sorted(path.iterdir())
            if _is_wanted(file.name) and _suffix(file.name) not in IMAGE_SUFFIXES
        ]
        try:
            return [*map(str, images_of_folder(path)), *others]
        except InputError:
            if not others:
                raise
            return others
    if path.exists():
        return [source]
    if glob.has_magic(source):
        # Path.glob wants the fixed part apart from the pattern.
        matches = sorted(glob.glob(source, recursive=True))  # noqa: PTH207
        return [match for match in matches if _is_wanted(match) and Path(match).is_file()]
    raise InputError(f"a source must be a file, folder, glob or URL, but {source} does not exist")


def _is_wanted(name: str) -> bool:
    return _suffix(name) in _WANTED


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
