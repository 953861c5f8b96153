from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics

from depthmask.errors import CheckFailedError, InputError
from depthmask.metrics import (
    DepthAccumulator,
    MaskAccumulator,
    binary,
    depth_metrics,
    mask_metrics,
    median_scaled,
)

VECTORS = Path(__file__).parents[1] / "data" / "reference_vectors.npz"
REFERENCE_NAMES = {
    "MSE": "mse",
    "RMSE": "rmse",
    "MAE": "mae",
    "ABS_REL": "abs_rel",
    "LG10": "log10",
    "DELTA1": "delta1",
    "DELTA2": "delta2",
    "DELTA3": "delta3",
}


@pytest.fixture(scope="module")
def vectors():
    with np.load(VECTORS) as archive:
        return {key: archive[key] for key in archive.files if key.startswith("metrics/")}


def square_mask(size=40, left=10, right=30):
    mask_HW = np.zeros((size, size), np.float32)
    mask_HW[left:right, left:right] = 1
    return mask_HW


@pytest.mark.parametrize(("theirs", "ours"), REFERENCE_NAMES.items())
def test_depth_equals_the_reference(vectors, theirs, ours):
    result = depth_metrics(vectors["metrics/output"], vectors["metrics/target"])
    assert getattr(result, ours) == pytest.approx(float(vectors[f"metrics/{theirs}"]), abs=1e-6)


def test_depth_by_hand():
    result = depth_metrics(np.array([1.0, 2.0, 4.0]), np.array([1.0, 4.0, 2.0]))
    assert asdict(result) == pytest.approx(
        {
            "mse": 8 / 3,
            "rmse": math.sqrt(8 / 3),
            "mae": 4 / 3,
            "abs_rel": 0.5,
            "log10": 2 * math.log10(2) / 3,
            "delta1": 1 / 3,
            "delta2": 1 / 3,
            "delta3": 1 / 3,
            "silog": math.log(2) * math.sqrt(2 / 3),
            "pixels": 3,
        }
    )


def test_adding_maps_one_by_one_is_pooling_their_pixels(vectors):
    output, target = vectors["metrics/output"], vectors["metrics/target"]
    accumulator = DepthAccumulator()
    for one_output, one_target in zip(output, target, strict=True):
        accumulator.add(one_output, one_target)
    assert asdict(accumulator.result()) == pytest.approx(asdict(depth_metrics(output, target)))


@pytest.mark.parametrize("missing", [np.nan, np.inf, 0.0, -1.0])
def test_a_target_that_is_no_depth_does_not_count(missing):
    result = depth_metrics(np.array([2.0, 9.0]), np.array([2.0, missing]))
    assert result.pixels == 1
    assert result.mae == 0


def test_the_prediction_may_be_nan_where_nothing_counts():
    prediction, target = np.array([2.0, np.nan]), np.array([2.0, 3.0])
    assert depth_metrics(prediction, target, np.array([True, False])).pixels == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prediction_that_is_not_finite_is_refused(value):
    with pytest.raises(CheckFailedError, match="1 of 2 valid pixels"):
        depth_metrics(np.array([2.0, value]), np.array([2.0, 3.0]))


def test_a_prediction_of_zero_is_bad_and_finite():
    result = depth_metrics(np.array([0.0, -3.0]), np.array([2.0, 3.0]))
    assert result.delta3 == 0
    assert result.log10 == pytest.approx(3)
    assert all(math.isfinite(value) for value in asdict(result).values())


def test_without_a_valid_pixel_there_is_no_result():
    nothing = np.full((2, 2), np.nan)
    with pytest.raises(InputError, match="at least one valid pixel"):
        depth_metrics(np.ones((2, 2)), nothing)
    accumulator = DepthAccumulator()
    accumulator.add(np.ones((2, 2)), nothing)
    assert accumulator.result() is None


def test_depth_shapes_must_agree():
    with pytest.raises(InputError, match=r"\(2, 2\), \(3, 2\)"):
        depth_metrics(np.ones((2, 2)), np.ones((3, 2)))
    with pytest.raises(InputError, match="one shape"):
        depth_metrics(np.ones((2, 2)), np.ones((2, 2)), np.ones(2, bool))


def test_silog_does_not_see_a_wrong_scale(vectors):
    output, target = vectors["metrics/output"], vectors["metrics/target"]
    assert depth_metrics(7 * target, target).silog == pytest.approx(0, abs=1e-6)
    scaled, plain = depth_metrics(7 * output, target), depth_metrics(output, target)
    assert scaled.silog == pytest.approx(plain.silog, abs=1e-6)


def test_median_scaling_finds_the_scale_of_the_valid_pixels():
    rng = np.random.default_rng(0)
    target = rng.uniform(1, 5, (8, 9)).astype(np.float32)
    valid = np.zeros((8, 9), bool)
    valid[:4] = True
    prediction = np.where(valid, target / 3, 100).astype(np.float32)
    np.testing.assert_allclose(median_scaled(prediction, target, valid)[:4], target[:4], rtol=1e-6)


@pytest.mark.parametrize(
    ("prediction", "target"), [(1.0, np.nan), (0.0, 1.0), (-1.0, 1.0), (np.nan, 1.0)]
)
def test_median_scaling_without_a_scale_changes_nothing(prediction, target):
    given = np.full((2, 2), prediction, np.float32)
    np.testing.assert_array_equal(median_scaled(given, np.full((2, 2), target)), given)


def test_mask_by_hand():
    prediction_HW, target_HW = np.zeros((10, 10)), np.zeros((10, 10))
    prediction_HW[:, :4] = 1  # 40 pixels, 20 of them right
    target_HW[:, 2:8] = 1  # 60 pixels
    result = mask_metrics(prediction_HW, target_HW)
    precision, recall = 20 / 40, 20 / 60
    assert result.iou == pytest.approx(20 / 80)
    assert result.dice == pytest.approx(40 / 100)
    assert result.mae == pytest.approx(0.6)
    assert result.f_beta == pytest.approx(1.3 * precision * recall / (0.3 * precision + recall))


@pytest.mark.parametrize("seed", range(4))
def test_masks_equal_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    prediction_HW, target_HW = generator.random((2, 23, 31)).astype(np.float32)
    predicted, true = (mask_HW.ravel() >= 0.5 for mask_HW in (prediction_HW, target_HW))
    result = mask_metrics(prediction_HW, target_HW)
    assert result.iou == pytest.approx(sklearn.metrics.jaccard_score(true, predicted), abs=1e-6)
    assert result.dice == pytest.approx(sklearn.metrics.f1_score(true, predicted), abs=1e-6)
    f_beta = sklearn.metrics.fbeta_score(true, predicted, beta=math.sqrt(0.3))
    assert result.f_beta == pytest.approx(f_beta, abs=1e-6)
    mae = sklearn.metrics.mean_absolute_error(target_HW.ravel(), prediction_HW.ravel())
    assert result.mae == pytest.approx(mae, abs=1e-6)


def test_boundary_iou_sees_an_outline_that_iou_does_not():
    small, large = square_mask(200, 50, 150), square_mask(200, 47, 153)
    result = mask_metrics(small, large)
    assert result.iou == pytest.approx(100**2 / 106**2)
    # d = round(0.02 * 283) = 6: rings of 6 px in each, which share 3 px.
    ring_small, ring_large = 100**2 - 88**2, 106**2 - 94**2
    shared = 100**2 - 94**2
    assert result.boundary_iou == pytest.approx(shared / (ring_small + ring_large - shared))


def test_the_border_of_the_frame_is_an_outline():
    whole, inner = np.ones((100, 100)), np.zeros((100, 100))
    inner[20:80, 20:80] = 1
    assert mask_metrics(whole, whole).boundary_iou == 1
    assert mask_metrics(inner, whole).boundary_iou == 0


def test_two_empty_masks_agree():
    empty = np.zeros((8, 8))
    result = mask_metrics(empty, empty)
    assert (result.iou, result.dice, result.f_beta, result.boundary_iou) == (1, 1, 1, 1)
    assert result.mae == 0


@pytest.mark.parametrize("swap", [False, True])
def test_an_empty_mask_and_one_that_is_not_do_not_agree(swap):
    masks = [np.zeros((8, 8)), square_mask(8, 2, 5)]
    result = mask_metrics(*(reversed(masks) if swap else masks))
    assert (result.iou, result.dice, result.f_beta, result.boundary_iou) == (0, 0, 0, 0)


def test_bool_uint8_and_float_masks_are_the_same():
    mask, other = square_mask(), square_mask(40, 12, 33)
    expected = mask_metrics(mask, other)
    assert mask_metrics(mask.astype(bool), (255 * other).astype(np.uint8)) == expected


def test_soft_masks_are_cut_at_half_but_for_mae():
    target = np.full((4, 4), 128, np.uint8)
    result = mask_metrics(np.full((4, 4), 0.9), target)
    assert result.iou == 1
    assert result.mae == pytest.approx(0.9 - 128 / 255)
    assert not binary(np.full((1, 1), 127, np.uint8)).any()


def test_several_images_give_the_mean_over_images():
    good, empty = square_mask(), np.zeros((40, 40), np.float32)
    batch = mask_metrics(np.stack([good, good])[:, None], np.stack([good, empty])[:, None])
    assert batch.iou == 0.5
    accumulator = MaskAccumulator()
    accumulator.add(good, good)
    accumulator.add(good, empty)
    assert accumulator.result() == batch


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.eye(4, dtype=np.uint8), "largest value is 1"),
        (np.full((4, 4), 255.0), r"in \[0, 1\]"),
        (np.full((4, 4), -0.5), r"in \[0, 1\]"),
        (np.ones((4, 5)), "one shape"),
    ],
)
def test_masks_of_unclear_values_are_refused(mask, message):
    with pytest.raises(InputError, match=message):
        mask_metrics(mask, np.ones((4, 4)))


def test_a_mask_with_nan_is_refused():
    with pytest.raises(CheckFailedError, match="finite"):
        mask_metrics(np.full((4, 4), np.nan), np.ones((4, 4)))


def test_no_mask_no_result():
    assert MaskAccumulator().result() is None


def noisy_masks(count, rng):
    target_NHW = np.zeros((count, 20, 20), np.float32)
    target_NHW[:, 5:15, 5:15] = 1
    return np.where(
        rng.random(target_NHW.shape) < rng.uniform(0, 0.4, (count, 1, 1)),
        1 - target_NHW,
        target_NHW,
    ), target_NHW


def test_an_interval_holds_the_mean_of_all_images_as_often_as_it_says():
    rng = np.random.default_rng(0)
    everything = MaskAccumulator()
    everything.add(*noisy_masks(4000, rng))
    true = everything.result()
    hits = 0
    for _ in range(100):
        accumulator = MaskAccumulator()
        accumulator.add(*noisy_masks(40, rng))
        low, high = accumulator.intervals(0.9)["iou"]
        hits += low <= true.iou <= high
    assert 80 <= hits <= 98


def test_depth_intervals_are_over_maps_and_hold_the_metric():
    rng = np.random.default_rng(1)
    accumulator = DepthAccumulator()
    for scale in rng.uniform(0.7, 1.3, 30):
        target = rng.uniform(1, 9, (8, 8))
        accumulator.add(scale * target, target)
    accumulator.add(np.ones((8, 8)), np.zeros((8, 8)))  # nothing valid: no map
    result = accumulator.result()
    for name, (low, high) in accumulator.intervals().items():
        assert low <= getattr(result, name) <= high
        assert low < high or name in ("delta2", "delta3")


def test_fewer_than_two_images_have_no_interval():
    masks, depths = MaskAccumulator(), DepthAccumulator()
    assert masks.intervals() == depths.intervals() == {}
    masks.add(np.ones((4, 4)), np.ones((4, 4)))
    depths.add(np.ones((4, 4)), np.ones((4, 4)))
    assert masks.intervals() == depths.intervals() == {}
