from __future__ import annotations

import cv2
import numpy as np
import pytest

from depthmask.bench import compose_speed
from depthmask.bench.compose_speed import straightforward
from depthmask.train.compose import compose
from depthmask.train.material import load_material
from depthmask.train.recipe import GridRecipe

GRID = GridRecipe(
    canvas_px=64,
    backgrounds=2,
    foregrounds=2,
    positions=3,
    foreground_px=(24, 40),
    offset_px=(0, 20),
    depth="none",
)


@pytest.fixture
def assets_folder(tmp_path):
    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 4), np.uint8)
    for role in ("foregrounds", "backgrounds"):
        (tmp_path / role).mkdir()
        for number in range(2):
            image = cv2.resize(coarse[number:], (160, 120), interpolation=cv2.INTER_CUBIC)
            if role == "foregrounds":
                shape = np.zeros((120, 160), np.uint8)
                cv2.ellipse(shape, (80, 60), (70, 50), 0, 0, 360, 255, -1)
                image[:, :, 3] = cv2.GaussianBlur(shape, (0, 0), 2)
            cv2.imwrite(
                str(tmp_path / role / f"{number}.png"),
                image if role == "foregrounds" else image[:, :, :3],
            )
    return tmp_path


def test_both_ways_make_the_same_samples(assets_folder):
    """But for resizing in two steps instead of one."""
    assets = load_material(GRID, assets_folder)
    backgrounds, foregrounds = (
        sorted((assets_folder / role).glob("*")) for role in ("backgrounds", "foregrounds")
    )
    for index in range(GRID.count):
        image_HW3, mask_HW = straightforward(GRID, backgrounds, foregrounds, index)
        sample = compose(GRID, assets, index)
        assert np.abs(image_HW3.astype(int) - sample.image_HW3).mean() < 2
        assert (mask_HW != sample.mask_HW).mean() < 0.02


def test_a_measurement_has_all_its_figures(assets_folder, monkeypatch):
    monkeypatch.setattr(compose_speed, "read_recipe", lambda name: GRID)
    monkeypatch.setattr(compose_speed, "_ROUNDS", 1)
    found = compose_speed.measure(assets_folder, 4, [])
    assert found.enumerated == 24
    assert min(found.straightforward_ms, found.grid_ms, found.stage_ms, found.encode_all_ms) > 0
    assert "listed and checked 24 samples" in compose_speed._table(found)
