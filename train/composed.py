"""The dataset.json of a composed data set: what says whether a folder or store holds the same one."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import msgspec
import numpy as np

from depthmask.errors import DepthmaskError, InputError, UsageError
from depthmask.frames import UInt8Array
from depthmask.samples import DatasetInfo
from depthmask.train.encoding import depth_scale, depth_unit
from depthmask.train.material import Assets
from depthmask.train.recipe import Recipe
from depthmask.train.shards import Blocks


class ComposedInfo(DatasetInfo, frozen=True, kw_only=True):
    """Our dataset.json; written first, so that an unfinished data set knows what it is."""

    recipe: Recipe
    assets_sha256: str
    """Of the decoded pictures: resuming with others would mix two data sets."""
    teachers_sha256: str | None = None


def describe(blocks: Blocks, assets: Assets, shard_size: int | None) -> ComposedInfo:
    """The dataset.json of what is to be made; `shard_size` is None for loose files."""
    unit = depth_unit(blocks.recipe)
    return ComposedInfo(
        count=blocks.count,
        depth_scale_m=depth_scale(unit),
        depth_unit=unit,
        shard_size=shard_size,
        recipe=blocks.recipe,
        assets_sha256=assets_digest(assets),
        teachers_sha256=blocks.teachers.digest if blocks.teachers else None,
    )


def encode_info(info: ComposedInfo) -> bytes:
    """The file's content."""
    return msgspec.json.format(msgspec.json.encode(info), indent=2) + b"\n"


def decode_info(content: bytes, place: str) -> ComposedInfo:
    """The other way round.

    Raises:
        InputError: it is damaged or no data set of ours.

    """
    try:
        return msgspec.json.decode(content, type=ComposedInfo)
    except (msgspec.DecodeError, DepthmaskError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{place} must describe a data set of `dmx data compose`, but got: {error}. Try"
            " --overwrite"
        ) from error


def check_same(found: ComposedInfo, wanted: ComposedInfo, place: str) -> None:
    """Refuse to go on with another data set.

    Raises:
        UsageError: they differ.

    """
    differing = [
        name.removesuffix("_sha256")
        for name in wanted.__struct_fields__
        if getattr(found, name) != getattr(wanted, name)
    ]
    if differing:
        raise UsageError(
            f"{place} must be a new folder or hold the same data set, but it holds one of another"
            f" {', '.join(differing)}. Try --overwrite or another --out"
        )


def assets_digest(assets: Assets) -> str:
    """One sha256 over all decoded pictures, in their order."""
    digest = hashlib.sha256()
    for picture in pictures(assets):
        digest.update(repr(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


def pictures(assets: Assets) -> Iterator[UInt8Array]:
    """All of them, in one order."""
    cutouts = (cutout.premultiplied_HW4 for cutout in assets.foregrounds)
    return itertools.chain(cutouts, assets.backgrounds, assets.photos)
