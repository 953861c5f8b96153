from __future__ import annotations

import hashlib
import json

import cv2
import msgspec
import numpy as np
import pytest

from depthmask.errors import InputError, OutputError, UsageError
from depthmask.train.compose import Assets, compose
from depthmask.train.materialise import contact_sheet, materialise, write_contact_sheet


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


class StoppedError(Exception):
    pass


def stop_after(samples):
    def progress(done, total):
        if done == samples:
            raise StoppedError

    return progress


@pytest.fixture(scope="module")
def whole(assets, tmp_path_factory):
    from depthmask.train.recipe import StageRecipe

    out = tmp_path_factory.mktemp("whole") / "data"
    materialise(StageRecipe(seed=3, canvas_px=64), assets, out, 5)
    return out


def test_the_folder_holds_what_compose_makes(whole, recipe, assets):
    names = [
        f"{index:06d}{suffix}"
        for index in range(5)
        for suffix in (".depth.png", ".jpg", ".mask.png")
    ]
    assert sorted(path.name for path in whole.iterdir()) == sorted([*names, "dataset.json"])
    for index in range(5):
        sample = compose(recipe, assets, index)
        mask = cv2.imread(str(whole / f"{index:06d}.mask.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, sample.mask_HW)
        depth = cv2.imread(str(whole / f"{index:06d}.depth.png"), cv2.IMREAD_UNCHANGED)
        assert depth.dtype == np.uint16
        np.testing.assert_allclose(depth * 0.001, sample.depth_m_HW, atol=0.00051)
        image = cv2.imread(str(whole / f"{index:06d}.jpg"))[:, :, ::-1].astype(int)
        assert abs(image - sample.image_HW3).mean() < 8


def test_dataset_json_describes_it(whole, recipe):
    info = json.loads((whole / "dataset.json").read_text())
    assert (info["schema"], info["count"], info["depth_scale_m"]) == (1, 5, 0.001)
    assert info["recipe"] == msgspec.to_builtins(recipe)


def test_however_often_interrupted_it_has_the_same_bytes(whole, recipe, assets, tmp_path):
    out = tmp_path / "data"
    for samples in (1, 3):
        with pytest.raises(StoppedError):
            materialise(recipe, assets, out, 5, progress=stop_after(samples))
    first = (out / "000000.jpg").stat()
    (out / ".000003.jpg.abc").write_bytes(b"left by a kill")
    result = materialise(recipe, assets, out, 5)
    assert (result.count, result.made) == (5, 2)
    assert (out / "000000.jpg").stat().st_ino == first.st_ino
    assert digests(out) == digests(whole)


def test_a_sample_without_its_image_is_made_again(whole, recipe, assets, tmp_path):
    out = tmp_path / "data"
    materialise(recipe, assets, out, 5)
    (out / "000002.jpg").unlink()
    (out / "000002.mask.png").write_bytes(b"half")
    assert materialise(recipe, assets, out, 5).made == 1
    assert digests(out) == digests(whole)


def test_a_complete_one_stays(recipe, assets, tmp_path):
    materialise(recipe, assets, tmp_path / "data", 2)
    assert materialise(recipe, assets, tmp_path / "data", 2).made == 0


@pytest.mark.parametrize("differing", ["count", "recipe", "assets"])
def test_another_data_set_is_not_mixed_in(recipe, assets, tmp_path, differing):
    out = tmp_path / "data"
    materialise(recipe, assets, out, 2)
    before = digests(out)
    count = 3 if differing == "count" else 2
    if differing == "recipe":
        recipe = msgspec.structs.replace(recipe, seed=9)
    if differing == "assets":
        assets = Assets(assets.foregrounds[1:], assets.backgrounds)
    with pytest.raises(UsageError, match=f"of another {differing}"):
        materialise(recipe, assets, out, count)
    assert digests(out) == before
    assert materialise(recipe, assets, out, count, overwrite=True).made == count


def test_a_folder_with_something_else_is_refused(recipe, assets, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match="must be a new folder"):
        materialise(recipe, assets, tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_an_empty_folder_is_used(recipe, assets, tmp_path):
    assert materialise(recipe, assets, tmp_path, 1).made == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"schema": 2}'])
def test_a_damaged_description_is_an_input_error(recipe, assets, tmp_path, content):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(InputError, match=r"dataset\.json"):
        materialise(recipe, assets, tmp_path, 1)


def test_an_output_under_a_file_cannot_be_written(recipe, assets, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        materialise(recipe, assets, tmp_path / "file" / "data", 1)


def test_a_data_set_has_a_sample(recipe, assets, tmp_path):
    with pytest.raises(UsageError, match="1 sample or more"):
        materialise(recipe, assets, tmp_path / "data", 0)


def test_the_contact_sheet_shows_image_mask_and_depth(whole, recipe, assets):
    sheet_HW3 = contact_sheet(whole, columns=2)
    assert sheet_HW3.shape == (3 * 64, 2 * 3 * 64, 3)
    np.testing.assert_array_equal(sheet_HW3[:64, 64:128, 0], compose(recipe, assets, 0).mask_HW)


def test_a_contact_sheet_reads_as_data_sets_are_read(tmp_path):
    """PNG images, their own scale, missing labels, fewer samples than promised."""
    black_HW3 = np.zeros((4, 5, 3), np.uint8)
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), black_HW3)
    cv2.imwrite(str(tmp_path / "a.mask.png"), black_HW3[:, :, 0])
    depth_HW = np.full((4, 5), 5, np.uint16)
    depth_HW[0, 0] = 0
    cv2.imwrite(str(tmp_path / "a.depth.png"), depth_HW)
    (tmp_path / "dataset.json").write_text('{"schema": 1, "count": 3, "depth_scale_m": 0.1}')
    sheet_HW3 = contact_sheet(tmp_path)
    assert sheet_HW3.shape == (4, 2 * 3 * 5, 3)
    assert (sheet_HW3[0, 10].tolist(), sheet_HW3[1, 10].tolist()) == ([0] * 3, [255] * 3)
    assert not sheet_HW3[:, 15:].any()


def test_a_contact_sheet_that_cannot_be_written_is_an_output_error(whole, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_contact_sheet(whole, tmp_path / "none" / "sheet.png")


def test_a_contact_sheet_of_nothing_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="it holds none"):
        contact_sheet(tmp_path)
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(InputError, match="labelled samples"):
        contact_sheet(tmp_path)
