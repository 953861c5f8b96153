"""The reference data set: every combination of background, foreground, position and flip.

What sample i is made of follows from whole-number arithmetic on (seed, background, foreground,
position), on arrays as on one index, so that all 424,320 can be listed and checked without a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from depthmask.train.material import Assets, Sample, UInt8Array, blend, check_grid, resize
from depthmask.train.recipe import GridRecipe
from depthmask.train.stage import FloatArray, Stage, relief_HW

IntArray = npt.NDArray[np.int64]
_Words = npt.NDArray[np.uint64]
_HANGING_SHARE = 0.95
"""Of the wall's distance: how far a foreground is whose foot is above the line of wall and ground."""
_STAGE, _POSITION = 1, 2  # streams of random numbers


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
    rest, flip = np.divmod(index, recipe.flips)
    rest, position = np.divmod(rest, recipe.positions)
    background, foreground = np.divmod(rest, recipe.foregrounds)
    word = _mix(np.full(len(index), recipe.seed, np.uint64) ^ np.uint64(_POSITION))
    for coordinate in (background, foreground, position):
        word = _mix(word ^ coordinate.astype(np.uint64))
    return Placements(
        background,
        foreground,
        position,
        flip,
        _within(word, 1, recipe.foreground_px),
        _within(word, 2, recipe.offset_px),
        _within(word, 3, recipe.offset_px),
    )


def grid_sample(recipe: GridRecipe, assets: Assets, index: int) -> Sample:
    """Sample `index`: binary mask where alpha is above 0, depth of the stage in metres.

    The foreground stands where its lower edge meets the ground, and bulges towards the camera; with
    its foot at the wall or above the horizon it hangs just before the wall. Depth is left out where
    the recipe takes it from elsewhere.

    Raises:
        InputError: the assets are fewer than the grid has.

    """
    check_grid(recipe, assets)
    chosen = placements(recipe, np.array([index]))
    background, top, left = (
        int(values[0]) for values in (chosen.background, chosen.top_px, chosen.left_px)
    )
    patch_HW4 = _patch(recipe, assets, int(chosen.foreground[0]), int(chosen.longest_px[0]))
    if chosen.flip[0]:
        patch_HW4 = patch_HW4[:, ::-1]
    height, width = patch_HW4.shape[:2]
    box = (slice(top, top + height), slice(left, left + width))
    visible_HW = patch_HW4[:, :, 3] > 0

    size = recipe.canvas_px
    image_HW3 = _background(assets, background, size).copy()
    image_HW3[box] = blend(patch_HW4, image_HW3[box])
    mask_HW = np.zeros((size, size), np.uint8)
    mask_HW[box][visible_HW] = 255
    if recipe.depth != "stage":
        return Sample(image_HW3, mask_HW, None)
    stage = stage_of(recipe, background)
    depth_m_HW = stage.depth_m_HW(size, size)
    surface_m_HW = _surface_m_HW(stage, patch_HW4, (top + height) / size, size)
    depth_m_HW[box] = np.where(visible_HW, surface_m_HW, depth_m_HW[box])
    return Sample(image_HW3, mask_HW, depth_m_HW)


def stage_of(recipe: GridRecipe, background: int) -> Stage:
    """The camera and room that all composites on one background share."""
    return Stage.sample(np.random.default_rng([recipe.seed, _STAGE, background]))


def standing_depth_m(stage: Stage, foot: float) -> float:
    """How far away a foreground is whose foot is at the row `foot`, a share of the canvas."""
    hanging_m = _HANGING_SHARE * stage.wall_depth_m
    if foot <= stage.horizon:
        return hanging_m
    return min(stage.focal * stage.camera_height_m / (foot - stage.horizon), hanging_m)


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
    """A foreground at its size, from a copy that is reduced once to twice the largest size."""
    reduced_px = 2 * recipe.foreground_px[1]
    cutout_HW4 = assets.foregrounds[number].premultiplied_HW4
    if max(cutout_HW4.shape[:2]) > reduced_px:
        key = ("foreground", number, reduced_px)
        cutout_HW4 = assets.cache.get(key, lambda: _scaled(cutout_HW4, reduced_px))
    return _scaled(cutout_HW4, longest_px)


def _scaled(image: UInt8Array, longest_px: int) -> UInt8Array:
    share = longest_px / max(image.shape[:2])
    height, width = (max(1, round(side * share)) for side in image.shape[:2])
    return resize(image, height, width)


def _within(word: _Words, number: int, bounds: tuple[int, int]) -> IntArray:
    """Draw `number` of each word, from bounds[0] to bounds[1] inclusive."""
    low, high = bounds
    drawn = _mix(word + np.uint64(number)) % np.uint64(high - low + 1)
    return drawn.astype(np.int64) + low


def _mix(word: _Words) -> _Words:
    """One step of SplitMix64 (Steele et al., OOPSLA 2014): a bijection that scatters 64 bits."""
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
