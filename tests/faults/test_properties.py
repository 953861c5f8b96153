"""What holds for all inputs: geometry, metrics, names, sizes, manifests."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hostile import read_manifest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from mutate import mutate_json

from depthmask.errors import DepthmaskError, InputError, UsageError
from depthmask.frames import Resolution, resize_weights, to_frame
from depthmask.image_size import size_px
from depthmask.metrics import depth_metrics, mask_metrics
from depthmask.orientation import exif_orientation, upright
from depthmask.untrusted import require_plain_name, short

SIDES = st.integers(1, 300)
MAPS = arrays.arrays(np.float32, (9, 7), elements=st.floats(0, 1, width=32))
LINES = st.text("a \n\r\0\u2028é\x1b")
DEPTHS = arrays.arrays(np.float32, (6, 5), elements=st.floats(0.125, 50, width=32))
quickly = settings(max_examples=60, deadline=None)


@quickly
@given(SIDES, SIDES)
def test_resizing_keeps_what_is_even_and_mirrors(size_in, size_out):
    weights = resize_weights(size_in, size_out)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(weights, weights[::-1, ::-1], atol=2e-4)


@quickly
@given(MAPS, SIDES, SIDES)
def test_a_map_at_the_frames_size_stays_in_its_range(map_HW, height, width):
    resized = to_frame(map_HW, height, width)
    assert resized.shape == (height, width)
    assert map_HW.min() - 1e-6 <= resized.min() <= resized.max() <= map_HW.max() + 1e-6


@quickly
@given(st.floats(-1e6, 1e6, width=32), SIDES, SIDES, SIDES, SIDES)
def test_a_map_of_one_value_keeps_it(value, height, width, height_out, width_out):
    resized = to_frame(np.full((height, width), value, np.float32), height_out, width_out)
    np.testing.assert_allclose(resized, value, rtol=1e-6)


@quickly
@given(MAPS, MAPS)
def test_masks_are_judged_within_bounds(found, right):
    result = mask_metrics(found, right)
    for name in ("iou", "dice", "mae", "f_beta"):
        value = getattr(result, name)
        assert np.isnan(value) or -1e-9 <= value <= 1 + 1e-9, name
    binary = (right > 0.5).astype(np.float32)
    perfect = mask_metrics(binary, binary)
    assert perfect.mae == 0
    assert np.isnan(perfect.iou) or perfect.iou == 1


@quickly
@given(DEPTHS, DEPTHS)
def test_depths_are_judged_within_bounds(found, right):
    result = depth_metrics(found, right)
    assert result.rmse == pytest.approx(result.mse**0.5)
    assert result.mae <= result.rmse + 1e-6
    assert 0 <= result.delta1 <= result.delta2 <= result.delta3 <= 1
    perfect = depth_metrics(right, right)
    assert (perfect.mse, perfect.abs_rel, perfect.delta1) == (0, 0, 1)


@quickly
@given(st.integers(32, 4096), st.integers(32, 4096))
def test_resolutions_are_read_as_they_are_written(height, width):
    resolution = Resolution(height, width)
    assert Resolution.parse(str(resolution)) == resolution


@quickly
@given(st.text("0123456789xX ,-.+²a\n\0", max_size=20))
def test_any_text_is_a_resolution_or_an_error_of_ours(text):
    with suppress(UsageError):
        assert Resolution.parse(text).height >= 32


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text("ab/.\\ \n\0é\u202e", max_size=12), st.text("./\\ab~", max_size=8)))
def test_a_plain_name_never_leaves_its_folder(name):
    folder = Path("/folder/of/a/bundle")
    try:
        require_plain_name(name, folder)
    except InputError:
        return
    inside = (folder / name).resolve()
    assert inside != folder
    assert inside.is_relative_to(folder)
    assert str(inside) == f"{folder}/{name}"


@quickly
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0",
                                                b"MM\0*", b"RIFF\0\0\0\0WEBP"]))  # fmt: skip
def test_any_header_gives_a_size_or_none(content, magic):
    size = size_px(magic + content)
    assert size is None or min(size) >= 0
    assert 1 <= exif_orientation(magic + content) <= 8


@quickly
@given(st.integers(1, 8), st.integers(1, 9), st.integers(1, 9))
def test_turning_upright_keeps_every_pixel(orientation, height, width):
    image = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    turned = upright(image, orientation)
    assert turned.shape == ((width, height) if orientation >= 5 else (height, width))
    assert sorted(turned.ravel()) == sorted(image.ravel())


@quickly
@given(st.one_of(LINES, st.binary(), st.integers(), st.lists(LINES)))
def test_what_a_file_says_is_shown_on_one_line(value):
    text = short(value)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 163
    assert "\n" not in str(DepthmaskError(f"got {value!r}\n{value!r}"))


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_manifest_is_never_taken_for_the_exported_one(bundle_path, seed):
    from depthmask.bundle import open_bundle

    path = bundle_path / "manifest.json"
    before = read_manifest(bundle_path)
    changed = mutate_json(random.Random(seed), path.read_bytes())
    if json.loads(changed) != before:
        path.write_bytes(changed)
        with pytest.raises(InputError):
            open_bundle(bundle_path, check_files=False)
