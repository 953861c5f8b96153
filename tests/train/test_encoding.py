from __future__ import annotations

import cv2
import numpy as np
import pytest

from depthmask.train.encoding import depth_scale, encode_sample
from depthmask.train.material import Sample


def stored(depth_HW, unit):
    image_HW3 = np.zeros((*depth_HW.shape, 3), np.uint8)
    content = encode_sample(Sample(image_HW3, None, depth_HW), unit)[".depth.png"]
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 300.0])
def test_one_far_pixel_does_not_take_the_steps_of_the_others(scale):
    """The reciprocal of a pixel that the teacher put almost at infinity."""
    depth_HW = np.linspace(2, 10, 100, dtype=np.float32).reshape(10, 10)
    depth_HW[0, 1] = np.nan
    depth_HW[9, 9] = 1e9
    values_HW = stored(np.float32(scale) * depth_HW, "relative")
    assert (values_HW[0, 1], values_HW[9, 9]) == (0, 65535)
    relative_HW = values_HW * depth_scale("relative") * 1000 * 2
    known_HW = np.isfinite(depth_HW) & (depth_HW < 20)
    np.testing.assert_allclose(relative_HW[known_HW], depth_HW[known_HW], atol=0.016)


@pytest.mark.parametrize("farthest", [1.5, 30.0, 999.0])
def test_a_relative_depth_up_to_a_thousand_times_the_nearest_is_scaled_by_its_largest(farthest):
    depth_HW = np.linspace(1, farthest, 64, dtype=np.float32).reshape(8, 8)
    values_HW = stored(depth_HW, "relative")
    np.testing.assert_array_equal(values_HW, np.rint(depth_HW / (float(depth_HW.max()) / 65535)))


def test_a_relative_depth_may_be_the_same_everywhere_or_missing():
    assert (stored(np.full((4, 4), 7, np.float32), "relative") == 65535).all()
    assert (stored(np.full((4, 4), np.nan, np.float32), "relative") == 0).all()
    assert (stored(np.zeros((4, 4), np.float32), "relative") == 1).all()


def test_metres_are_millimetres():
    depth_m_HW = np.array([[0.0004, 1.2345, 65.0, 70.0, np.nan]], np.float32)
    assert stored(depth_m_HW, "m").tolist() == [[1, 1234, 65000, 65535, 0]]
