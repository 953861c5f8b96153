"""Small training material, made here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from depthmask.train.material import Assets, load_assets, split_of
from depthmask.train.recipe import GridRecipe, StageRecipe


def write_assets(folder: Path, *, foregrounds: int = 4, backgrounds: int = 3) -> Path:
    """RGBA ellipses and smooth noise; groups of two pictures, of which some are of the test split."""
    rng = np.random.default_rng(0)
    entries = []
    for role, count in (("foregrounds", foregrounds), ("backgrounds", backgrounds)):
        (folder / role).mkdir(parents=True)
        for group in _groups(role, count):
            for view in range(2):
                suffix = "png" if role == "foregrounds" else "jpg"
                file = f"{role}/{group}_{view}.{suffix}"
                image = _ellipse(rng) if role == "foregrounds" else _noise(rng)
                cv2.imwrite(str(folder / file), image)
                entries.append({"file": file, "group": group})
    (folder / "assets.json").write_text(json.dumps(entries))
    return folder


def _groups(role: str, count: int) -> list[str]:
    """`count` groups of the train split, and one of the test split."""
    names = [f"{role}-{number}" for number in range(200)]
    train = [name for name in names if split_of(name) == "train"]
    return [*train[:count], next(name for name in names if split_of(name) == "test")]


def _ellipse(rng: np.random.Generator) -> np.ndarray:
    height, width = rng.integers(40, 90, 2).tolist()
    image_HW4 = np.zeros((height, width, 4), np.uint8)
    centre, axes = (width // 2, height // 2), (width // 2 - 3, height // 2 - 3)
    colour = (*rng.integers(0, 255, 3).tolist(), 255)
    cv2.ellipse(image_HW4, centre, axes, 0, 0, 360, colour, -1)
    return cv2.GaussianBlur(image_HW4, (0, 0), 1.0)


def _noise(rng: np.random.Generator) -> np.ndarray:
    coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """At these sizes a second thread only waits, and on a busy machine it waits for long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def assets_folder(tmp_path_factory) -> Path:
    return write_assets(tmp_path_factory.mktemp("assets") / "assets")


@pytest.fixture(scope="session")
def assets(assets_folder) -> Assets:
    return load_assets(assets_folder, "train")


@pytest.fixture
def portable_assets(tmp_path) -> Iterator[Assets]:
    """The same pixels on every CPU: while it is in use OpenCV does without IPP, which rounds to suit."""
    used = cv2.ipp.useIPP()
    cv2.ipp.setUseIPP(False)
    yield load_assets(write_assets(tmp_path / "assets"), "train")
    cv2.ipp.setUseIPP(used)


@pytest.fixture
def recipe() -> StageRecipe:
    return StageRecipe(seed=3, canvas_px=64)


@pytest.fixture
def grid() -> GridRecipe:
    """72 samples."""
    return GridRecipe(
        seed=5,
        canvas_px=64,
        backgrounds=3,
        foregrounds=4,
        positions=3,
        foreground_px=(20, 40),
        offset_px=(0, 24),
    )
