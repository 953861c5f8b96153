"""A data set as files: tar shards (or loose files) and dataset.json in a folder.

Sample i is a pure function, so the folder itself is all the state there is: what is whole stays, and
the same call makes the rest, with any number of worker processes. Bytes do not depend on how often
it was stopped or on who made what.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np

from depthmask.atomic import check_target, new_folder, only_writer
from depthmask.errors import DepthmaskError, InputError, OutputError, UsageError
from depthmask.frames import UInt8Array
from depthmask.samples import DATASET_FILE, DatasetInfo
from depthmask.train.encoding import depth_scale, depth_unit
from depthmask.train.material import Assets
from depthmask.train.parking import parked
from depthmask.train.recipe import Recipe, check_labels, count_of
from depthmask.train.shards import Format, Job
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


class ComposedInfo(DatasetInfo, frozen=True, kw_only=True):
    """Our dataset.json; written first, so that an unfinished folder knows what it is."""

    recipe: Recipe
    assets_sha256: str
    """Of the decoded pictures: resuming with others would mix two data sets."""
    teachers_sha256: str | None = None


@dataclass(frozen=True)
class MaterialiseResult:
    """What `materialise` did: `made` samples now, `count` are there in all."""

    out: Path
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

    Raises:
        UsageError: `out` holds another data set or anything else and `overwrite` is off; `count`,
            `shard_size` or `workers` is out of range; another process is writing there; or a
            teacher is missing.
        InputError: `out` holds a damaged dataset.json, or a label is bad.
        OutputError: `out` cannot be written, or the disk is too small. What is there is kept.
        UnavailableError: a worker died, or a package is missing.

    """
    count = _checked_count(recipe, count)
    if shard_size < 1 or workers < 1:
        raise UsageError(
            f"shard_size and workers must be 1 or more, but got {shard_size} and {workers}"
        )
    check_labels(recipe, teachers)
    job = Job(recipe, teachers, out, count, form, shard_size)
    unit = depth_unit(recipe)
    info = ComposedInfo(
        count=count,
        depth_scale_m=depth_scale(unit),
        depth_unit=unit,
        shard_size=shard_size if form == "shards" else None,
        recipe=recipe,
        assets_sha256=assets_digest(assets),
        teachers_sha256=teachers.digest if teachers else None,
    )
    goes_on = _goes_on(out, info, overwrite=overwrite)
    missing = [
        job.missing(block) if goes_on else len(job.indices(block)) for block in range(job.blocks)
    ]
    to_make = sum(missing)
    _check_space(job, assets, to_make, workers)
    if not goes_on:
        _new_data_set(out, info)
    with only_writer(out, out / DATASET_FILE):
        _check_same(_read_info(out / DATASET_FILE), info, out)  # not replaced before it was locked
        job.remove_leftovers()
        try:
            _make(job, assets, workers, missing, progress or (lambda done, total: None))
        finally:
            job.remove_leftovers()
    return MaterialiseResult(out, count, to_make)


def assets_digest(assets: Assets) -> str:
    """One sha256 over all decoded pictures, in their order."""
    digest = hashlib.sha256()
    for picture in _pictures(assets):
        digest.update(repr(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


def _pictures(assets: Assets) -> Iterator[UInt8Array]:
    cutouts = (cutout.premultiplied_HW4 for cutout in assets.foregrounds)
    return itertools.chain(cutouts, assets.backgrounds, assets.photos)


def _make(job: Job, assets: Assets, workers: int, missing: list[int], progress: Progress) -> None:
    """Make the blocks that have `missing` samples."""
    to_make = sum(missing)
    made = itertools.count(job.count - to_make + 1)
    blocks = (block for block, samples in enumerate(missing) if samples)

    def tick() -> None:
        progress(next(made), job.count)

    progress(job.count - to_make, job.count)
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


def _checked_count(recipe: Recipe, count: int | None) -> int:
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
        _check_same(_read_info(out / DATASET_FILE), wanted, out)
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
        document = msgspec.json.format(msgspec.json.encode(info), indent=2)
        (temporary / DATASET_FILE).write_bytes(document + b"\n")


def _read_info(path: Path) -> ComposedInfo:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ComposedInfo)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, DepthmaskError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path} must describe a data set of `dmx data compose`, but got: {error}. Try"
            " --overwrite"
        ) from error


def _check_same(found: ComposedInfo, wanted: ComposedInfo, out: Path) -> None:
    differing = [
        name.removesuffix("_sha256")
        for name in wanted.__struct_fields__
        if getattr(found, name) != getattr(wanted, name)
    ]
    if differing:
        raise UsageError(
            f"{out} must be a new folder or hold the same data set, but it holds one of another"
            f" {', '.join(differing)}. Try --overwrite or another --out"
        )


def _check_space(job: Job, assets: Assets, to_make: int, workers: int) -> None:
    """Refuse what will not fit, by the size of a few samples; workers want the pictures as a file."""
    if not to_make:
        return
    probes = np.unique(np.linspace(0, job.count - 1, _PROBES).astype(int)).tolist()
    files = [job.encode(assets, index) for index in probes]
    sizes = [len(content) + _OVERHEAD_BYTES for sample in files for content in sample.values()]
    needed_bytes = _SPARE_SHARE * to_make * sum(sizes) / len(probes)
    if workers > 1:
        needed_bytes += sum(picture.nbytes for picture in _pictures(assets))
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
