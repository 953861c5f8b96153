from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from depthmask.accuracy import (
    Guess,
    accuracy,
    baseline,
    centre_prior,
    judged_depth,
    lower_is_nearer,
)
from depthmask.errors import CheckFailedError, InputError, UsageError
from depthmask.frames import write_png
from depthmask.samples import open_samples

SIZE = 32


def write_sample(folder, index, *, mask=True, depth=True):
    image = np.full((SIZE, SIZE, 3), index, np.uint8)
    write_png(folder / f"{index:02}.png", image)
    mask_HW, depth_HW = true_maps(index)
    if mask:
        write_png(folder / f"{index:02}.mask.png", mask_HW)
    if depth:
        write_png(folder / f"{index:02}.depth.png", depth_HW)


def true_maps(index):
    mask_HW = np.zeros((SIZE, SIZE), np.uint8)
    mask_HW[8:24, index : index + 12] = 255
    depth_HW = np.full((SIZE, SIZE), 4000, np.uint16)
    depth_HW[mask_HW > 0] = 2000 + 100 * index
    return mask_HW, depth_HW


def oracle(frame_HW3):
    """Knows the truth by the frame's colour."""
    mask_HW, depth_HW = true_maps(int(frame_HW3[0, 0, 0]))
    return Guess((mask_HW / 255).astype(np.float32), depth_HW.astype(np.float32) / 1000)


def half_scale(frame_HW3):
    guess = oracle(frame_HW3)
    return Guess(guess.mask_HW, guess.depth_HW / 2)


@pytest.fixture
def samples(tmp_path):
    for index in range(1, 5):
        write_sample(tmp_path, index)
    description = {"schema": 1, "count": 4, "depth_scale_m": 0.001}
    (tmp_path / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return open_samples(tmp_path)


def test_the_truth_is_perfect(samples):
    result = accuracy(oracle, samples)
    assert (result.count, result.mask_count, result.data) == (4, 4, samples.name)
    assert (result.mask.iou, result.mask.boundary_iou, result.mask.mae) == (1, 1, 0)
    assert result.mask_share == pytest.approx(16 * 12 / SIZE**2)
    assert result.depth_in_mask.unaligned.pixels == 4 * 16 * 12
    assert result.depth_frame.unaligned.pixels == 4 * SIZE**2
    for part in (result.depth_in_mask, result.depth_frame):
        assert part.unaligned.delta1 == 1
        assert part.unaligned.rmse == pytest.approx(0, abs=1e-6)


def test_relative_depth_has_no_unaligned_figures(samples):
    described = json.loads((samples.folder / "dataset.json").read_text(encoding="utf-8"))
    described["depth_unit"] = "relative"
    (samples.folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    result = accuracy(half_scale, open_samples(samples.folder))
    for part in (result.depth_in_mask, result.depth_frame):
        assert part.unaligned is None
        assert part.median_scaled.delta1 == 1


def test_median_scaling_forgives_the_scale_only(samples):
    result = accuracy(half_scale, samples)
    for part in (result.depth_in_mask, result.depth_frame):
        assert part.unaligned.delta1 == 0
        assert part.unaligned.abs_rel == pytest.approx(0.5)
        assert part.median_scaled.delta1 == 1
        assert part.median_scaled.abs_rel == pytest.approx(0, abs=1e-6)


def test_limit_and_progress(samples):
    seen = []
    result = accuracy(oracle, samples, limit=2, progress=lambda *step: seen.append(step))
    assert result.count == 2
    assert seen == [(1, 2), (2, 2)]
    assert accuracy(oracle, samples, limit=99).count == 4


def test_a_limit_below_one_is_refused(samples):
    with pytest.raises(UsageError, match="1 or more images, but got 0"):
        accuracy(oracle, samples, limit=0)


def test_parts_without_labels_are_none_and_the_result_is_json(tmp_path):
    write_sample(tmp_path, 1, depth=False)
    write_sample(tmp_path, 2, mask=False, depth=False)
    result = accuracy(oracle, open_samples(tmp_path))
    assert (result.depth_in_mask, result.depth_frame) == (None, None)
    assert (result.count, result.mask_count) == (2, 1)
    assert json.loads(msgspec.json.encode(result))["mask"]["iou"] == 1


def test_photographs_alone_cannot_be_measured(tmp_path):
    write_sample(tmp_path, 1, mask=False, depth=False)
    with pytest.raises(InputError, match="must have masks"):
        accuracy(oracle, open_samples(tmp_path))


def test_a_faint_mask_counts_as_empty(samples):
    faint_HW = np.zeros((SIZE, SIZE), np.uint8)
    faint_HW[0, 0] = 1
    write_png(samples.folder / "01.mask.png", faint_HW)
    result = accuracy(
        lambda frame: Guess(np.zeros((SIZE, SIZE), np.float32), oracle(frame).depth_HW),
        samples,
        limit=1,
    )
    assert result.mask.iou == 1
    assert result.depth_in_mask is None


def test_a_prediction_with_nan_is_refused(tmp_path):
    write_sample(tmp_path, 1, mask=False, depth=False)
    write_sample(tmp_path, 2, depth=False)
    nan_HW = np.full((SIZE, SIZE), np.nan, np.float32)
    with pytest.raises(CheckFailedError, match="01 holds NaN"):
        accuracy(lambda _: Guess(nan_HW, nan_HW), open_samples(tmp_path))


def test_a_prediction_of_another_size_is_refused(samples):
    small_HW = np.ones((4, 4), np.float32)
    with pytest.raises(InputError, match="one shape"):
        accuracy(lambda _: Guess(small_HW, small_HW), samples)


def test_the_baseline_answers_without_looking():
    guess = baseline(np.zeros((40, 60, 3), np.uint8))
    other = baseline(np.full((40, 60, 3), 200, np.uint8))
    np.testing.assert_array_equal(guess.mask_HW, other.mask_HW)
    np.testing.assert_array_equal(guess.depth_HW, other.depth_HW)


def test_baselines_are_what_they_say():
    mask_HW = centre_prior(40, 60)
    assert mask_HW.shape == (40, 60)
    assert mask_HW[20, 30] == 1
    assert mask_HW[0, 0] == 0
    assert mask_HW.mean() == pytest.approx(np.pi / 16, abs=0.01)
    depth_HW = lower_is_nearer(40, 60)
    assert depth_HW.shape == (40, 60)
    assert (np.diff(depth_HW, axis=0) <= 0).all()
    assert depth_HW[0, 0] == 8
    assert depth_HW[-1, 0] < 3


def test_a_kind_is_judged_by_its_own_region(tmp_path):
    write_sample(tmp_path, 0)
    (tmp_path / "dataset.json").write_text('{"schema": 1, "count": 1}', encoding="utf-8")
    result = accuracy(oracle, open_samples(tmp_path))
    assert judged_depth(result, "foreground") is result.depth_in_mask is not None
    assert judged_depth(result, "relevance") is result.depth_frame is not None
    # Never the other region's in its place.
    assert judged_depth(msgspec.structs.replace(result, depth_in_mask=None), "foreground") is None


def test_every_metric_has_its_interval(samples):
    result = accuracy(half_scale, samples)
    assert {name.split(".")[0] for name in result.intervals} == {
        "mask",
        "depth_in_mask",
        "depth_frame",
    }
    assert result.intervals["mask.iou"] == (1, 1)
    low, high = result.intervals["depth_frame.unaligned.rmse"]
    assert low <= result.depth_frame.unaligned.rmse <= high
    assert accuracy(half_scale, samples, limit=1).intervals == {}
    relative = msgspec.json.decode(msgspec.json.encode(result))
    assert relative["intervals"]["mask.iou"] == [1, 1]
