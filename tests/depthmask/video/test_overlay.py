from __future__ import annotations

import numpy as np
import pytest

from depthmask.errors import UsageError
from depthmask.pipeline import Prediction
from depthmask.video.overlay import VIEWS, DepthRange, Look, next_range, render

METRES = Look("foreground", "m")


@pytest.fixture
def frame_HW3():
    return np.full((90, 120, 3), (180, 90, 40), np.uint8)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", ["foreground", "relevance"])
@pytest.mark.parametrize("size", [(90, 120), (1, 1), (33, 7), (400, 130)])
def test_every_view_is_a_picture_of_the_frames_size(view, kind, size, prediction_of):
    frame_HW3 = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    before = frame_HW3.copy()
    prediction = prediction_of(*size)
    shown = render(view, frame_HW3, prediction, next_range(None, prediction, kind), Look(kind, "m"))
    width = size[1] * (3 if view == "side" else 1)
    assert shown.shape == (size[0], width, 4 if view == "cutout" else 3)
    assert shown.dtype == np.uint8
    assert np.array_equal(frame_HW3, before)


def test_overlay_is_grey_outside_and_coloured_inside(frame_HW3, prediction_of):
    shown = render("overlay", frame_HW3, prediction_of(90, 120), DepthRange(1, 3), METRES)
    red, green, blue = (int(value) for value in shown[2, 2])
    assert red == green == blue < 60
    assert np.ptp(shown[45, 60].astype(int)) > 20


def test_overlay_has_an_outline(frame_HW3, prediction_of):
    shown = render("overlay", frame_HW3, prediction_of(90, 120), DepthRange(1, 3), METRES)
    bright = (shown.min(axis=2) > 200).sum()
    assert 100 < bright < 600  # a circle of radius 30, one pixel thick


def test_mask_is_soft(frame_HW3):
    mask_HW = np.linspace(0, 1, 120, dtype=np.float32)[None].repeat(90, 0)
    prediction = Prediction(mask_HW, np.ones_like(mask_HW))
    shown = render("mask", frame_HW3, prediction, DepthRange(0, 1), METRES)
    assert np.array_equal(shown[0, :, 0], np.rint(mask_HW[0] * 255))


def test_near_is_brighter_than_far(frame_HW3, prediction_of):
    shown = render("depth", frame_HW3, prediction_of(90, 120), DepthRange(1, 3), Look("relevance"))
    light = shown.astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(light[0]) <= 1).all()
    assert light[0, 0] > light[0, -1] + 100


def test_depth_of_a_foreground_chain_is_dark_outside_the_mask(frame_HW3, prediction_of):
    prediction = prediction_of(90, 120)
    shown = render("depth", frame_HW3, prediction, DepthRange(1, 3), METRES)
    everywhere = render("depth", frame_HW3, prediction, DepthRange(1, 3), Look("relevance"))
    assert np.array_equal(shown[45, 60], everywhere[45, 60])
    assert shown[2, 2].sum() < everywhere[2, 2].sum() / 3


def test_scale_bar_only_where_it_fits(prediction_of):
    def with_and_without(size):
        frame_HW3, prediction = np.zeros((*size, 3), np.uint8), prediction_of(*size)
        looks = (Look("relevance", "m"), Look("relevance", "m", show_bar=False))
        return [render("depth", frame_HW3, prediction, DepthRange(1, 3), look) for look in looks]

    large, large_plain = with_and_without((240, 320))
    small, small_plain = with_and_without((60, 80))
    assert not np.array_equal(large, large_plain)
    assert np.array_equal(large[:150], large_plain[:150])
    assert np.array_equal(small, small_plain)


def test_values_that_are_not_finite_are_shown(frame_HW3):
    depth_HW = np.full((90, 120), np.nan, np.float32)
    depth_HW[:, 60:] = np.inf
    prediction = Prediction(np.ones((90, 120), np.float32), depth_HW)
    for view in VIEWS:
        render(view, frame_HW3, prediction, next_range(None, prediction, "foreground"))


def test_unknown_view_and_wrong_size(frame_HW3, prediction_of):
    with pytest.raises(UsageError, match="must be one of overlay, mask, depth, side"):
        render("x-ray", frame_HW3, prediction_of(90, 120), DepthRange(0, 1))
    with pytest.raises(ValueError, match="frame's size"):
        render("mask", frame_HW3, prediction_of(45, 60), DepthRange(0, 1))


def test_range_of_a_foreground_chain_is_that_of_its_mask(prediction_of):
    prediction = prediction_of(90, 120)
    whole = DepthRange.of(prediction, "relevance")
    inside = DepthRange.of(prediction, "foreground")
    assert whole.near == pytest.approx(1, abs=0.1)
    assert whole.far == pytest.approx(3, abs=0.1)
    assert whole.near < inside.near < inside.far < whole.far


def test_range_ignores_outliers(prediction_of):
    prediction = prediction_of(90, 120)
    prediction.depth_HW[:1] = 1e6
    assert DepthRange.of(prediction, "relevance").far < 4


@pytest.mark.parametrize("level", [0.0, 2.0, -3.0, 1e6])
def test_range_of_a_flat_depth(level):
    ones = np.ones((20, 20), np.float32)
    depth_range = DepthRange.of(Prediction(ones, level * ones), "foreground")
    assert depth_range.near < level < depth_range.far


def test_range_is_held_steady_and_survives_an_empty_mask(prediction_of):
    prediction, empty = prediction_of(90, 120), prediction_of(90, 120, empty=True)
    start = DepthRange(10, 20)
    moved = next_range(start, prediction, "foreground", share=0.1)
    measured = DepthRange.of(prediction, "foreground")
    assert moved.near == pytest.approx(10 + 0.1 * (measured.near - 10))
    assert next_range(start, empty, "foreground", share=0.1) == start
    assert next_range(None, empty, "foreground") == DepthRange.of(empty, "relevance")
    with pytest.raises(ValueError, match="near must be less"):
        DepthRange(2, 2)
