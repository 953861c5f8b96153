from __future__ import annotations

import itertools

import numpy as np
import pytest

from depthmask.video.blending import blur_within, disc
from depthmask.video.depth_range import DepthRange
from depthmask.video.lens_blur import blurred_background, out_of_focus

NEAR = DepthRange(1.0, 2.0)


def scene(background_depth=8.0):
    """A red subject in the middle before stripes, black and white."""
    frame_HW3 = np.zeros((240, 320, 3), np.uint8)
    frame_HW3[:, ::16] = frame_HW3[:, 1::16] = frame_HW3[:, 2::16] = frame_HW3[:, 3::16] = 255
    mask_HW = np.zeros((240, 320), np.float32)
    mask_HW[60:180, 100:220] = 1
    frame_HW3[mask_HW > 0] = (255, 0, 0)
    depth_HW = np.where(mask_HW > 0, 1.5, background_depth).astype(np.float32)
    return frame_HW3, mask_HW, depth_HW


def contrast(shown):
    return float(shown[10:50, 20:300, 1].std())


@pytest.mark.parametrize("unit", ["m", "relative"])
def test_subject_is_sharp_and_background_is_not(unit):
    frame_HW3, mask_HW, depth_HW = scene()
    shown = blurred_background(frame_HW3, mask_HW, depth_HW, NEAR, "foreground", unit)
    assert np.array_equal(shown[mask_HW == 1], frame_HW3[mask_HW == 1])
    assert contrast(shown) < contrast(frame_HW3) / 2


def test_subject_does_not_bleed_into_the_background():
    frame_HW3, mask_HW, depth_HW = scene()
    shown = blurred_background(frame_HW3, mask_HW, depth_HW, NEAR, "foreground", "m").astype(int)
    outside = shown[mask_HW == 0]
    assert (outside[:, 0] - outside[:, 1]).max() <= 2  # grey: no red beside the red subject


def test_background_does_not_bleed_into_the_background_hidden_by_the_mask():
    frame_HW3, mask_HW, depth_HW = scene()
    soft_HW = np.where(mask_HW > 0, 0.5, 0).astype(np.float32)
    shown = blurred_background(frame_HW3, soft_HW, depth_HW, NEAR, "foreground", "m").astype(int)
    # Half the subject, half what the background beside it looks like: not a second subject, blurred.
    assert abs(shown[120, 110, 1] - 0.5 * shown[120, 92, 1]) < 25


def test_blur_grows_with_the_distance_from_the_subject():
    contrasts = []
    for depth in (2.0, 3.0, 5.0, 20.0):
        frame_HW3, mask_HW, depth_HW = scene(depth)
        shown = blurred_background(frame_HW3, mask_HW, depth_HW, NEAR, "foreground", "m")
        contrasts.append(contrast(shown))
    assert all(nearer > farther for nearer, farther in itertools.pairwise(contrasts))


def test_circle_of_confusion():
    depths = np.array([[0.5, 1.0, 1.5, 2.0, 4.0, 1e6]], np.float32)
    radii = out_of_focus(depths, NEAR, "m")[0]
    assert radii[1:4].tolist() == [0, 0, 0]
    assert radii[0] > 0
    assert 0 < radii[4] < radii[5] <= 1


def test_relevance_chain_is_sharp_where_it_is_near():
    frame_HW3, mask_HW, depth_HW = scene()
    shown = blurred_background(frame_HW3, 0 * mask_HW, depth_HW, NEAR, "relevance", "m")
    assert np.array_equal(shown[100:140, 140:180], frame_HW3[100:140, 140:180])
    assert contrast(shown) < contrast(frame_HW3) / 2


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (1080, 1920)])
def test_flat_colour_stays_itself_at_any_size(size):
    frame_HW3 = np.full((*size, 3), (90, 120, 30), np.uint8)
    mask_HW = np.zeros(size, np.float32)
    mask_HW[:, : size[1] // 2] = 1
    depth_HW = np.full(size, np.nan, np.float32)
    shown = blurred_background(frame_HW3, mask_HW, depth_HW, NEAR, "foreground", "m")
    assert np.abs(shown.astype(int) - frame_HW3).max() <= 2


def test_disc_sums_to_one():
    assert disc(3.3).sum() == pytest.approx(1, abs=1e-5)
    assert disc(0.4).shape == (3, 3)


def test_what_has_no_weight_counts_nothing():
    image = np.zeros((20, 20, 3), np.float32)
    image[:, :10], image[:, 10:] = 50, 200
    weight = np.zeros((20, 20), np.float32)
    weight[:, :10] = 1
    shown = blur_within(image, weight, disc(4), np.full_like(image, 7))
    assert np.abs(shown[:, :13] - 50).max() < 1
    assert np.abs(shown[:, 16:] - 7).max() < 1  # out of reach
