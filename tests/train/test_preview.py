from __future__ import annotations

import cv2
import numpy as np
import pytest

from depthmask.errors import InputError, OutputError
from depthmask.train.compose import compose
from depthmask.train.material import Sample
from depthmask.train.materialise import materialise
from depthmask.train.preview import contact_sheet, sheet_of_data, sheet_of_recipe, write_sheet


@pytest.mark.parametrize("form", ["shards", "files"])
def test_the_contact_sheet_shows_image_mask_and_depth(recipe, assets, tmp_path, form):
    materialise(recipe, assets, tmp_path / "data", 5, form=form)
    sheet_HW3 = sheet_of_data(tmp_path / "data", columns=2)
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
    sheet_HW3 = sheet_of_data(tmp_path)
    assert sheet_HW3.shape == (4, 2 * 3 * 5, 3)
    assert (sheet_HW3[0, 10].tolist(), sheet_HW3[1, 10].tolist()) == ([0] * 3, [255] * 3)
    assert not sheet_HW3[:, 15:].any()


def test_a_relative_depth_is_shown_on_a_scale_of_its_image():
    depth_HW = np.geomspace(1, 50, 10 * 10, dtype=np.float32).reshape(10, 10)
    depth_HW[9, 9] = np.nan
    image_HW3 = np.zeros((10, 10, 3), np.uint8)
    shown = [
        contact_sheet([Sample(image_HW3, None, scale * depth_HW)], "relative")[:, 20:, 0]
        for scale in (np.float32(1), np.float32(64))
    ]
    np.testing.assert_array_equal(*shown)
    assert (shown[0][0, 0], shown[0][9, 9]) == (255, 0)
    assert (np.diff(shown[0].ravel()[:-1].astype(int)) <= 0).all()


def test_a_grid_is_shown_from_its_first_sample_to_its_last(grid, assets):
    sheet_HW3 = sheet_of_recipe(grid, assets)
    assert sheet_HW3.shape == (6 * 64, 4 * 3 * 64, 3)
    for index, (row, column) in ((0, (0, 0)), (grid.count - 1, (5, 3))):
        box = (slice(64 * row, 64 * row + 64), slice(192 * column, 192 * column + 64))
        np.testing.assert_array_equal(sheet_HW3[box], compose(grid, assets, index).image_HW3)


def test_a_recipe_without_end_is_shown_from_its_first(recipe, assets):
    sheet_HW3 = sheet_of_recipe(recipe, assets)
    np.testing.assert_array_equal(sheet_HW3[:64, 192:256], compose(recipe, assets, 1).image_HW3)


def test_a_sheet_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_sheet(np.zeros((4, 4, 3), np.uint8), tmp_path / "none" / "sheet.png")


def test_a_written_sheet_is_the_sheet(tmp_path):
    sheet_HW3 = np.random.default_rng(0).integers(0, 255, (5, 6, 3), np.uint8)
    write_sheet(sheet_HW3, tmp_path / "sheet.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "sheet.png"))[:, :, ::-1], sheet_HW3)


def test_a_contact_sheet_of_nothing_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="it holds none"):
        sheet_of_data(tmp_path)
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(InputError, match="labelled samples"):
        sheet_of_data(tmp_path)
    with pytest.raises(InputError, match="must have a sample"):
        contact_sheet([])
