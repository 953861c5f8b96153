from __future__ import annotations

import json

import pytest
import torch

from depthmask import models
from depthmask.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pth")
    for role in ("mask", "depth"):
        torch.save(models.build(f"lite_{role}").state_dict(), folder / f"{role}.pth")
    return folder


def both(files, out):
    stages = ["--mask", files / "mask.pth", "--depth", files / "depth.pth"]
    return ["import", "--preset", "lite", *stages, "--out", out]


def test_two_files_become_a_checkpoint(dmx, files, tmp_path):
    out = tmp_path / "checkpoint"
    code, text, _ = dmx(*both(files, out))
    assert code == 0
    assert str(out) in text
    assert load_checkpoint(out).spec.preset == "lite"
    code, _, err = dmx(*both(files, out))
    assert code == 2
    assert "--overwrite" in err
    code, text, _ = dmx(*both(files, out), "--overwrite", "--json")
    assert code == 0
    assert json.loads(text)["preset"] == "lite"


def test_one_file_is_checked(dmx, files):
    code, out, _ = dmx("import", files / "mask.pth", "--network", "lite_mask")
    assert code == 0
    assert "in lite it is the mask network" in out
    assert "--depth FILE" in out
    code, out, _ = dmx("import", files / "mask.pth", "--network", "lite_mask", "--json")
    assert json.loads(out)["fits"] == {"lite": "mask", "lite-relevance": "mask"}


def test_what_is_missing_is_named(dmx, files, tmp_path):
    code, _, err = dmx("import", files / "mask.pth", "--network", "drn_d_22")
    assert code == 3
    assert "missing (layer0." in err
    assert "unexpected (trunk." in err


def test_code_is_refused_in_one_line(dmx, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    code, out, err = dmx("import", tmp_path / "module.pth", "--network", "lite_mask")
    assert (code, out) == (3, "")
    assert err.count("\n") == 1
    assert "never runs code" in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["x.pth"], 2),
        (["x.pth", "--network", "lite_mask", "--preset", "lite"], 2),
        (["x.pth", "--network", "nope"], 2),
        (["x.pth", "--network", "lite_mask"], 3),
        (["--preset", "lite", "--mask", "x.pth", "--out", "y"], 2),
        (["--preset", "nope", "--mask", "x.pth", "--depth", "x.pth", "--out", "y"], 2),
        (["--preset", "lite", "--mask", "x.pth", "--depth", "x.pth", "--out", "y"], 3),
    ],
)
def test_mistakes(dmx, tmp_path, monkeypatch, arguments, code):
    monkeypatch.chdir(tmp_path)
    found, out, err = dmx("import", *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("error: ")
    assert not list(tmp_path.iterdir())
