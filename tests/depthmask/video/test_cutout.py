from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from depthmask.errors import InputError, UsageError
from depthmask.video.blending import blend, levels
from depthmask.video.cutout import Background, cut_out

RED, BLUE = (200, 30, 20), (10, 20, 220)


def half_and_half(edge_px=8):
    """The left half is a red subject, the right half a blue background; the mask is soft between them, and
    the edge's pixels are mixed by it, as a camera does.
    """
    mask_HW = np.clip((36 + edge_px / 2 - np.arange(72, dtype=np.float32)) / edge_px, 0, 1)
    mask_HW = np.ascontiguousarray(np.broadcast_to(mask_HW, (48, 72)))
    share = mask_HW[:, :, None]
    frame_HW3 = np.rint(share * RED + (1 - share) * BLUE).astype(np.uint8)
    return frame_HW3, mask_HW


def test_blend_is_the_formula_to_one_level():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 40, 50, 3), np.uint8)
    share_HW = rng.integers(0, 256, (40, 50), np.uint8)
    share = share_HW[:, :, None] / 255
    expected = share * one + (1 - share) * other
    assert np.abs(blend(one, other, share_HW) - expected).max() <= 1
    assert np.array_equal(blend(one, other, np.full((40, 50), 255, np.uint8)), one)
    assert np.array_equal(blend(one, other, np.zeros((40, 50), np.uint8)), other)


def test_levels_round_and_hold():
    shares = np.array([[-1, 0, 0.5, 1, 3, 100 / 255]], np.float32)
    assert levels(shares).tolist() in ([[0, 0, 128, 255, 255, 100]], [[0, 0, 127, 255, 255, 100]])


def test_inside_is_the_subject_and_outside_the_background():
    frame_HW3, mask_HW = half_and_half()
    shown = cut_out(frame_HW3, mask_HW, Background((0, 255, 0)))
    assert shown[20, 5].tolist() == list(RED)
    assert shown[20, 66].tolist() == [0, 255, 0]


def test_soft_edge_has_no_fringe_of_the_old_background():
    frame_HW3, mask_HW = half_and_half()
    shown = cut_out(frame_HW3, mask_HW, Background((0, 255, 0)))
    share = mask_HW[:, :, None]
    ideal = share * RED + (1 - share) * (0, 255, 0)
    plain = share * frame_HW3 + (1 - share) * (0, 255, 0)
    edge = (mask_HW > 0.2) & (mask_HW < 0.8)
    assert np.abs(plain - ideal)[edge].max() > 40  # what is to be avoided: blue in the edge
    assert np.abs(shown - ideal)[edge].max() < 20


def test_transparent_has_the_mask_as_its_alpha():
    frame_HW3, mask_HW = half_and_half()
    shown = cut_out(frame_HW3, mask_HW, None)
    assert shown.shape == (48, 72, 4)
    assert np.abs(shown[:, :, 3] / 255 - mask_HW).max() <= 0.5 / 255 + 1e-6
    assert np.abs(shown[20, :40, :3].astype(int) - RED).max() < 25  # the frame there: 120


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_mask_that_is_empty_or_full(level):
    frame_HW3, mask_HW = half_and_half()
    shown = cut_out(frame_HW3, np.full_like(mask_HW, level), Background((7, 8, 9)))
    assert np.array_equal(shown, frame_HW3 if level else np.full_like(frame_HW3, (7, 8, 9)))


def test_picture_fills_the_frame_and_keeps_its_proportions(tmp_path):
    picture = np.zeros((40, 200, 3), np.uint8)
    picture[:, 80:120] = 255  # a white square in the middle
    Image.fromarray(picture).save(tmp_path / "wide.png")
    shown = Background.parse(str(tmp_path / "wide.png")).of_size(80, 160)
    assert shown.shape == (80, 160, 3)
    white = shown[40, :, 0] > 127
    assert np.flatnonzero(white)[[0, -1]].tolist() == [40, 119]


@pytest.mark.parametrize(("text", "colour"), [("#00ff00", (0, 255, 0)), ("#0A141E", (10, 20, 30))])
def test_colour(text, colour):
    assert Background.parse(text).of_size(2, 3)[1, 2].tolist() == list(colour)


def test_bad_backgrounds(tmp_path):
    assert Background.parse("transparent") is None
    for text in ("#12345", "#gggggg", "#"):
        with pytest.raises(UsageError, match="six hexadecimal digits"):
            Background.parse(text)
    (tmp_path / "notes.jpg").write_text("no picture")
    for text in (str(tmp_path / "notes.jpg"), "no-such.jpg", "green"):
        with pytest.raises(InputError, match=r"must be .*image"):
            Background.parse(text)
