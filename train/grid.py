"""The reference data set: every combination of background, foreground, position and flip.

What sample i is made of follows from whole-number arithmetic on (seed, background, foreground,
position), on arrays as on one index, so that all 424,320 can be listed and checked without a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.frames import FloatArray, UInt8Array
from depthmask.train.material import Assets, Sample, blend, check_grid, resize
from depthmask.train.recipe import GridRecipe
from depthmask.train.stage import Stage, relief_HW

IntArray = npt.NDArray[np.int64]
_HANGING_SHARE = 0.95
"""Of the wall's distance: how far a foreground is whose foot is above the line of wall and ground."""
_STAGE, _POSITION = 1, 2  # streams of random numbers
_STAGES = 256
"""That are remembered."""
_64_BITS = 2**64 - 1


@dataclass(frozen=True)
class Placements:
    """What samples are made of: arrays of one length, positions and sizes in pixels of the canvas."""

    background: IntArray
    foreground: IntArray
    position: IntArray
    flip: IntArray
    longest_px: IntArray
    """Of the foreground's sides."""
    left_px: IntArray
    top_px: IntArray

    def __repr__(self) -> str:
        return f"Placements({len(self.background)})"


def placements(recipe: GridRecipe, index: IntArray) -> Placements:
    """What the samples of these indices are made of; flips of a position share everything else."""
    return Placements(*(part.astype(np.int64) for part in _place(recipe, index.astype(np.uint64))))


def grid_sample(recipe: GridRecipe, assets: Assets, index: int) -> Sample:
    """Sample `index`: binary mask where alpha is above 0, depth of the stage in metres.

    The foreground stands where its lower edge meets the ground, and bulges towards the camera; with
    its foot at the wall or above the horizon it hangs just before the wall. Depth is left out where
    the recipe takes it from elsewhere.

    Raises:
        InputError: the assets are fewer than the grid has.

    """
    check_grid(recipe, assets)
    background, foreground, _, flip, longest_px, left, top = _place(recipe, index)
    patch_HW4 = _patch(recipe, assets, foreground, longest_px)
    if flip:
        patch_HW4 = np.asarray(cv2.flip(patch_HW4, 1), np.uint8)
    height, width = patch_HW4.shape[:2]
    box = (slice(top, top + height), slice(left, left + width))
    visible_HW = cv2.threshold(patch_HW4[:, :, 3], 0, 255, cv2.THRESH_BINARY)[1]

    size = recipe.canvas_px
    image_HW3 = _background(assets, background, size).copy()
    image_HW3[box] = blend(patch_HW4, image_HW3[box])
    mask_HW = np.zeros((size, size), np.uint8)
    mask_HW[box] = visible_HW
    if recipe.depth != "stage":
        return Sample(image_HW3, mask_HW, None)
    depth_m_HW = _empty_depth_m_HW(recipe, background).copy()
    stage = stage_of(recipe, background)
    surface_m_HW = _surface_m_HW(stage, patch_HW4, (top + height) / size, size)
    np.copyto(depth_m_HW[box], surface_m_HW, where=visible_HW > 0)
    return Sample(image_HW3, mask_HW, depth_m_HW)


def prepare(recipe: GridRecipe, assets: Assets) -> None:
    """Fill the cache: memory is then the same for few samples as for all, and so is the speed."""
    check_grid(recipe, assets)
    for number in range(recipe.backgrounds):
        _background(assets, number, recipe.canvas_px)
    for number in range(recipe.foregrounds):
        for level_px in _levels_px(recipe.foreground_px):
            _reduced(assets, number, level_px)


@lru_cache(maxsize=_STAGES)
def stage_of(recipe: GridRecipe, background: int) -> Stage:
    """The camera and room that all composites on one background share."""
    return Stage.sample(np.random.default_rng([recipe.seed, _STAGE, background]))


def standing_depth_m(stage: Stage, foot: float) -> float:
    """How far away a foreground is whose foot is at the row `foot`, a share of the canvas."""
    hanging_m = _HANGING_SHARE * stage.wall_depth_m
    if foot <= stage.horizon:
        return hanging_m
    return min(stage.focal * stage.camera_height_m / (foot - stage.horizon), hanging_m)


@lru_cache(maxsize=_STAGES)
def _empty_depth_m_HW(recipe: GridRecipe, background: int) -> FloatArray:
    """Of the stage alone; never write into it."""
    return stage_of(recipe, background).depth_m_HW(recipe.canvas_px, recipe.canvas_px)


def _surface_m_HW(stage: Stage, patch_HW4: UInt8Array, foot: float, size: int) -> FloatArray:
    depth_m = standing_depth_m(stage, foot)
    width_m = patch_HW4.shape[1] / size * depth_m / stage.focal
    bulge_m = min(0.25 * width_m, 0.2 * depth_m)
    relief = relief_HW(np.ascontiguousarray(patch_HW4[:, :, 3]))
    return np.float32(depth_m) - np.float32(bulge_m) * relief


def _background(assets: Assets, number: int, size: int) -> UInt8Array:
    key = ("background", number, size)
    return assets.cache.get(key, lambda: resize(assets.backgrounds[number], size, size))


def _patch(recipe: GridRecipe, assets: Assets, number: int, longest_px: int) -> UInt8Array:
    """A foreground at its size: linearly from the reduced copy that is next larger."""
    level_px = min(level for level in _levels_px(recipe.foreground_px) if level >= longest_px)
    return _scaled(_reduced(assets, number, level_px), longest_px, cv2.INTER_LINEAR)


@lru_cache
def _levels_px(foreground_px: tuple[int, int]) -> tuple[int, ...]:
    """Longest sides of reduced copies, each three quarters of the last: so near that a linear step
    from one to a foreground's size does not alias.
    """
    smallest_px, largest_px = foreground_px
    steps = math.ceil(math.log(largest_px / smallest_px) / math.log(4 / 3))
    return tuple(round(largest_px * 0.75**step) for step in range(steps + 1))


def _reduced(assets: Assets, number: int, longest_px: int) -> UInt8Array:
    cutout_HW4 = assets.foregrounds[number].premultiplied_HW4
    if max(cutout_HW4.shape[:2]) <= longest_px:
        return cutout_HW4
    key = ("foreground", number, longest_px)
    return assets.cache.get(key, lambda: _scaled(cutout_HW4, longest_px, cv2.INTER_AREA))


def _scaled(image: UInt8Array, longest_px: int, method: int) -> UInt8Array:
    share = longest_px / max(image.shape[:2])
    height, width = (max(1, round(side * share)) for side in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def _place(recipe: GridRecipe, index: Any) -> tuple[Any, ...]:  # noqa: ANN401
    """The fields of `Placements`, of one index (int) or many (uint64)."""
    background, foreground, position, flip = recipe.combination(index)
    word = _mix(index - index + (recipe.seed ^ _POSITION))
    for coordinate in (background, foreground, position):
        word = _mix(word ^ coordinate)
    drawn = (
        low + _mix((word + number) & _64_BITS) % (high - low + 1)
        for number, (low, high) in enumerate(
            (recipe.foreground_px, recipe.offset_px, recipe.offset_px), start=1
        )
    )
    return (background, foreground, position, flip, *drawn)


def _mix(word: Any) -> Any:  # noqa: ANN401
    """One step of SplitMix64 (Steele et al., OOPSLA 2014): a bijection that scatters 64 bits.

    Of one whole number or an array of uint64, which wraps by itself.
    """
    word = (word + 0x9E3779B97F4A7C15) & _64_BITS
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _64_BITS
    return word ^ (word >> 31)
