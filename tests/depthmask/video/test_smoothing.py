from __future__ import annotations

import math

import numpy as np
import pytest

from depthmask.pipeline import Prediction
from depthmask.video.frame import Frame
from depthmask.video.smoothing import SmoothedSink, Smoother

GREY = np.full((48, 64, 3), 100, np.uint8)


def maps(level):
    ones = np.ones((48, 64), np.float32)
    return Prediction(np.float32(level) * ones, np.float32(10 * level) * ones, {"inference": 2.0})


def frame(time_s, image_HW3=GREY):
    return Frame(image_HW3, "f", 0, time_s)


def test_first_frame_is_itself_and_a_step_comes_by_the_time_constant():
    smooth = Smoother(100)
    assert smooth(frame(0.0), maps(0)).mask_HW.max() == 0
    shown = smooth(frame(0.1), maps(1))
    assert np.allclose(shown.mask_HW, 1 - math.exp(-1), atol=1e-6)
    assert np.allclose(shown.depth_HW, 10 * (1 - math.exp(-1)), atol=1e-5)
    assert set(shown.timings_ms) == {"inference", "smooth"}


def test_frame_rate_does_not_matter():
    ends = []
    for count in (2, 10):
        smooth = Smoother(200)
        smooth(frame(0.0), maps(0))
        for index in range(1, count + 1):
            shown = smooth(frame(0.4 * index / count), maps(1))
        ends.append(float(shown.mask_HW[5, 5]))
    assert ends[0] == pytest.approx(ends[1], abs=1e-5)


def test_steady_change_is_late_by_the_time_constant():
    smooth = Smoother(100)
    for index in range(1000):
        shown = smooth(frame(index / 1000), maps(index / 1000))
    assert shown.mask_HW[0, 0] == pytest.approx(0.999 - 0.1, abs=1e-3)


def test_new_value_wins_where_the_picture_changed():
    moved = GREY.copy()
    moved[:, :32] = 200
    smooth = Smoother(1000)
    smooth(frame(0.0), maps(0))
    shown = smooth(frame(0.01, moved), maps(1)).mask_HW
    assert np.allclose(shown[:, :34], 1)
    assert (shown[:, 44:] < 0.02).all()


def test_noise_of_a_camera_is_no_change():
    rng = np.random.default_rng(0)
    noisy = [np.clip(GREY + rng.normal(0, 4, GREY.shape), 0, 255).astype(np.uint8) for _ in "ab"]
    smooth = Smoother(1000)
    smooth(frame(0.0, noisy[0]), maps(0))
    shown = smooth(frame(0.01, noisy[1]), maps(1)).mask_HW
    assert np.median(shown) < 0.3


@pytest.mark.parametrize(
    "second", [frame(-1.0), frame(None), frame(0.1, np.full((20, 20, 3), 100, np.uint8))]
)
def test_it_begins_anew(second):
    smooth = Smoother(1000)
    smooth(frame(0.0), maps(0))
    size = second.image_HW3.shape[:2]
    new = Prediction(np.ones(size, np.float32), np.ones(size, np.float32))
    assert (smooth(second, new).mask_HW == 1).all()


def test_predictions_are_not_changed():
    smooth, first, second = Smoother(1000), maps(0), maps(1)
    smooth(frame(0.0), first)
    smooth(frame(0.01), second)
    assert first.mask_HW.max() == 0
    assert second.mask_HW.min() == 1


def test_time_constant_must_be_more_than_nothing():
    for value in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be more than 0"):
            Smoother(value)


class Plain:
    """A sink that remembers."""

    is_open = True

    def __init__(self):
        self.seen = []

    def write(self, frame, prediction):
        self.seen.append(float(prediction.mask_HW[0, 0]))

    def __enter__(self):
        self.seen.append("in")
        return self

    def __exit__(self, *_):
        self.seen.append("out")


class Staged(Plain):
    def draw(self, frame, prediction):
        return float(prediction.mask_HW[0, 0])

    def put(self, drawn):
        self.seen.append(drawn)

    def idle(self):
        self.seen.append("idle")


@pytest.mark.parametrize("kind", [Plain, Staged])
def test_sink_gets_the_average(kind):
    inner = kind()
    with SmoothedSink(inner, 100) as sink:
        sink.write(frame(0.0), maps(0))
        sink.write(frame(0.1), maps(1))
        sink.idle()
        assert sink.is_open
    assert inner.seen[:2] == ["in", 0.0]
    assert inner.seen[2] == pytest.approx(1 - math.exp(-1))
    assert inner.seen[3:] == (["idle"] if kind is Staged else []) + ["out"]
