from __future__ import annotations

import numpy as np
import pytest

from depthmask.train.stage import Stage, relief_HW

STAGE = Stage(camera_height_m=1.5, focal=1.0, horizon=0.4, wall_depth_m=10.0)


def test_ground_depth_is_the_formula_at_row_centres():
    depth_m_HW = STAGE.depth_m_HW(100, 7)
    assert depth_m_HW.shape == (100, 7)
    assert depth_m_HW.dtype == np.float32
    # Row 89's centre is at 0.895: 1.0 * 1.5 / (0.895 - 0.4).
    np.testing.assert_allclose(depth_m_HW[89], 1.5 / 0.495, rtol=1e-6)


def test_everything_above_the_horizon_is_the_wall():
    depth_m_HW = STAGE.depth_m_HW(100, 3)
    assert (depth_m_HW[:40] == 10.0).all()
    assert depth_m_HW.max() == 10.0
    assert (np.diff(depth_m_HW[:, 0]) <= 0).all()


@pytest.mark.parametrize("depth_m", [2.0, 5.0, 9.0])
def test_an_object_touches_the_ground_where_the_ground_has_its_depth(depth_m):
    row = STAGE.foot_row(depth_m)
    assert STAGE.focal * STAGE.camera_height_m / (row - STAGE.horizon) == pytest.approx(depth_m)


def test_sampled_stages_are_plausible_and_follow_from_the_generator():
    stages = [Stage.sample(np.random.default_rng(seed)) for seed in range(50)]
    assert stages == [Stage.sample(np.random.default_rng(seed)) for seed in range(50)]
    for stage in stages:
        assert 1.2 <= stage.camera_height_m <= 1.7
        assert 4.0 <= stage.wall_depth_m <= 15.0
        assert np.isfinite(stage.depth_m_HW(32, 32)).all()


def test_relief_is_0_outside_and_1_at_the_thickest_part():
    alpha_HW = np.zeros((21, 31), np.uint8)
    alpha_HW[3:18, 3:28] = 255
    relief = relief_HW(alpha_HW)
    assert relief.dtype == np.float32
    assert (relief[alpha_HW == 0] == 0).all()
    assert relief.max() == 1
    assert relief[10, 15] == 1


def test_relief_of_nothing_is_zero():
    assert (relief_HW(np.zeros((5, 5), np.uint8)) == 0).all()
