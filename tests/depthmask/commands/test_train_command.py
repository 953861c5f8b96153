from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from depthmask import models
from depthmask.checkpoint import load_checkpoint
from depthmask.cli import main

CONFIG = {
    "phases": [{"resolution_px": 32, "batch_size": 2, "steps": 400}],
    "recipe": {"canvas_px": 32},
    "save_every_steps": 1000,
}


@pytest.fixture
def dmx(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


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


def write_config(folder, steps, **fields):
    phases = [{**CONFIG["phases"][0], "steps": steps}]
    path = folder / "config.json"
    path.write_text(json.dumps({**CONFIG, "phases": phases, **fields}))
    return path


def arguments(assets, config, out, *options):
    paths = ["--assets", assets, "--config", config, "--out", out]
    return [str(part) for part in ("train", *paths, "--workers", "0", "--threads", "1", *options)]


@pytest.fixture(autouse=True)
def same_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_training_ends_with_a_checkpoint(dmx, assets, tmp_path):
    torch.save(models.build("lite_mask").state_dict(), tmp_path / "other.pth")
    config = write_config(tmp_path, 2)
    code, out, err = dmx(*arguments(assets, config, tmp_path / "run", "--seed", "4"))
    assert code == 0, err
    checkpoint = tmp_path / "run" / "checkpoint"
    assert str(checkpoint) in out
    assert load_checkpoint(checkpoint).spec.preset == "lite"
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (recorded["seed"], recorded["recipe"]["seed"]) == (4, 4)
    # The same command finds it complete; another one is refused.
    code, out, _ = dmx(*arguments(assets, config, tmp_path / "run", "--seed", "4", "--json"))
    assert json.loads(out) == {"checkpoint": str(checkpoint), "steps": 2}
    code, _, err = dmx(*arguments(assets, config, tmp_path / "run", "--seed", "5"))
    assert code == 2
    assert "differs" in err
    # Weights of another network are no encoder weights.
    weights = ["--encoder-weights", tmp_path / "other.pth"]
    code, _, err = dmx(*arguments(assets, config, tmp_path / "other", *weights))
    assert code == 3
    assert "EfficientNet-Lite0" in err


def test_ctrl_c_saves_and_the_same_command_goes_on(dmx, assets, tmp_path):
    """A real process with a real worker; the signal goes to the group, as a terminal sends it."""
    out = tmp_path / "run"
    config = write_config(tmp_path, 400)
    call = arguments(assets, config, out, "--workers", "1")
    code = "import sys; from depthmask.cli import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *call],
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
    state = torch.load(out / "state.pt", weights_only=True)
    assert 0 < state["step"] < 400
    assert not (out / "checkpoint").exists()

    # Shorten what is left, then let the same command reach the end.
    steps = state["step"] + 2
    recorded = json.loads((out / "config.json").read_text())
    recorded["phases"][0]["steps"] = steps
    (out / "config.json").write_text(json.dumps(recorded))
    code, _, err = dmx(*arguments(assets, write_config(tmp_path, steps), out))
    assert code == 0, err
    assert torch.load(out / "state.pt", weights_only=True)["step"] == steps
    assert load_checkpoint(out / "checkpoint").spec.preset == "lite"


def _has_started(out):
    log = out / "log.jsonl"
    return log.exists() and log.stat().st_size > 0


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--preset", "nope"], 2),
        (["--preset", "hu2019"], 2),
        (["--preset", "seed"], 2),
        (["--encoder-weights", "none.pth"], 3),
        (["--config", "none.json"], 3),
        (["--assets", "none"], 3),
        (["--workers", "-1"], 2),
    ],
)
def test_mistakes(dmx, assets, tmp_path, monkeypatch, options, code):
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path, 2)
    found, out, err = dmx(*arguments(assets, config, tmp_path / "run", *options))
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert not (tmp_path / "run").exists()


def test_the_test_split_is_not_trained_on(dmx, assets, tmp_path):
    config = write_config(tmp_path, 2, recipe={"split": "test"})
    code, _, err = dmx(*arguments(assets, config, tmp_path / "run"))
    assert code == 2
    assert "split" in err


def test_missing_assets_name_the_command_that_fetches_them(dmx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = dmx("train", "--out", "run")
    assert code == 3
    assert "dmx data fetch --out assets" in err
