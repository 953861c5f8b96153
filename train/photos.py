"""Photographs as samples: random crops, labelled by teacher networks that see the same crop.

Sample i is a pure function of (recipe, assets, i, teachers): teachers of equal digests give equal
bytes on one machine. A teacher's depth is relative, not in metres.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.errors import InputError
from depthmask.train.compose import check_labels
from depthmask.train.crop import ASPECTS, crop_of_aspect
from depthmask.train.material import Assets, Sample
from depthmask.train.recipe import PhotoRecipe
from depthmask.train.teacher import Teachers

UInt8Array = npt.NDArray[np.uint8]


def photo(
    recipe: PhotoRecipe, assets: Assets, index: int, teachers: Teachers | None = None
) -> Sample:
    """Sample `index`, at canvas_px x canvas_px; a label that the recipe does not want is None.

    Raises:
        UsageError: the recipe wants a teacher that is not there.
        InputError: there is no photograph, or a teacher's output cannot be used.

    """
    teachers = teachers or Teachers()
    check_labels(recipe, teachers)
    rng = np.random.default_rng([recipe.seed, index])
    crop_HW3 = _crop(assets, recipe.smallest_crop, rng)
    mask_HW = depth_HW = None
    if recipe.mask == "teacher" and teachers.mask is not None:
        soft_HW = _to_canvas(teachers.mask(crop_HW3), recipe.canvas_px)
        mask_HW = np.asarray(255 * soft_HW + 0.5, np.uint8)
    if recipe.depth == "teacher" and teachers.depth is not None:
        depth_HW = _to_canvas(teachers.depth(crop_HW3), recipe.canvas_px)
    image_HW3 = np.asarray(_to_canvas(crop_HW3, recipe.canvas_px), np.uint8)
    return Sample(image_HW3, mask_HW, depth_HW)


def _crop(assets: Assets, smallest: float, rng: np.random.Generator) -> UInt8Array:
    """A part of one photograph, perhaps flipped."""
    sources = (*assets.backgrounds, *assets.photos)
    if not sources:
        raise InputError(
            "there must be photographs for a recipe of photos, but got none. Try `dmx data fetch`"
        )
    source_HW3 = sources[rng.integers(len(sources))]
    crop_HW3 = crop_of_aspect(source_HW3, float(rng.choice(ASPECTS)), smallest, rng)
    if rng.random() < 0.5:
        crop_HW3 = crop_HW3[:, ::-1]
    return np.ascontiguousarray(crop_HW3)


def _to_canvas(
    values: npt.NDArray[np.uint8] | npt.NDArray[np.float32], size: int
) -> npt.NDArray[np.float32]:
    shrinks = size < values.shape[0] and size < values.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, (size, size), interpolation=method), np.float32)
