"""Flicker on clips whose motion and noise are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from depthmask.accuracy import Guess
from depthmask.errors import CheckFailedError, InputError
from depthmask.flicker import FlickerMeter, flicker

HEIGHT, WIDTH, SIDE, STEP_PX = 144, 192, 64, 8


def texture(height, width, seed):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def moving_square(count):
    """Frames of a textured square that moves to the right over a still background, and its masks."""
    background, square = texture(HEIGHT, WIDTH, 0), texture(SIDE, SIDE, 1)
    for number in range(count):
        left = 8 + number * STEP_PX
        frame_HW3, mask_HW = background.copy(), np.zeros((HEIGHT, WIDTH), np.float32)
        frame_HW3[28 : 28 + SIDE, left : left + SIDE] = square
        mask_HW[28 : 28 + SIDE, left : left + SIDE] = 1
        yield frame_HW3, mask_HW


def measured(pairs):
    """Of frames with a mask each; the depth is 2 in the mask and 4 outside."""
    meter = FlickerMeter()
    for frame_HW3, mask_HW in pairs:
        meter.add(frame_HW3, Guess(mask_HW, 4 - 2 * mask_HW))
    return meter.result("clip")


def test_a_constant_prediction_of_a_static_clip_does_not_flicker():
    def predict(frame_HW3):
        size = frame_HW3.shape[:2]
        return Guess(np.full(size, 0.7, np.float32), np.full(size, 3, np.float32))

    found = flicker(predict, [texture(HEIGHT, WIDTH, 0)] * 4, "still")
    assert (found.data, found.frames, found.pairs, found.pairs_left_out) == ("still", 4, 3, 0)
    assert found.visible_share == pytest.approx(1, abs=0.02)
    for value in (found.mask, found.mask_unwarped, found.depth_in_mask, found.depth_frame):
        assert value == pytest.approx(0, abs=1e-6)


def test_a_mask_that_moves_with_its_object_hardly_flickers():
    found = measured(moving_square(5))
    # STEP_PX columns at either side of the square changes.
    assert found.mask_unwarped == pytest.approx(2 * STEP_PX * SIDE / (HEIGHT * WIDTH), rel=1e-5)
    assert found.mask < 0.25 * found.mask_unwarped
    assert found.depth_in_mask < 0.01
    assert found.depth_frame < 0.25 * found.mask_unwarped


def test_a_mask_that_stays_while_its_object_moves_flickers():
    pairs = list(moving_square(5))
    stuck = measured((frame_HW3, pairs[0][1]) for frame_HW3, _ in pairs)
    assert stuck.mask_unwarped == 0
    assert stuck.mask > 2 * measured(pairs).mask


def test_alternating_noise_has_a_known_figure():
    signs_HW = np.where(np.indices((HEIGHT, WIDTH)).sum(axis=0) % 2, 0.125, -0.125)
    frame_HW3 = texture(HEIGHT, WIDTH, 0)
    meter = FlickerMeter()
    for number in range(4):
        noise_HW = (signs_HW if number % 2 else -signs_HW).astype(np.float32)
        depth_HW = np.full((HEIGHT, WIDTH), 2.0 + number % 2, np.float32)
        meter.add(frame_HW3, Guess(0.75 + noise_HW, depth_HW))
    found = meter.result("noise")
    assert found.mask == pytest.approx(0.25, rel=0.01)
    assert found.mask_unwarped == pytest.approx(0.25)
    assert found.depth_frame == found.depth("relevance") == pytest.approx(1 / 3, rel=1e-3)
    assert found.depth_in_mask == found.depth("foreground") == pytest.approx(1 / 3, rel=1e-3)


def test_a_cut_and_a_change_of_size_are_left_out():
    frames = [texture(HEIGHT, WIDTH, 0)] * 2 + [texture(HEIGHT, WIDTH, 7)] * 2
    frames.append(texture(HEIGHT // 2, WIDTH, 7))
    found = measured((frame, np.ones(frame.shape[:2], np.float32)) for frame in frames)
    assert (found.frames, found.pairs, found.pairs_left_out) == (5, 2, 2)
    assert found.mask == 0


def test_without_a_pair_or_a_mask_there_is_no_figure():
    one = measured([(texture(HEIGHT, WIDTH, 0), np.ones((HEIGHT, WIDTH), np.float32))])
    assert (one.frames, one.pairs) == (1, 0)
    assert one.mask is one.mask_unwarped is one.depth_in_mask is one.depth_frame is None
    assert one.visible_share is None
    empty = measured([(texture(HEIGHT, WIDTH, 0), np.zeros((HEIGHT, WIDTH), np.float32))] * 2)
    assert (empty.mask, empty.depth_frame) == (0, 0)
    assert empty.depth_in_mask is None


def test_depths_of_zero_and_below_give_numbers():
    meter = FlickerMeter()
    for depth in (0.0, -1.0, 2.0):
        depth_HW = np.full((HEIGHT, WIDTH), depth, np.float32)
        meter.add(texture(HEIGHT, WIDTH, 0), Guess(np.ones((HEIGHT, WIDTH), np.float32), depth_HW))
    assert meter.result("zero").depth_frame == pytest.approx(0.5)  # no change, then all of it


def test_large_frames_are_shrunk():
    frame_HW3 = texture(600, 1600, 0)
    found = measured([(frame_HW3, np.ones((600, 1600), np.float32))] * 2)
    assert (found.pairs, found.mask) == (1, 0)


@pytest.mark.parametrize(
    ("frame_size", "map_size", "value", "error", "message"),
    [
        ((8, 32), (8, 32), 1.0, InputError, "16x16 or larger"),
        ((32, 32), (16, 32), 1.0, InputError, "must have its frame's size"),
        ((32, 32), (32, 32), np.nan, CheckFailedError, "mask must be finite"),
    ],
)
def test_what_cannot_be_measured_is_refused(frame_size, map_size, value, error, message):
    frame_HW3 = np.zeros((*frame_size, 3), np.uint8)
    map_HW = np.full(map_size, value, np.float32)
    with pytest.raises(error, match=message):
        FlickerMeter().add(frame_HW3, Guess(map_HW, map_HW))
