from __future__ import annotations

import numpy as np

from depthmask.train.nearness import nearness


def test_it_falls_evenly_with_the_logarithm_and_stays_within_its_ends():
    depth_HW = np.array([[0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 99.0]], np.float32)
    np.testing.assert_allclose(
        nearness(depth_HW, 1.0, 16.0), [[1, 1, 0.75, 0.5, 0.25, 0, 0]], atol=1e-6
    )


def test_what_is_missing_stays_missing():
    assert np.isnan(nearness(np.array([[np.nan, 2.0]], np.float32), 1, 3)).tolist() == [
        [True, False]
    ]


def test_one_depth_everywhere_is_near():
    assert (nearness(np.full((2, 2), 3, np.float32), 3.0, 3.0) == 1).all()
