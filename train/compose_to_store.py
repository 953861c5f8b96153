"""A composed data set in a store (s3://, gs://, ...): every shard is uploaded by the worker that made it.

An upload is whole or not there, so what is listed is finished: the same call makes the rest. Two calls at
the same time make the same bytes twice; there is no lock in a store.
"""

from __future__ import annotations

import itertools
import re

from depthmask.errors import UsageError
from depthmask.samples import DATASET_FILE
from depthmask.storage import Storage
from depthmask.train.composed import check_same, decode_info, describe, encode_info
from depthmask.train.material import Assets
from depthmask.train.materialise import SHARD_SIZE, MaterialiseResult, Progress, checked_count
from depthmask.train.ray_blocks import ShardWork, check_all_made, make_on_ray
from depthmask.train.recipe import Recipe, check_labels
from depthmask.train.shards import Blocks, shard_name
from depthmask.train.teacher import Teachers

_OURS = re.compile(rf"shard-\d+\.tar|{re.escape(DATASET_FILE)}")


def compose_to_store(
    recipe: Recipe,
    assets: Assets,
    storage: Storage,
    count: int | None = None,
    *,
    teachers: Teachers | None = None,
    shard_size: int = SHARD_SIZE,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> MaterialiseResult:
    """Make samples 0 to `count` - 1 of a recipe in a store, on Ray, or go on with them.

    Args:
        recipe: What to make.
        assets: Its material.
        storage: Where to; empty, or with an unfinished data set of the same.
        count: Samples; all of a recipe that has an end.
        teachers: Networks that label, where the recipe wants them.
        shard_size: Samples per shard.
        workers: On the cluster.
        overwrite: Replace a data set that is there.
        progress: Called now and then.

    Raises:
        UsageError: the store holds another data set or anything else and `overwrite` is off, or `count`
            is out of range.
        InputError: it cannot be listed, or shards could not be made; the others are.
        OutputError: it cannot be written.
        UnavailableError: a worker cannot start, or a package is missing.

    """
    count = checked_count(recipe, count)
    check_labels(recipe, teachers)
    blocks = Blocks(recipe, teachers, count, shard_size)
    info = describe(blocks, assets, shard_size)
    there = storage.names()
    if there and DATASET_FILE in there and not overwrite:
        place = f"{storage.url}/{DATASET_FILE}"
        check_same(decode_info(storage.read(DATASET_FILE), place), info, storage.url)
    else:
        _new_data_set(storage, there, overwrite=overwrite)
        storage.write(DATASET_FILE, encode_info(info))
        there = frozenset()
    missing = [number for number in range(blocks.blocks) if shard_name(number) not in there]
    to_make = sum(len(blocks.indices(number)) for number in missing)
    done_before = itertools.count(count - to_make)
    progress(next(done_before), count)
    failed = []
    work = ShardWork(blocks, info.teachers_sha256, storage)
    for done in make_on_ray(work, assets, missing, min(workers, len(missing))):
        if done.error is not None:
            failed.append(done)
            continue
        for _ in blocks.indices(done.task):
            progress(next(done_before), count)
    check_all_made(failed, blocks.blocks)
    return MaterialiseResult(storage.url, count, to_make)


def _new_data_set(storage: Storage, there: frozenset[str], *, overwrite: bool) -> None:
    """Make room: nothing that is not ours is ever removed.

    Raises:
        UsageError: something is in the way.

    """
    foreign = sorted(name for name in there if not _OURS.fullmatch(name))
    if there and (foreign or not overwrite):
        raise UsageError(
            f"{storage.url} must be empty or hold an unfinished data set, but it holds"
            f" {(foreign or sorted(there))[0]!r}. Try --overwrite for a data set, or another --out"
        )
    # dataset.json first: without it the shards are nobody's, and no call would go on with them.
    for name in sorted(there, key=lambda name: (name != DATASET_FILE, name)):
        storage.remove(name)
