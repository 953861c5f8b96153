"""What a user may give `dmx export` that cannot be: one line, the right exit code, nothing written."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_networks
from PIL import Image

from depthmask.chain import MaskDepthChain
from depthmask.export import export_chain
from depthmask.export.budget import GraphRunner
from depthmask.export.int8 import open_calibration
from depthmask.frames import Normalisation, Resolution
from depthmask.samples import open_samples

TINY = (
    "--mask", "tiny_networks:TinyMask", "--depth", "tiny_networks:TinyDepth", "--resolution", "32"
)  # fmt: skip


@pytest.fixture
def refused(dmx_inside, tmp_path):
    """Export to `tmp_path / out`; gives the exit code and the one line."""

    def run(*options, out=None):
        code, stdout, err = dmx_inside("export", *TINY, *options, "--out", out or tmp_path / "out")
        assert (stdout, err.count("\n")) == ("", 1), err
        assert err.startswith("error: ")
        assert not (tmp_path / "out").exists()
        return code, err

    return run


@pytest.mark.parametrize("wrong", ["iou=-1", "iou=inf", "speed=1", "iou", "iou=0.5,"])
def test_a_budget_that_is_none(refused, wrong):
    code, line = refused("--int8", "--max-drop", wrong)
    assert (code, "--max-drop must be like iou=0.5,delta1=0.5" in line) == (2, True), line


def photographs(folder, size, count=6):
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder, "there is none"),
        (lambda folder: folder.mkdir() or folder, "must hold"),
        (lambda folder: photographs(folder, (40, 50), count=3), "holds 3"),
    ],
    ids=["missing", "empty", "too few"],
)
def test_calibration_data_that_are_none(refused, tmp_path, make, said):
    folder = make(tmp_path / "photos")
    code, line = refused("--int8", "--init", "0", "--calibration", folder)
    assert (code, said in line, "photos" in line) == (3, True, True), line


def test_calibration_data_that_are_no_images(refused, tmp_path):
    folder = photographs(tmp_path / "photos", (40, 50))
    (folder / "7.jpg").write_text("not an image")
    code, line = refused("--int8", "--init", "0", "--calibration", folder)
    assert (code, "7.jpg" in line) == (3, True), line


def test_calibration_images_may_be_of_any_size(tmp_path):
    folder = photographs(tmp_path / "photos", (20, 300))
    for number, path in enumerate(photographs(tmp_path / "more", (301, 33)).iterdir()):
        path.rename(folder / f"more{number}.png")
    calibration = open_calibration(open_samples(folder), None)
    assert {frame.shape for frame in calibration.frames} == {(20, 300, 3), (301, 33, 3)}
    runner = GraphRunner("image", Resolution(32, 32), Normalisation((0, 0, 0), (1, 1, 1)))
    shapes = {runner.inputs(frame)["image"].shape for frame in calibration.frames}
    assert shapes == {(1, 3, 32, 32)}


@pytest.mark.parametrize("name", ["/proc/depthmask", "file/out"])
def test_an_output_that_cannot_be_written(refused, tmp_path, monkeypatch, name):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.chdir(tmp_path)
    code, line = refused("--init", "0", out=name)
    assert (code, name in line) == (6, True), line


def test_weights_beyond_float16_stay_float32_and_are_named(tmp_path):
    import torch

    mask = tiny_networks.TinyMask()
    with torch.no_grad():
        mask.first.weight *= 1e7
        mask.first.bias *= 1e7
        mask.second.weight /= 1e7
    chain = MaskDepthChain(mask, tiny_networks.TinyDepth())
    bundle = export_chain(chain, tmp_path / "b", resolution=Resolution(32, 32), precision="fp16")
    assert bundle.manifest.verified
    assert "mask.first/Conv" in bundle.manifest.fp32_nodes
    assert not any(name.startswith("depth") for name in bundle.manifest.fp32_nodes)
