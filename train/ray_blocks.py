"""Shards of a data set made by the workers of a Ray cluster.

Into a local folder the shards come back as bytes and are written here, as the workers may be on other
machines; into a store (s3://, ...) each worker writes its own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from depthmask.errors import InputError, OutputError, UnavailableError
from depthmask.ray_engine import Done, map_on_ray
from depthmask.storage import Storage
from depthmask.train.material import Assets
from depthmask.train.shards import Blocks, shard_name


@dataclass(frozen=True)
class ShardWork:
    """What a worker does: makes the bytes of a shard; with a store, writes them there."""

    blocks: Blocks
    teachers_sha256: str | None
    storage: Storage | None = None

    def open(self, assets: Assets) -> Callable[[int], bytes]:
        """Once in each worker.

        Raises:
            UnavailableError: a teacher's file is another one on that machine.

        """
        teachers = self.blocks.teachers
        if teachers is not None and teachers.digest != self.teachers_sha256:
            raise UnavailableError(
                "a worker must find the teachers' files of this machine, but it has others at their paths."
                " Try a folder that all machines share"
            )
        self.blocks.prepare(assets)
        return partial(self._make, assets)

    def _make(self, assets: Assets, block: int) -> bytes:
        file = io.BytesIO()
        self.blocks.fill(file, assets, block, lambda: None)
        content = file.getvalue()
        if self.storage is None:
            return content
        self.storage.write(shard_name(block), content)
        return b""


def make_on_ray(
    work: ShardWork, assets: Assets, numbers: Iterable[int], workers: int
) -> Iterator[Done[int, bytes]]:
    """Have the shards of these numbers made, and give each as it is there.

    Raises:
        OutputError: one cannot be written.
        UnavailableError: no worker can start, or one lacks something.

    """
    for done in map_on_ray(work, assets, numbers, workers=workers):
        if isinstance(done.error, OutputError):
            raise done.error
        yield done


def check_all_made(failed: list[Done[int, bytes]], shards: int) -> None:
    """End with an error where shards could not be made.

    Raises:
        InputError: there are some.

    """
    if not failed:
        return
    first = min(failed, key=lambda done: done.task)
    raise InputError(
        f"every shard must be made, but {len(failed)} of {shards} were not; the first,"
        f" {shard_name(first.task)}: {first.error}. The others are done, and the same command goes on"
    )
