"""Statistics of data sets, exact and in one pass, and of grids without a single pixel.

Images and masks are counted per level in whole numbers, so that nothing is lost however many there
are; depths are merged image by image (Chan et al., 1983) in float64.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import numpy.typing as npt

from depthmask.errors import CheckFailedError
from depthmask.frames import FloatArray, UInt8Array
from depthmask.samples import DepthUnit, LabelledSample
from depthmask.train.grid import placements
from depthmask.train.recipe import GridRecipe

_CHUNK = 65536


class Moments(msgspec.Struct, frozen=True):
    """Of one channel, over all its pixels."""

    mean: float
    std: float
    """Of the population."""
    smallest: float
    largest: float


class DataStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Of a data set; None where it has no such label, or no pixel of it."""

    count: int
    sizes: dict[str, int]
    """Images by HEIGHTxWIDTH in pixels."""
    image: tuple[Moments, Moments, Moments] | None
    """Red, green and blue, as shares of 255."""
    masks: int
    mask: Moments | None
    """As shares of 255: the mean is how much of the frames is foreground."""
    depths: int
    depth: Moments | None
    """Over the pixels that have a depth, in `depth_unit`."""
    depth_unit: DepthUnit
    depth_missing_share: float | None
    """Of the pixels of the images with a depth."""


class Spread(msgspec.Struct, frozen=True):
    """Of a drawn number of pixels."""

    smallest: int
    largest: int
    mean: float


class GridStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What a grid enumerates; every background, foreground, position and flip equally often."""

    count: int
    backgrounds: int
    foregrounds: int
    positions: int
    flips: int
    foreground_px: Spread
    left_px: Spread
    top_px: Spread


class _Levels:
    """How often each of 256 levels is there."""

    def __init__(self) -> None:
        self._counts = np.zeros(256, np.int64)

    def add(self, channel: UInt8Array) -> None:
        self._counts += np.bincount(channel.ravel(), minlength=256)

    def moments(self) -> Moments | None:
        counts = [int(count) for count in self._counts]
        total = sum(counts)
        if not total:
            return None
        first = sum(level * count for level, count in enumerate(counts))
        second = sum(level * level * count for level, count in enumerate(counts))
        # Whole numbers of any size: no digit is lost before the last division.
        variance = (second * total - first * first) / (total * total * 255 * 255)
        present = [level for level, count in enumerate(counts) if count]
        return Moments(
            first / (total * 255), math.sqrt(variance), present[0] / 255, present[-1] / 255
        )


class _Merged:
    """Count, mean and sum of squared deviations, merged image by image."""

    def __init__(self) -> None:
        self.pixels = self.missing = 0
        self._mean = self._squares = 0.0
        self._smallest, self._largest = math.inf, -math.inf

    def add(self, depth_HW: FloatArray) -> None:
        known = depth_HW[np.isfinite(depth_HW)].astype(np.float64)
        self.missing += depth_HW.size - known.size
        if not known.size:
            return
        mean = float(known.mean())
        squares = float(np.square(known - mean).sum())
        total = self.pixels + known.size
        step = mean - self._mean
        self._squares += squares + step * step * self.pixels * known.size / total
        self._mean += step * known.size / total
        self.pixels = total
        self._smallest = min(self._smallest, float(known.min()))
        self._largest = max(self._largest, float(known.max()))

    def moments(self) -> Moments | None:
        if not self.pixels:
            return None
        std = math.sqrt(self._squares / self.pixels)
        return Moments(self._mean, std, self._smallest, self._largest)


def data_statistics(
    samples: Iterable[LabelledSample],
    unit: DepthUnit = "m",
    progress: Callable[[int], None] | None = None,
) -> DataStatistics:
    """Read every sample once; memory does not grow with their number.

    Raises:
        InputError: a sample is damaged.

    """
    colours, mask, depth = tuple(_Levels() for _ in range(3)), _Levels(), _Merged()
    sizes: Counter[str] = Counter()
    masks = depths = 0
    for number, sample in enumerate(samples, start=1):
        height, width = sample.image_HW3.shape[:2]
        sizes[f"{height}x{width}"] += 1
        for channel, levels in enumerate(colours):
            levels.add(sample.image_HW3[:, :, channel])
        if sample.mask_HW is not None:
            masks += 1
            mask.add(sample.mask_HW)
        if sample.depth_m_HW is not None:
            depths += 1
            depth.add(sample.depth_m_HW)
        if progress is not None:
            progress(number)
    red, green, blue = (levels.moments() for levels in colours)
    pixels = depth.pixels + depth.missing
    return DataStatistics(
        count=sizes.total(),
        sizes=dict(sizes.most_common()),
        image=(red, green, blue) if red and green and blue else None,
        masks=masks,
        mask=mask.moments(),
        depths=depths,
        depth=depth.moments(),
        depth_unit=unit,
        depth_missing_share=depth.missing / pixels if pixels else None,
    )


def grid_statistics(recipe: GridRecipe) -> GridStatistics:
    """List every sample of a grid and check it: ranges, and that each combination is there once.

    Raises:
        CheckFailedError: one is out of range, or missing.

    """
    sizes = (recipe.backgrounds, recipe.foregrounds, recipe.positions, recipe.flips)
    seen = np.zeros(sizes, np.uint8)
    drawn: dict[str, list[tuple[int, int, int]]] = {}
    for start in range(0, recipe.count, _CHUNK):
        chosen = placements(recipe, np.arange(start, min(start + _CHUNK, recipe.count)))
        combination = (chosen.background, chosen.foreground, chosen.position, chosen.flip)
        np.add.at(seen, combination, 1)
        for name in ("longest_px", "left_px", "top_px"):
            values: npt.NDArray[np.int64] = getattr(chosen, name)
            part = (int(values.min()), int(values.max()), int(values.sum()))
            drawn.setdefault(name, []).append(part)
    spreads = {name: _spread(parts, recipe.count) for name, parts in drawn.items()}
    if not (seen == 1).all():
        raise CheckFailedError(
            f"a grid must have each combination once, but {(seen != 1).sum()} of {seen.size} have not"
        )
    _check_range("foreground_px", spreads["longest_px"], recipe.foreground_px)
    _check_range("the left offset", spreads["left_px"], recipe.offset_px)
    _check_range("the top offset", spreads["top_px"], recipe.offset_px)
    return GridStatistics(
        count=recipe.count,
        backgrounds=recipe.backgrounds,
        foregrounds=recipe.foregrounds,
        positions=recipe.positions,
        flips=recipe.flips,
        foreground_px=spreads["longest_px"],
        left_px=spreads["left_px"],
        top_px=spreads["top_px"],
    )


def _spread(parts: list[tuple[int, int, int]], count: int) -> Spread:
    smallest, largest, sums = zip(*parts, strict=True)
    return Spread(min(smallest), max(largest), sum(sums) / count)


def _check_range(name: str, found: Spread, bounds: tuple[int, int]) -> None:
    if found.smallest < bounds[0] or found.largest > bounds[1]:
        raise CheckFailedError(
            f"{name} must be within {bounds[0]} to {bounds[1]} px, but got {found.smallest} to"
            f" {found.largest}"
        )
