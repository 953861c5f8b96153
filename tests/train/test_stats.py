from __future__ import annotations

import numpy as np
import pytest

from depthmask.samples import LabelledSample
from depthmask.train.stats import data_statistics


def labelled(rng, height, width, **labels):
    image_HW3 = rng.integers(0, 256, (height, width, 3), np.uint8)
    return LabelledSample("x", image_HW3, **labels)


def test_statistics_are_those_of_all_pixels_at_once():
    rng = np.random.default_rng(0)
    samples = []
    for number in range(20):
        height, width = (5, 7) if number % 4 else (6, 9)
        depth_HW = rng.uniform(0.5, 9, (height, width)).astype(np.float32) + 100 * number
        depth_HW[0, : number % 3] = np.nan
        mask_HW = rng.integers(0, 256, (height, width), np.uint8)
        samples.append(labelled(rng, height, width, mask_HW=mask_HW, depth_m_HW=depth_HW))
    found = data_statistics(iter(samples), "m")
    assert found.count == found.masks == found.depths == 20
    assert found.sizes == {"5x7": 15, "6x9": 5}
    for channel in range(3):
        values = np.concatenate([one.image_HW3[:, :, channel].ravel() for one in samples]) / 255
        moments = found.image[channel]
        assert moments.mean == pytest.approx(values.mean(), rel=1e-13)
        assert moments.std == pytest.approx(values.std(), rel=1e-12)
        assert (moments.smallest, moments.largest) == (values.min(), values.max())
    masks = np.concatenate([one.mask_HW.ravel() for one in samples]) / 255
    assert found.mask.std == pytest.approx(masks.std(), rel=1e-12)
    depths = np.concatenate([one.depth_m_HW.ravel() for one in samples]).astype(np.float64)
    known = depths[np.isfinite(depths)]
    assert found.depth.mean == pytest.approx(known.mean(), rel=1e-13)
    assert found.depth.std == pytest.approx(known.std(), rel=1e-12)
    assert found.depth_missing_share == pytest.approx(1 - known.size / depths.size)


def test_labels_may_be_missing():
    rng = np.random.default_rng(0)
    seen = []
    found = data_statistics([labelled(rng, 4, 4)], "relative", seen.append)
    assert (found.masks, found.mask, found.depths, found.depth) == (0, None, 0, None)
    assert found.depth_missing_share is None
    assert found.depth_unit == "relative"
    assert seen == [1]


def test_a_constant_has_no_spread_however_many_pixels_it_has():
    grey_HW3 = np.full((300, 400, 3), 77, np.uint8)
    depth_HW = np.full((300, 400), 1e4 + 0.1, np.float32)
    samples = [LabelledSample("x", grey_HW3, depth_m_HW=depth_HW)] * 30
    found = data_statistics(samples)
    assert [moments.std for moments in found.image] == [0, 0, 0]
    assert found.image[0].mean == 77 / 255
    assert found.depth.std == 0


def test_depths_that_are_all_missing_have_no_moments():
    sample = LabelledSample(
        "x", np.zeros((2, 2, 3), np.uint8), depth_m_HW=np.full((2, 2), np.nan, np.float32)
    )
    found = data_statistics([sample])
    assert (found.depths, found.depth, found.depth_missing_share) == (1, None, 1.0)
