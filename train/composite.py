"""Random composites: foregrounds that stand on a stage of exact depth (recipes of kind `stage`)."""

from __future__ import annotations

import cv2
import numpy as np

from depthmask.train.augment import cast_shadow, degrade, relight, rotate
from depthmask.train.crop import ASPECTS, crop_of_aspect
from depthmask.train.material import Assets, Sample, UInt8Array, blend, resize
from depthmask.train.recipe import StageRecipe
from depthmask.train.stage import FloatArray, Stage, relief_HW


def composite(recipe: StageRecipe, assets: Assets, index: int) -> Sample:
    """Sample `index`, at canvas_px x canvas_px."""
    rng = np.random.default_rng([recipe.seed, index])
    size = recipe.canvas_px
    stage = Stage.sample(rng)
    aspect = float(rng.choice(ASPECTS))
    image_HW3 = _background(assets, size, aspect, rng)
    mask_HW = np.zeros((size, size), np.uint8)
    depth_m_HW = stage.depth_m_HW(size, size)

    count = 0 if rng.random() < recipe.empty_share else _foreground_count(recipe, rng)
    nearest_m = _nearest_depth_m(stage)
    far_m = 0.85 * stage.wall_depth_m
    depths_m = np.exp(rng.uniform(np.log(nearest_m), np.log(far_m), count))
    for depth_m in sorted(depths_m, reverse=True):
        _place(image_HW3, mask_HW, depth_m_HW, stage, float(depth_m), aspect, assets, recipe, rng)
    if recipe.augment:
        image_HW3 = degrade(image_HW3, rng)
    return Sample(image_HW3, mask_HW, depth_m_HW)


def _foreground_count(recipe: StageRecipe, rng: np.random.Generator) -> int:
    """1 in most samples, 2 or more in the others."""
    return 1 + int(rng.binomial(recipe.max_foregrounds - 1, 0.25))


def _nearest_depth_m(stage: Stage) -> float:
    """An object may stand so near that the lower border cuts it off, by half a canvas at most."""
    return stage.focal * stage.camera_height_m / (1.35 - stage.horizon)


def _background(assets: Assets, size: int, aspect: float, rng: np.random.Generator) -> UInt8Array:
    """A random crop of the given aspect, stretched to the canvas, perhaps mirrored."""
    source_HW3 = assets.backgrounds[rng.integers(len(assets.backgrounds))]
    canvas_HW3 = resize(crop_of_aspect(source_HW3, aspect, 0.45, rng), size, size)
    if rng.random() < 0.5:
        canvas_HW3 = np.asarray(cv2.flip(canvas_HW3, 1), np.uint8)
    return canvas_HW3


def _place(
    image_HW3: UInt8Array,
    mask_HW: UInt8Array,
    depth_m_HW: FloatArray,
    stage: Stage,
    depth_m: float,
    aspect: float,
    assets: Assets,
    recipe: StageRecipe,
    rng: np.random.Generator,
) -> None:
    """Stand one foreground on the stage, before what is there; writes into the three arrays."""
    size = recipe.canvas_px
    cutout = assets.foregrounds[rng.integers(len(assets.foregrounds))].premultiplied_HW4
    if rng.random() < 0.5:
        cutout = np.asarray(cv2.flip(cutout, 1), np.uint8)
    if rng.random() < 0.3:
        cutout = rotate(cutout, rng.uniform(-12, 12))

    # Scaled by 1 / depth: the height in metres is drawn so that the foreground is neither a dot nor
    # larger than the frame.
    share_per_m = stage.focal / depth_m
    longest = max(cutout.shape[0], cutout.shape[1] / aspect)
    longest_m = np.clip(np.exp(rng.normal(np.log(1.4), 0.45)), 0.3 / share_per_m, 1.0 / share_per_m)
    height_m = cutout.shape[0] / longest * float(longest_m)
    height = max(8, round(height_m * share_per_m * size))
    width = max(8, round(height * cutout.shape[1] / cutout.shape[0] / aspect))
    # A strip that is drawn thicker than it is gets no wider than what `left` below has a range for.
    width = min(width, int(size / 0.6))
    patch_HW4 = resize(cutout, height, width)
    if recipe.augment:
        patch_HW4 = relight(patch_HW4, image_HW3, rng)

    bottom = round(stage.foot_row(depth_m) * size)
    left = round(rng.uniform(-0.2 * width, size - 0.8 * width))
    rows = slice(max(0, bottom - height), min(size, bottom))
    columns = slice(max(0, left), min(size, left + width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    patch_rows = slice(rows.start - (bottom - height), rows.stop - (bottom - height))
    patch_columns = slice(columns.start - left, columns.stop - left)

    if recipe.augment and rng.random() < 0.5:
        cast_shadow(image_HW3, bottom, left, width, height, rng)
    visible_HW4 = patch_HW4[patch_rows, patch_columns]
    image_HW3[rows, columns] = blend(visible_HW4, image_HW3[rows, columns])
    alpha_HW = visible_HW4[:, :, 3]
    mask_HW[rows, columns] = np.maximum(mask_HW[rows, columns], alpha_HW)
    # A bulge of a quarter of the object's width at most, and never past the camera.
    bulge_m = min(0.25 * width * aspect / size / share_per_m, 0.2 * depth_m)
    surface_m_HW = depth_m - bulge_m * relief_HW(patch_HW4[:, :, 3])[patch_rows, patch_columns]
    box_m_HW = depth_m_HW[rows, columns]
    depth_m_HW[rows, columns] = np.where(alpha_HW >= 128, surface_m_HW, box_m_HW)
