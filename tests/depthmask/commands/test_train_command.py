from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from depthmask import models
from depthmask.chain import build
from depthmask.checkpoint import load_checkpoint, read_info, save_checkpoint

CONFIG = {
    "phases": [{"resolution_px": 32, "batch_size": 2, "steps": 400}],
    "recipe": {"kind": "stage", "canvas_px": 32},
    "save_every_steps": 1000,
}


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    rng = np.random.default_rng(0)
    for role in ("foregrounds", "backgrounds"):
        (folder / role).mkdir()
        for number in range(6):
            image = rng.integers(0, 255, (48, 64, 3 + (role == "foregrounds")), dtype=np.uint8)
            if role == "foregrounds":
                image[:5, :, 3], image[5:, :, 3] = 0, 255
            cv2.imwrite(str(folder / role / f"{number}.png"), image)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "lite"
    save_checkpoint(build("lite", seed=1), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Masks, and depths of no unit."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    folder.mkdir()
    (folder / "dataset.json").write_text('{"schema": 1, "count": 5, "depth_unit": "relative"}')
    rng = np.random.default_rng(0)
    for number in range(5):
        cv2.imwrite(
            str(folder / f"{number}.jpg"), rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        )
        for suffix, dtype in (("mask", np.uint8), ("depth", np.uint16)):
            values = rng.integers(1, 255, (40, 40)).astype(dtype)
            cv2.imwrite(str(folder / f"{number}.{suffix}.png"), values)
    return folder


def write_config(folder, steps, **fields):
    phases = [{**CONFIG["phases"][0], "steps": steps}]
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, "phases": phases, **fields}))
    return path


def arguments(config, out, *options):
    parts = ["train", "--config", config, "--out", out, "--workers", "0", "--threads", "1"]
    return [str(part) for part in (*parts, *options)]


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_training_ends_with_a_checkpoint(dmx, assets, tmp_path):
    torch.save(models.build("lite_mask").state_dict(), tmp_path / "other.pth")
    config, run = write_config(tmp_path, 2), tmp_path / "run"
    command = arguments(config, run, "--assets", assets)
    code, out, err = dmx(*command, "--seed", "4")
    assert code == 0, err
    checkpoint = run / "checkpoint"
    assert str(checkpoint) in out
    assert "waiting for samples" in out
    assert load_checkpoint(checkpoint).spec.preset == "lite"
    recorded = json.loads((run / "config.json").read_text())
    assert (recorded["seed"], recorded["recipe"]["seed"]) == (4, 4)
    # The same command finds it complete; another one is refused.
    code, out, _ = dmx(*command, "--seed", "4", "--json")
    assert json.loads(out) == {"checkpoint": str(checkpoint), "steps": 2, "wait_share": None}
    code, _, err = dmx(*command, "--seed", "5")
    assert code == 2
    assert "differs" in err
    # Weights of another network are no encoder weights.
    weights = ["--assets", assets, "--encoder-weights", tmp_path / "other.pth"]
    code, _, err = dmx(*arguments(config, tmp_path / "other", *weights))
    assert code == 3
    assert "EfficientNet-Lite0" in err


def test_data_sets_alone_need_no_assets(dmx, data, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    phases = [{"resolution_px": 32, "batch_size": 2, "epochs": 1}]
    config = write_config(tmp_path, 1, phases=phases, data_share=1.0, train="mask")
    options = ("--data", f"{data}:2", "--checkpoint", checkpoint, "--samples", "4")
    code, _, err = dmx(*arguments(config, tmp_path / "run", *options))
    assert code == 0, err
    training = read_info(tmp_path / "run" / "checkpoint").training
    assert (training["steps"], training["config"]["samples"]) == (2, 4)
    before, after = load_checkpoint(checkpoint), load_checkpoint(tmp_path / "run" / "checkpoint")
    assert torch.equal(before.depth.head.weight, after.depth.head.weight)
    assert not torch.equal(before.mask.head.weight, after.mask.head.weight)


def test_a_chain_that_starts_from_anothers_weights_is_what_its_preset_says(
    dmx, assets, checkpoint, tmp_path
):
    command = arguments(write_config(tmp_path, 1), tmp_path / "run", "--assets", assets)
    options = ("--mode", "relevance", "--preset", "lite-relevance", "--checkpoint", checkpoint)
    code, _, err = dmx(*command, *options)
    assert code == 0, err
    info = read_info(tmp_path / "run" / "checkpoint")
    assert info.training["config"]["mode"] == "relevance"
    assert (info.chain.preset, info.chain.kind) == ("lite-relevance", "relevance")


def test_ctrl_c_saves_and_the_same_command_goes_on(dmx, assets, tmp_path):
    """A real process with a real worker; the signal goes to the group, as a terminal sends it."""
    out = tmp_path / "run"
    options = ("--assets", assets, "--workers", "1")
    steps = 30
    call = arguments(write_config(tmp_path, steps, train="mask"), out, *options)
    process = subprocess.Popen(
        [sys.executable, "-m", "depthmask", *call],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and not _has_started(out):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()  # only where an assertion or the wait above failed
    assert process.returncode == 130, err
    assert "The same command goes on" in err
    assert "Traceback" not in err
    (saved,) = out.glob("state-*.pt")
    step = torch.load(saved, weights_only=True)["step"]
    assert 0 < step < steps
    assert not (out / "checkpoint").exists()

    code, _, err = dmx(*call, "--workers", "0")
    assert code == 0, err
    assert read_info(out / "checkpoint").training["steps"] == steps


def _has_started(out):
    log = out / "log.jsonl"
    return log.exists() and log.stat().st_size > 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--preset", "nope"], 2),
        (["--mode", "nope"], 2),
        (["--mode", "distill"], 2),
        (["--mode", "relevance"], 2),
        (["--teacher", "none"], 3),
        (["--encoder-weights", "none.pth"], 3),
        (["--config", "none.json"], 3),
        (["--config", "none"], 3),
        (["--assets", "none"], 3),
        (["--data", "none"], 3),
        (["--workers", "-1"], 2),
        (["--hours", "0"], 2),
    ],
)
def test_mistakes(dmx, assets, tmp_path, monkeypatch, options, code):
    monkeypatch.chdir(tmp_path)
    command = arguments(write_config(tmp_path, 2), tmp_path / "run", "--assets", assets)
    found, out, err = dmx(*command, *options)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert not (tmp_path / "run").exists()


def test_the_test_split_is_not_trained_on(dmx, assets, tmp_path):
    config = write_config(tmp_path, 2, recipe={"kind": "stage", "split": "test"})
    code, _, err = dmx(*arguments(config, tmp_path / "run", "--assets", assets))
    assert code == 2
    assert "split" in err


def test_missing_assets_name_the_command_that_fetches_them(dmx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = dmx("train", "--out", "run")
    assert code == 3
    assert "dmx data fetch --out assets" in err


@pytest.fixture
def broken(assets, tmp_path):
    """The material, with a background that is no picture."""
    folder = tmp_path / "assets"
    shutil.copytree(assets, folder)
    (folder / "backgrounds" / "broken-6.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize("fields", [{}, {"validation_share": 0.1, "validation_limit": 2}])
def test_pictures_that_cannot_be_used_are_named(dmx, broken, tmp_path, fields):
    split = "train" if fields else "all"  # the picture is of the held-out part
    recipe = {"kind": "stage", "canvas_px": 32, "split": split}
    config = write_config(tmp_path, 1, recipe=recipe, **fields)
    code, _, err = dmx(*arguments(config, tmp_path / "run", "--assets", broken))
    assert code == 0, err
    (named,) = [line for line in err.splitlines() if line.startswith("left out: ")]
    assert "broken-6.png" in named
    assert "SkippedAsset" not in err


def test_only_the_first_process_names_them(dmx, broken, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    config = write_config(tmp_path, 1, recipe={"kind": "stage", "canvas_px": 32, "split": "all"})
    code, _, err = dmx(*arguments(config, tmp_path / "run", "--assets", broken))
    assert (code, err) == (0, "")


def test_strict_stops_at_the_first_picture_that_cannot_be_used(dmx, broken, tmp_path):
    config = write_config(tmp_path, 1, recipe={"kind": "stage", "canvas_px": 32, "split": "all"})
    code, _, err = dmx(*arguments(config, tmp_path / "run", "--assets", broken, "--strict"))
    assert code == 3
    assert err.startswith("error: ")
    assert "broken-6.png" in err
    assert not (tmp_path / "run").exists()
