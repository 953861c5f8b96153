"""Where training samples come from: a recipe, made on the fly, or a labelled data set on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from depthmask.errors import InputError, UsageError
from depthmask.frames import FloatArray, UInt8Array
from depthmask.samples import DATASET_FILE, Samples, open_samples
from depthmask.train.augment import degrade
from depthmask.train.compose import compose
from depthmask.train.composed import assets_digest
from depthmask.train.config import TrainingConfig
from depthmask.train.material import Assets
from depthmask.train.paste import cut_object, paste_object
from depthmask.train.recipe import GridRecipe, Recipe
from depthmask.train.schedule import UNSEEN, Pool, split, split_grid

_AUGMENT = 5  # a stream of random numbers
_SMALLEST_CROP = 0.7


@dataclass(frozen=True)
class TrainingSample:
    """One image (H,W,3) with what is known of it, at its own size."""

    image_HW3: UInt8Array
    mask_HW: UInt8Array | None
    depth_HW: FloatArray | None
    """NaN = missing; in metres if `metric`."""
    metric: bool


class Source(Protocol):
    """Samples by index; `number` is the training's count, for random augmentation."""

    def sample(self, index: int, number: int) -> TrainingSample:
        """Make or read one."""


@dataclass(frozen=True)
class RecipeSource:
    """Composites or renders, made on the fly."""

    recipe: Recipe
    assets: Assets

    def sample(self, index: int, number: int) -> TrainingSample:
        """Sample `index` of the recipe; its augmentation is the recipe's own."""
        made = compose(self.recipe, self.assets, index)
        return TrainingSample(made.image_HW3, made.mask_HW, made.depth_m_HW, metric=True)


@dataclass(frozen=True)
class DatasetSource:
    """A data set with masks, depths or both; each draw is cropped, flipped and degraded anew."""

    samples: Samples
    seed: int
    augment: bool = True
    paste_share: float = 0.0
    """Of the samples with a mask: they get an object out of one of `donors`."""
    donors: tuple[int, ...] = ()
    """Samples whose objects may be pasted into others."""

    def sample(self, index: int, number: int) -> TrainingSample:
        """Read sample `index`; the same (index, number) gives the same pixels."""
        sample = self._read(index)
        if not self.augment:
            return sample
        rng = np.random.default_rng([self.seed, number, index, _AUGMENT])
        sample = framed(sample, rng)
        if self.donors and rng.random() < self.paste_share:
            donor = self._read(self.donors[rng.integers(len(self.donors))])
            sample = with_object_of(donor, sample, rng)
        return replace(sample, image_HW3=degrade(sample.image_HW3, rng))

    def _read(self, index: int) -> TrainingSample:
        read = self.samples[index]
        metric = self.samples.depth_unit == "m"
        return TrainingSample(read.image_HW3, read.mask_HW, read.depth_m_HW, metric)


def framed(sample: TrainingSample, rng: np.random.Generator) -> TrainingSample:
    """Crop and flip.

    A crop is seen as if from nearer, so a depth in metres shrinks with it: the focal length stays
    what it was in shares of the frame (Yin et al., "Metric3D", ICCV 2023).
    """
    height, width = sample.image_HW3.shape[:2]
    share = rng.uniform(_SMALLEST_CROP, 1.0)
    crop_height, crop_width = max(1, round(share * height)), max(1, round(share * width))
    top = int(rng.integers(height - crop_height + 1))
    left = int(rng.integers(width - crop_width + 1))
    box = (slice(top, top + crop_height), slice(left, left + crop_width))
    step = -1 if rng.random() < 0.5 else 1
    image_HW3 = np.ascontiguousarray(sample.image_HW3[box][:, ::step])
    mask_HW = None if sample.mask_HW is None else sample.mask_HW[box][:, ::step]
    depth_HW = None if sample.depth_HW is None else sample.depth_HW[box][:, ::step]
    if depth_HW is not None and sample.metric:
        depth_HW = depth_HW * np.float32(share)
    return TrainingSample(image_HW3, mask_HW, depth_HW, sample.metric)


def with_object_of(
    donor: TrainingSample, sample: TrainingSample, rng: np.random.Generator
) -> TrainingSample:
    """The sample with the donor's object pasted in, where both have masks and it has a clear one.

    How far away the object would be is not known: its depth is missing.
    """
    if donor.mask_HW is None or sample.mask_HW is None:
        return sample
    object_HW4 = cut_object(donor.image_HW3, donor.mask_HW)
    if object_HW4 is None:
        return sample
    image_HW3, alpha_HW = paste_object(sample.image_HW3, object_HW4, rng)
    mask_HW = np.rint(255 * alpha_HW + (1 - alpha_HW) * sample.mask_HW).astype(np.uint8)
    depth_HW = sample.depth_HW
    if depth_HW is not None:
        depth_HW = np.where(alpha_HW > 0, np.float32(np.nan), depth_HW)
    return TrainingSample(image_HW3, mask_HW, depth_HW, sample.metric)


class DataSet(NamedTuple):
    """A data set to train on, and its weight among several."""

    samples: Samples
    weight: float = 1.0


@dataclass(frozen=True)
class Material:
    """All sources of a training, with the share and the indices of each."""

    sources: tuple[Source, ...]
    validation_sources: tuple[Source, ...]
    pools: tuple[Pool, ...]
    digests: dict[str, str]
    """By role: what a run is gone on with must be the same."""


def gather(
    config: TrainingConfig,
    assets: Assets | None,
    data: Sequence[DataSet] = (),
    validation_assets: Assets | None = None,
) -> Material:
    """Lay out where the samples come from: the recipe over `assets`, and the data sets.

    Raises:
        UsageError: assets or data sets are missing for their share, or not used; or the recipe
            cannot be made on the fly.
        InputError: a data set has no labels.
    """
    share = config.data_share if config.data_share is not None else (0.5 if data else 0.0)
    if (share > 0) != bool(data):
        raise UsageError(
            f"data sets must be given where data_share is above 0, and only there, but got"
            f" {len(data)} and a data_share of {share:g}"
        )
    if share < 1 and assets is None:
        raise UsageError(
            f"assets must be given where data_share is below 1, but it is {share:g}. Try --assets"
        )
    if share < 1 and "teacher" in (getattr(config.recipe, role, "") for role in ("mask", "depth")):
        raise UsageError(
            "a recipe to train on must need no teacher while it trains, but got one that does. Try"
            " `dmx data compose`, and train on what it makes with --data"
        )
    for data_set in data:
        if not data_set.samples.labelled:
            raise InputError(
                f"{data_set.samples.folder} must have masks or depths to train on, but it has none"
            )
    on_the_fly = assets or Assets((), ())
    total = sum(data_set.weight for data_set in data)
    splits = [split(len(data_set.samples), config) for data_set in data]
    sets = [
        DatasetSource(
            data_set.samples,
            config.seed,
            paste_share=config.paste_share,
            donors=tuple(train.tolist()) if config.paste_share else (),
        )
        for data_set, (train, _) in zip(data, splits, strict=True)
    ]
    return Material(
        (RecipeSource(config.recipe, on_the_fly), *sets),
        (
            RecipeSource(config.recipe, validation_assets or on_the_fly),
            *(replace(one, augment=False) for one in sets),
        ),
        (
            _recipe_pool(config, 1 - share),
            *(
                Pool(*parts, share=share * one.weight / total)
                for one, parts in zip(data, splits, strict=True)
            ),
        ),
        {
            "assets": assets_digest(assets) if assets is not None and share < 1 else "",
            "data sets": _data_digest(data),
        },
    )


def _recipe_pool(config: TrainingConfig, share: float) -> Pool:
    if isinstance(config.recipe, GridRecipe):
        return Pool(*split_grid(config.recipe, config), share=share)
    count = config.validation_limit if config.validation_share > 0 else 0
    return Pool(None, UNSEEN + np.arange(count), share=share)


def _data_digest(data: Sequence[DataSet]) -> str:
    """Of what the samples are, and of the weights: not of what else is in the folders.

    A composed data set is what its dataset.json says, however often a part of it was made anew; of
    others the names and sizes of the samples' files count.
    """
    if not data:
        return ""
    digest = hashlib.sha256()
    for samples, weight in data:
        digest.update(f"{weight:g}\n".encode())
        described = samples.folder / DATASET_FILE
        document = described.read_bytes() if described.is_file() else b"{}"
        digest.update(f"{len(samples)}\n".encode() + document)
        if not {"recipe", "assets_sha256"} <= msgspec.json.decode(document).keys():
            for path in samples.files:
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def open_data(argument: str) -> DataSet:
    """A data set to train on, from `PATH` or `PATH:WEIGHT`; its shards are looked into.

    Raises:
        InputError: there is no data set, or it is damaged.
        UsageError: the weight is not above 0.
    """
    path, weight = _path_and_weight(argument)
    samples = open_samples(path)
    samples.check()
    return DataSet(samples, weight)


def _path_and_weight(argument: str) -> tuple[str, float]:
    path, colon, weight = argument.rpartition(":")
    if not colon or Path(argument).exists():
        return argument, 1.0
    try:
        value = float(weight)
    except ValueError:
        return argument, 1.0
    if not 0 < value < float("inf"):
        raise UsageError(f"the weight of a data set must be above 0, but got {argument!r}")
    return path, value
