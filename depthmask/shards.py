"""Shards: tar files of samples in WebDataset's layout, read in place and in any order.

A sample's members share the name up to the first dot: `000000.jpg`, `000000.mask.png`,
`000000.depth.png`, `000000.json`. Nothing is unpacked; a shard's table of contents is read when its
first sample is asked for.
"""

from __future__ import annotations

import os
import tarfile
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt

from depthmask.errors import InputError
from depthmask.frames import IMAGE_SUFFIXES

_LABELS = {"mask.png": 1, "depth.png": 2}
_ROLES = 3  # image, mask, depth
_END = bytes(2 * tarfile.BLOCKSIZE)


@dataclass(frozen=True)
class Member:
    """A file's bytes, and what to call it in messages."""

    place: str
    content: bytes


@dataclass(frozen=True)
class StoredSample:
    """A sample as it is stored."""

    name: str
    image: Member
    mask: Member | None
    depth: Member | None


@dataclass(frozen=True)
class _Contents:
    """A shard's samples: names, and (first byte, size) of each role; a size of -1 is missing."""

    names: tuple[str, ...]
    ranges_N32: npt.NDArray[np.int64]


class ShardedFiles:
    """The samples of several shards, in the order of the shards' names and of their members."""

    def __init__(self, shards: tuple[Path, ...], counts: tuple[int, ...] | None = None) -> None:
        """With `counts` (samples per shard) the shards are not looked into before they are read."""
        self._shards = shards
        self._contents: dict[int, _Contents] = {}
        self._counts = counts
        if counts is None:
            self._counts = tuple(len(self._look(k).names) for k in range(len(shards)))
        self._ends = list(accumulate(self._counts or ()))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def labelled(self) -> bool:
        """Whether any sample of the first shard has a mask or a depth."""
        return len(self) > 0 and bool((self._look(0).ranges_N32[:, 1:, 1] >= 0).any())

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards."""
        return self._shards

    def check(self) -> None:
        """Look into every shard, and keep nothing of it.

        Raises:
            InputError: one is missing, cut short, damaged or of another length.

        """
        for shard in range(len(self._shards)):
            self._checked(shard)

    def read(self, index: int) -> StoredSample:
        """Sample `index`, 0 to len - 1.

        Raises:
            InputError: its shard is missing, cut short or damaged.

        """
        shard = bisect_right(self._ends, index)
        contents = self._look(shard)
        place = index - (self._ends[shard - 1] if shard else 0)
        name = contents.names[place]
        image, mask, depth = (
            self._read(shard, name, *contents.ranges_N32[place, role].tolist())
            for role in range(_ROLES)
        )
        if image is None:
            raise _damaged(self._shards[shard], f"{name} has no image")
        return StoredSample(name, image, mask, depth)

    def _read(self, shard: int, name: str, first: int, size: int) -> Member | None:
        if size < 0:
            return None
        path = self._shards[shard]
        try:
            with path.open("rb") as file:
                content = os.pread(file.fileno(), size, first)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        if len(content) < size:
            raise _damaged(path, "it is cut short")
        return Member(f"{name} in {path}", content)

    def _look(self, shard: int) -> _Contents:
        if shard not in self._contents:
            self._contents[shard] = self._checked(shard)
        return self._contents[shard]

    def _checked(self, shard: int) -> _Contents:
        contents = _table_of_contents(self._shards[shard])
        found = len(contents.names)
        wanted = self._counts[shard] if self._counts else found
        if found != wanted:
            raise _damaged(self._shards[shard], f"it has {found} of {wanted} samples")
        return contents


def _table_of_contents(path: Path) -> _Contents:
    ranges: dict[str, npt.NDArray[np.int64]] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                name, _, suffix = member.name.partition(".")
                role = 0 if f".{suffix.lower()}" in IMAGE_SUFFIXES else _LABELS.get(suffix)
                if role is None or not member.isfile():
                    continue
                rows = ranges.setdefault(name, np.full((_ROLES, 2), -1, np.int64))
                rows[role] = member.offset_data, member.size
        # A tar file cut between two members reads as a shorter one, but lacks the end marker.
        with path.open("rb") as file:
            whole = os.pread(file.fileno(), len(_END), end) == _END
    except FileNotFoundError:
        raise InputError(f"{path} must be a shard, but there is no such file") from None
    except (tarfile.TarError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if not whole:
        raise _damaged(path, "it is cut short")
    return _Contents(tuple(ranges), np.array(list(ranges.values())).reshape(-1, _ROLES, 2))


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(
        f"{path} must be a whole shard, but {reason}. Run its `dmx data compose` again, which"
        " makes it anew"
    )
