"""What is computed on a part, or in another order, must be what the plain way gives, bit for bit."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest

from depthmask.train.augment import cast_shadow, relight, rotate
from depthmask.train.compose import compose
from depthmask.train.material import blend
from depthmask.train.recipe import StageRecipe

# The trained weights were taught with these samples, so they must stay what they were. (Without
# IPP, whose rounding differs between CPUs: with its AVX2 code the same samples gave 72e14399.)
BEFORE = "20ced5daf3bef4245748b74d2efb5636e255886137a342fe26e1163c8e8e29b4"
BEFORE_OPENCV = "5.0.0"


def plain_shadow(image_HW3, bottom, left, width, height, rng):
    shade_HW = np.zeros(image_HW3.shape[:2], np.float32)
    centre = (round(left + width * rng.uniform(0.3, 0.7)), bottom - round(0.02 * height))
    axes = (max(2, round(width * rng.uniform(0.35, 0.6))), max(2, round(height * 0.07)))
    cv2.ellipse(shade_HW, centre, axes, 0, 0, 360, float(rng.uniform(0.2, 0.6)), -1)
    soft_HW = cv2.GaussianBlur(shade_HW, (0, 0), max(1.0, 0.03 * height))
    image_HW3[:] = (image_HW3 * (1 - soft_HW[:, :, None])).astype(np.uint8)


def plain_relight(patch_HW4, image_HW3, rng):
    alpha_HW1 = patch_HW4[:, :, 3:].astype(np.float32) / 255
    colours_HW3 = patch_HW4[:, :, :3].astype(np.float32)
    gain_3 = rng.uniform(0.65, 1.25) * rng.uniform(0.92, 1.08, 3)
    if rng.random() < 0.5:
        mean_3 = colours_HW3.sum((0, 1)) / max(float(alpha_HW1.sum()), 1.0)
        towards_3 = (image_HW3.mean((0, 1)) + 20) / (mean_3 + 20)
        gain_3 = gain_3 * towards_3 ** rng.uniform(0, 0.7)
    offset = rng.uniform(-15, 15)
    colours_HW3 = np.clip(colours_HW3 * gain_3 + offset * alpha_HW1, 0, 255 * alpha_HW1)
    if rng.random() < 0.3:
        softened_HW4 = cv2.GaussianBlur(
            np.dstack([colours_HW3, 255 * alpha_HW1]), (0, 0), rng.uniform(0.4, 1.0)
        )
        return np.asarray(softened_HW4 + 0.5, np.uint8)
    return np.dstack([(colours_HW3 + 0.5).astype(np.uint8), patch_HW4[:, :, 3]])


def random_patch(rng, height, width):
    alpha_HW1 = rng.choice([0, 3, 128, 255], (height, width, 1)).astype(np.uint8)
    colours_HW3 = rng.integers(0, 256, (height, width, 3), np.uint8)
    return np.dstack([np.minimum(colours_HW3, alpha_HW1), alpha_HW1])


def test_a_shadow_is_what_blurring_the_whole_canvas_gives():
    rng = np.random.default_rng(0)
    for seed in range(60):
        size = int(rng.integers(32, 300))
        image_HW3 = rng.integers(0, 256, (size, size, 3), np.uint8)
        wanted_HW3 = image_HW3.copy()
        place = [
            int(v) for v in rng.integers((-20, -60, 8, 8), (int(1.5 * size), size, size, size))
        ]
        plain_shadow(wanted_HW3, *place, np.random.default_rng(seed))
        cast_shadow(image_HW3, *place, np.random.default_rng(seed))
        np.testing.assert_array_equal(image_HW3, wanted_HW3)


@pytest.mark.parametrize("size", [(30, 40), (260, 300)])  # sums below and above 2**24
def test_relighting_is_what_the_plain_sums_give(size):
    rng = np.random.default_rng(1)
    patch_HW4, image_HW3 = random_patch(rng, *size), rng.integers(0, 256, (64, 64, 3), np.uint8)
    for seed in range(12):
        np.testing.assert_array_equal(
            relight(patch_HW4, image_HW3, np.random.default_rng(seed)),
            plain_relight(patch_HW4, image_HW3, np.random.default_rng(seed)),
        )


def test_blending_rounds_exactly_for_every_alpha_and_level():
    alpha_HW, under_HW = np.mgrid[:256, :256].astype(np.uint8)
    for share in (0, 1, 2):  # of the most that a premultiplied colour can be
        colour_HW = (alpha_HW.astype(int) * share // 2).astype(np.uint8)
        patch_HW4 = np.dstack([colour_HW] * 3 + [alpha_HW])
        found_HW3 = blend(patch_HW4, np.dstack([under_HW] * 3))
        shown_HW = (under_HW.astype(int) * (255 - alpha_HW.astype(int)) + 127) // 255
        wanted_HW = np.minimum(colour_HW + shown_HW, 255)
        np.testing.assert_array_equal(found_HW3, np.dstack([wanted_HW] * 3))


def test_turning_crops_to_what_is_visible_and_leaves_nothing_as_it_is():
    patch_HW4 = np.zeros((40, 60, 4), np.uint8)
    patch_HW4[10:30, 20:50] = 255
    turned = rotate(patch_HW4, 10.0)
    for edge in (turned[0], turned[-1], turned[:, 0], turned[:, -1]):
        assert edge[:, 3].any()
    empty = np.zeros((5, 6, 4), np.uint8)
    assert rotate(empty, 5.0) is empty


@pytest.mark.skipif(cv2.__version__ != BEFORE_OPENCV, reason="the hash is of another OpenCV")
def test_samples_are_what_the_weights_were_trained_with(portable_assets):
    digest = hashlib.sha256()
    for recipe in (StageRecipe(seed=7, canvas_px=64), StageRecipe(seed=1, augment=False)):
        for index in range(12):
            sample = compose(recipe, portable_assets, index)
            for values in (sample.image_HW3, sample.mask_HW, sample.depth_m_HW):
                digest.update(values.tobytes())
    assert digest.hexdigest() == BEFORE
