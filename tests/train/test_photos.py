"""Photographs labelled by teachers: pure, and labels that belong to the crop."""

from __future__ import annotations

import numpy as np
import pytest

from depthmask.errors import InputError, UsageError
from depthmask.train.material import Assets
from depthmask.train.photos import photo
from depthmask.train.recipe import PhotoRecipe
from depthmask.train.teacher import Teachers

RNG = np.random.default_rng(0)
ASSETS = Assets(
    (),
    tuple(RNG.integers(0, 255, (90, 120, 3), dtype=np.uint8) for _ in range(2)),
    (np.full((300, 200, 3), 128, np.uint8),),
)
RECIPE = PhotoRecipe(canvas_px=32)


class Red:
    """A teacher whose map is the red channel."""

    digest = "red"

    def __init__(self, offset=0.0):
        self.offset = offset
        self.seen = []

    def __call__(self, image_HW3):
        self.seen.append(image_HW3.shape)
        return image_HW3[:, :, 0].astype(np.float32) / 255 + np.float32(self.offset)


def test_labels_are_of_the_crop_that_the_image_shows():
    for index in range(20):
        sample = photo(RECIPE, ASSETS, index, Teachers(Red(1.0), Red()))
        red = sample.image_HW3[:, :, 0].astype(int)
        assert sample.image_HW3.shape == (32, 32, 3)
        assert (sample.image_HW3.dtype, sample.mask_HW.dtype) == (np.uint8, np.uint8)
        assert sample.depth_m_HW.dtype == np.float32
        assert np.abs(red - sample.mask_HW).max() <= 1
        assert np.abs(red / 255 + 1 - sample.depth_m_HW).max() < 2 / 255


def test_a_sample_is_a_function_of_recipe_and_index():
    teachers = Teachers(Red(), Red())
    first = photo(RECIPE, ASSETS, 3, teachers)
    photo(RECIPE, ASSETS, 4, teachers)
    again = photo(RECIPE, ASSETS, 3, teachers)
    np.testing.assert_array_equal(first.image_HW3, again.image_HW3)
    np.testing.assert_array_equal(first.depth_m_HW, again.depth_m_HW)
    other = photo(PhotoRecipe(canvas_px=32, seed=1), ASSETS, 3, teachers)
    assert not np.array_equal(first.image_HW3, other.image_HW3)


def test_teachers_see_the_crop_in_full_and_both_kinds_of_photographs_are_drawn():
    depth = Red(1.0)
    plain = 0
    for index in range(60):
        image = photo(RECIPE, ASSETS, index, Teachers(depth, Red())).image_HW3
        plain += int((image == 128).all())
    assert 5 < plain < 40
    aspects = {round(4 * width / height) for height, width, _ in depth.seen}
    assert aspects == {3, 4, 5, 6, 7}
    assert all(min(height, width) >= 0.59 * 90 * 3 / 4 for height, width, _ in depth.seen)
    assert max(height for height, _, _ in depth.seen) > 200


def test_labels_that_are_not_wanted_are_none():
    recipe = PhotoRecipe(canvas_px=32, mask="none")
    sample = photo(recipe, ASSETS, 0, Teachers(depth=Red(1.0)))
    assert sample.mask_HW is None
    assert sample.depth_m_HW is not None
    bare = photo(PhotoRecipe(canvas_px=32, mask="none", depth="none"), ASSETS, 0)
    assert (bare.mask_HW, bare.depth_m_HW) == (None, None)
    np.testing.assert_array_equal(bare.image_HW3, sample.image_HW3)


def test_a_missing_teacher_or_no_photographs_are_errors():
    with pytest.raises(UsageError, match=r"mask: teacher must have a teacher, but got none\. Try"):
        photo(RECIPE, ASSETS, 0, Teachers(depth=Red()))
    with pytest.raises(UsageError, match="depth: teacher must have a teacher"):
        photo(PhotoRecipe(mask="none"), ASSETS, 0)
    with pytest.raises(InputError, match=r"must be photographs .* Try `dmx data fetch`"):
        photo(RECIPE, Assets((), ()), 0, Teachers(Red(), Red()))
