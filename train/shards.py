"""Writing a data set block by block: each block a tar shard, or as many loose files.

A block is a pure function of the job and its number, so any process may make any block. A shard
appears by a rename, and is looked into before it counts as complete; a loose sample is there when its
image is.
"""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

from depthmask.atomic import write_file
from depthmask.errors import InputError, OutputError
from depthmask.shards import ShardedFiles
from depthmask.train.compose import compose
from depthmask.train.encoding import depth_unit, describe_sample, encode_sample
from depthmask.train.grid import prepare
from depthmask.train.material import Assets
from depthmask.train.parking import PARKED
from depthmask.train.recipe import GridRecipe, Recipe

if TYPE_CHECKING:
    from depthmask.train.teacher import Teachers

Format = Literal["shards", "files"]
Tick = Callable[[], None]
"""Called after each sample."""


@dataclass(frozen=True)
class Blocks:
    """What to make; small when pickled, for it goes to worker processes."""

    recipe: Recipe
    teachers: Teachers | None
    count: int
    shard_size: int
    """Samples per block, of either format."""

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-self.count // self.shard_size)

    def indices(self, block: int) -> range:
        """The samples of a block."""
        first = block * self.shard_size
        return range(first, min(first + self.shard_size, self.count))

    def encode(self, assets: Assets, index: int) -> dict[str, bytes]:
        """The files of a sample by suffix, the image last."""
        sample = compose(self.recipe, assets, index, self.teachers)
        return encode_sample(sample, depth_unit(self.recipe))

    def prepare(self, assets: Assets) -> None:
        """Before the first block, in each process."""
        if isinstance(self.recipe, GridRecipe):
            prepare(self.recipe, assets)

    def fill(self, file: IO[bytes], assets: Assets, block: int, tick: Tick) -> None:
        """Write a shard's bytes."""
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for index in self.indices(block):
                files = self.encode(assets, index)
                files[".json"] = describe_sample(self.recipe, index)
                for suffix, content in sorted(files.items()):
                    # No times, owners or modes of this machine: equal samples, equal bytes.
                    member = tarfile.TarInfo(f"{sample_name(index)}{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                tick()


@dataclass(frozen=True)
class Job(Blocks):
    """And where in a folder."""

    out: Path
    form: Format

    def missing(self, block: int) -> int:
        """How many samples of a block are yet to be made; of a shard that is not whole, all."""
        if self.form == "shards":
            return 0 if self._is_whole(block) else len(self.indices(block))
        return sum(not self._image(index).exists() for index in self.indices(block))

    def make(self, assets: Assets, block: int, tick: Tick) -> None:
        """Write a shard, or what is missing of a block of loose files.

        Raises:
            OutputError: it cannot be written; what is finished is kept.

        """
        with self._writing():
            if self.form == "files":
                self._make_files(assets, block, tick)
            else:
                write_file(self._shard(block), lambda file: self.fill(file, assets, block, tick))

    def write_shard(self, block: int, content: bytes) -> None:
        """Write a shard whose bytes were made elsewhere.

        Raises:
            OutputError: it cannot be written.

        """
        with self._writing():
            write_file(self._shard(block), content)

    def remove_leftovers(self) -> None:
        """Of writes that were killed; no other process may be at work."""
        for folder in self.out.glob(f"{PARKED}*"):
            shutil.rmtree(folder, ignore_errors=True)
        for pattern in (".shard-*", ".[0-9]*"):
            for leftover in self.out.glob(pattern):
                leftover.unlink(missing_ok=True)

    def _make_files(self, assets: Assets, block: int, tick: Tick) -> None:
        for index in self.indices(block):
            if self._image(index).exists():
                continue
            for suffix, content in self.encode(assets, index).items():
                write_file(self.out / f"{sample_name(index)}{suffix}", content)
            tick()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # of `tick`: nobody waits for this worker any more
            raise
        except OSError as error:
            raise OutputError(
                f"{self.out} cannot be written: {error.strerror}. What is finished is kept, and the"
                " same command goes on"
            ) from error

    def _is_whole(self, block: int) -> bool:
        """By its table of contents: it was renamed when it was whole, but disks and copies fail."""
        try:
            ShardedFiles((self._shard(block),), (len(self.indices(block)),)).check()
        except InputError:
            return False
        return True

    def _shard(self, block: int) -> Path:
        return self.out / shard_name(block)

    def _image(self, index: int) -> Path:
        return self.out / f"{sample_name(index)}.jpg"


def sample_name(index: int) -> str:
    """The files of sample `index` begin with this."""
    return f"{index:06d}"


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:06d}.tar"
