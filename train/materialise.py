"""A data set as files: tar shards (or loose files) and dataset.json in a folder.

Sample i is a pure function, so the folder itself is all the state there is: what is whole stays, and
the same call makes the rest, with any number of worker processes. Bytes do not depend on how often
it was stopped or on who made what.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from depthmask.atomic import check_target, new_folder, only_writer
from depthmask.errors import InputError, OutputError, UsageError
from depthmask.ray_engine import Done
from depthmask.samples import DATASET_FILE
from depthmask.train.composed import (
    ComposedInfo,
    check_same,
    decode_info,
    describe,
    encode_info,
    pictures,
)
from depthmask.train.material import Assets
from depthmask.train.parking import parked
from depthmask.train.ray_blocks import ShardWork, check_all_made
from depthmask.train.recipe import Recipe, check_labels, count_of
from depthmask.train.shards import Format, Job, Tick
from depthmask.train.workers import make_blocks

if TYPE_CHECKING:
    from depthmask.train.teacher import Teachers

SHARD_SIZE = 1000
_PROBES = 8
_SPARE_SHARE = 1.1
_OVERHEAD_BYTES = 1024
"""Of each file: a tar header and padding, or a file system's last block."""

Progress = Callable[[int, int], None]
"""Called with the samples done and of how many."""
BlockMaker = Callable[[ShardWork, Assets, Iterable[int], int], Iterator[Done[int, bytes]]]
"""As `ray_blocks.make_on_ray`."""


@dataclass(frozen=True)
class MaterialiseResult:
    """What `materialise` did: `made` samples now, `count` are there in all."""

    out: Path | str
    """A folder, or a store's URL."""
    count: int
    made: int


def materialise(
    recipe: Recipe,
    assets: Assets,
    out: Path,
    count: int | None = None,
    *,
    teachers: Teachers | None = None,
    form: Format = "shards",
    shard_size: int = SHARD_SIZE,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_ray: BlockMaker | None = None,
) -> MaterialiseResult:
    """Write samples 0 to `count` - 1 of a recipe, or go on where an earlier call was stopped.

    Images are (canvas_px, canvas_px) JPEG, masks 8 bit (255 is foreground), depths 16 bit (0 is
    missing) in millimetres or, a teacher's, relative to the image's largest.

    Args:
        recipe: What to make.
        assets: Its material, by `load_material`.
        out: The folder.
        count: Samples; all of a recipe that has an end.
        teachers: Networks that label, where the recipe wants them.
        form: `shards` or loose `files`.
        shard_size: Samples per shard.
        workers: Processes; 1 works in this one.
        overwrite: Replace what `out` holds, if depthmask made it.
        progress: Called now and then.
        on_ray: Makes the shards instead of this machine's processes (`ray_blocks.make_on_ray`).

    Raises:
        UsageError: `out` holds another data set or anything else and `overwrite` is off; `count`,
            `shard_size` or `workers` is out of range; another process is writing there; or a
            teacher is missing.
        InputError: `out` holds a damaged dataset.json, or a label is bad. On Ray, the other shards
            are made before it is raised.
        OutputError: `out` cannot be written, or the disk is too small. What is there is kept.
        UnavailableError: a worker died, or a package is missing.

    """
    count = checked_count(recipe, count)
    if shard_size < 1 or workers < 1:
        raise UsageError(
            f"shard_size and workers must be 1 or more, but got {shard_size} and {workers}"
        )
    check_labels(recipe, teachers)
    if on_ray is not None and form != "shards":
        raise UsageError("--engine ray makes shards, but got --format files. Try --format shards")
    job = Job(recipe, teachers, count, shard_size, out, form)
    info = describe(job, assets, shard_size if form == "shards" else None)
    goes_on = _goes_on(out, info, overwrite=overwrite)
    missing = [
        job.missing(block) if goes_on else len(job.indices(block)) for block in range(job.blocks)
    ]
    to_make = sum(missing)
    _check_space(job, assets, to_make, parks=workers > 1 and on_ray is None)
    if not goes_on:
        _new_data_set(out, info)
    with only_writer(out, out / DATASET_FILE):
        # Not replaced before it was locked.
        check_same(_read_info(out / DATASET_FILE), info, str(out))
        job.remove_leftovers()
        try:
            _make(job, assets, workers, missing, progress or (lambda done, total: None), on_ray)
        finally:
            job.remove_leftovers()
    return MaterialiseResult(out, count, to_make)


def _make(
    job: Job,
    assets: Assets,
    workers: int,
    missing: list[int],
    progress: Progress,
    on_ray: BlockMaker | None,
) -> None:
    """Make the blocks that have `missing` samples."""
    to_make = sum(missing)
    made = itertools.count(job.count - to_make + 1)
    blocks = (block for block, samples in enumerate(missing) if samples)

    def tick() -> None:
        progress(next(made), job.count)

    progress(job.count - to_make, job.count)
    if on_ray is not None:
        _make_elsewhere(job, assets, workers, list(blocks), tick, on_ray)
        return
    workers = min(workers, job.blocks)
    if workers > 1 and to_make:
        with parked(assets, job.out) as pictures:
            make_blocks(job, pictures, blocks, workers, tick)
        return
    cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # at these sizes a second thread only waits
    try:
        job.prepare(assets)
        for block in blocks:
            job.make(assets, block, tick)
    finally:
        cv2.setNumThreads(cv2_threads)


def _make_elsewhere(
    job: Job, assets: Assets, workers: int, blocks: list[int], tick: Tick, on_ray: BlockMaker
) -> None:
    """Write the shards that come back; those that fail are told of when the others are there."""
    if not blocks:
        return
    failed = []
    work = ShardWork(job, job.teachers.digest if job.teachers else None)
    for done in on_ray(work, assets, blocks, min(workers, len(blocks))):
        if done.result is None:
            failed.append(done)
            continue
        job.write_shard(done.task, done.result)
        for _ in job.indices(done.task):
            tick()
    check_all_made(failed, job.blocks)


def checked_count(recipe: Recipe, count: int | None) -> int:
    """How many samples to make.

    Raises:
        UsageError: none, or more than the recipe has.

    """
    largest = count_of(recipe)
    if count is None:
        count = largest
    if count is None or count < 1:
        found = "no number of" if count is None else count
        raise UsageError(f"a data set must have 1 sample or more, but got {found}. Try --limit 100")
    if largest is not None and count > largest:
        raise UsageError(
            f"the recipe must have the {count} samples of --limit, but it has {largest}. Try without"
            " --limit"
        )
    return count


def _goes_on(out: Path, wanted: ComposedInfo, *, overwrite: bool) -> bool:
    """Whether `out` holds the same data set, to go on with; False where it is to be new."""
    if out.is_dir() and not overwrite and (out / DATASET_FILE).exists():
        check_same(_read_info(out / DATASET_FILE), wanted, str(out))
        return True
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise UsageError(
            f"{out} must be a new folder or an unfinished data set, but it has files and no"
            f" {DATASET_FILE}. Try --overwrite or another --out"
        )
    check_target(out, overwrite=out.is_dir())  # an empty one, or --overwrite
    return False


def _new_data_set(out: Path, info: ComposedInfo) -> None:
    replaced = (out / DATASET_FILE).exists()
    # Whoever writes into a data set holds its lock: it is not taken away from under a command.
    with (
        only_writer(out, out / DATASET_FILE) if replaced else nullcontext(),
        new_folder(out, overwrite=out.is_dir()) as temporary,
    ):
        (temporary / DATASET_FILE).write_bytes(encode_info(info))


def _read_info(path: Path) -> ComposedInfo:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return decode_info(content, str(path))


def _check_space(job: Job, assets: Assets, to_make: int, *, parks: bool) -> None:
    """Refuse what will not fit, by the size of a few samples; local workers want the pictures as a file."""
    if not to_make:
        return
    probes = np.unique(np.linspace(0, job.count - 1, _PROBES).astype(int)).tolist()
    files = [job.encode(assets, index) for index in probes]
    sizes = [len(content) + _OVERHEAD_BYTES for sample in files for content in sample.values()]
    needed_bytes = _SPARE_SHARE * to_make * sum(sizes) / len(probes)
    if parks:
        needed_bytes += sum(picture.nbytes for picture in pictures(assets))
    parent = job.out.absolute()
    while not parent.exists():
        parent = parent.parent
    free_bytes = shutil.disk_usage(parent).free
    if needed_bytes > free_bytes:
        raise OutputError(
            f"{job.out} must have room for {to_make} samples, about {_shown(needed_bytes)}, but the"
            f" disk has {_shown(free_bytes)} free. Try a smaller --limit, or --out on another disk"
        )


def _shown(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.2f} MB"
