from __future__ import annotations

import numpy as np

from depthmask.pipeline import Prediction
from depthmask.video.skipping import SkippingIdentical, identical


def counting():
    calls = []

    def predict(frame_HW3):
        calls.append(frame_HW3)
        level = np.full(frame_HW3.shape[:2], len(calls), np.float32)
        return Prediction(level, level, {"inference": 1.0})

    return predict, calls


def test_equal_frames_are_predicted_once():
    predict, calls = counting()
    skipping = SkippingIdentical(predict)
    frames = [np.full((6, 8, 3), level, np.uint8) for level in (1, 1, 2, 2, 2, 1)]
    shown = [skipping(frame_HW3) for frame_HW3 in frames]
    assert [prediction.mask_HW[0, 0] for prediction in shown] == [1, 1, 2, 2, 2, 3]
    assert len(calls) == 3
    assert skipping.skipped == 3
    assert "inference" in shown[0].timings_ms
    assert "inference" not in shown[1].timings_ms


def test_one_level_in_one_pixel_is_a_change():
    predict, calls = counting()
    skipping = SkippingIdentical(predict)
    frame_HW3 = np.random.default_rng(0).integers(0, 255, (33, 45, 3), np.uint8)
    for row, column, channel in ((0, 0, 0), (16, 20, 1), (32, 44, 2)):
        skipping(frame_HW3)
        frame_HW3 = frame_HW3.copy()
        frame_HW3[row, column, channel] ^= 1
        skipping(frame_HW3)
    assert skipping.skipped == 2
    assert len(calls) == 4


def test_size_matters():
    zeros = np.zeros((4, 6, 3), np.uint8)
    assert identical(zeros, zeros.copy())
    assert not identical(zeros, np.zeros((6, 4, 3), np.uint8))
