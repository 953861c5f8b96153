from __future__ import annotations

import json
import os
import signal

import cv2
import numpy as np
import pytest

from depthmask.cli import main
from depthmask.train import assets as assets_module
from depthmask.train import materialise as materialise_module


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
        for number in range(12):
            image = rng.integers(0, 255, (48, 64, 3 + (role == "foregrounds")), dtype=np.uint8)
            if role == "foregrounds":
                image[:5, :, 3], image[5:, :, 3] = 0, 255
            cv2.imwrite(str(folder / role / f"{number}.png"), image)
    return folder


def compose(assets, out, *options):
    return ["data", "compose", "--assets", assets, "--size", "48", "--out", out, *options]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_compose_writes_a_data_set(dmx, assets, tmp_path):
    out = tmp_path / "data"
    code, text, _ = dmx(*compose(assets, out, "--limit", "3", "--seed", "5", "--no-augment"))
    assert code == 0
    assert "3 samples" in text
    assert len(list(out.iterdir())) == 10
    recipe = json.loads((out / "dataset.json").read_text())["recipe"]
    wanted = {"seed": 5, "split": "train", "canvas_px": 48, "augment": False}
    assert wanted.items() <= recipe.items()


def test_compose_interrupted_goes_on_with_the_same_command(dmx, assets, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert dmx(*compose(assets, whole, "--limit", "4"))[0] == 0
    real = materialise_module.compose

    def interrupted(recipe, loaded, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(recipe, loaded, index)

    with monkeypatch.context() as patch:
        patch.setattr(materialise_module, "compose", interrupted)
        code, _, err = dmx(*compose(assets, parts, "--limit", "4"))
    assert code == 130
    assert "The same command goes on" in err
    code, text, _ = dmx(*compose(assets, parts, "--limit", "4", "--json"))
    assert code == 0
    assert json.loads(text) == {"out": str(parts), "count": 4, "made": 2}
    assert content(parts) == content(whole)


def test_compose_refuses_another_recipe(dmx, assets, tmp_path):
    out = tmp_path / "data"
    assert dmx(*compose(assets, out, "--limit", "1"))[0] == 0
    code, _, err = dmx(*compose(assets, out, "--limit", "1", "--seed", "1"))
    assert code == 2
    assert "another recipe" in err
    assert dmx(*compose(assets, out, "--limit", "1", "--seed", "1", "--overwrite"))[0] == 0


def test_compose_takes_a_recipe_file_and_options_replace_it(dmx, assets, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"seed": 3, "max_foregrounds": 1}')
    out = tmp_path / "data"
    code, _, _ = dmx(*compose(assets, out, "--limit", "1", "--recipe", recipe, "--split", "test"))
    assert code == 0
    found = json.loads((out / "dataset.json").read_text())["recipe"]
    assert (found["seed"], found["max_foregrounds"], found["split"]) == (3, 1, "test")


def test_compose_takes_a_recipe_in_yaml(dmx, assets, tmp_path):
    pytest.importorskip("yaml")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 3\naugment: false\n")
    code, _, _ = dmx(*compose(assets, tmp_path / "data", "--limit", "1", "--recipe", recipe))
    assert code == 0


@pytest.mark.parametrize("name", ["recipe.json", "recipe.yaml"])
@pytest.mark.parametrize("text", [None, "[", '{"nope": 1}', '{"seed": "x"}'])
def test_a_bad_recipe_is_an_input_error(dmx, assets, tmp_path, name, text):
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    if text is not None:
        (tmp_path / name).write_text(text)
    code, _, err = dmx(*compose(assets, tmp_path / "data", "--recipe", tmp_path / name))
    assert code == 3
    assert name in err


def test_missing_assets_name_the_command_that_fetches_them(dmx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = dmx("data", "compose", "--out", "data")
    assert code == 3
    assert "dmx data fetch --out assets" in err
    assert not list(tmp_path.iterdir())


def test_preview_writes_a_contact_sheet(dmx, assets, tmp_path):
    assert dmx(*compose(assets, tmp_path / "data", "--limit", "2"))[0] == 0
    sheet = tmp_path / "sheet.png"
    assert dmx("data", "preview", tmp_path / "data", "--out", sheet)[0] == 0
    assert cv2.imread(str(sheet)).shape == (48, 2 * 3 * 48, 3)
    assert dmx("data", "preview", tmp_path / "data", "--out", sheet)[0] == 2
    assert dmx("data", "preview", tmp_path / "data", "--out", tmp_path / "sheet.gif")[0] == 2


def test_fetch_prints_counts_and_licences(dmx, tmp_path, monkeypatch):
    out = tmp_path / "assets"

    def fetch(folder, *, packages_dir, overwrite, progress):
        progress("writing images", 1, 2)
        folder.mkdir()
        entries = [{"licence": "GPL-2.0-only"}] * 2 + [{"licence": "CC0-1.0"}]
        (folder / "assets.json").write_text(json.dumps(entries))
        assert packages_dir == tmp_path
        return assets_module.AssetSummary(folder, 2, 1, 1, 1, 1_500_000, ("a.png",))

    monkeypatch.setattr(assets_module, "fetch_assets", fetch)
    code, text, err = dmx("data", "fetch", "--out", out, "--packages-dir", tmp_path)
    assert code == 0
    assert "2 foregrounds in 1 groups" in text
    assert "GPL-2.0-only: 2" in text
    assert "1 pictures are not in these packages" in err
    (out / "assets.json").unlink()
    out.rmdir()
    code, text, _ = dmx("data", "fetch", "--out", out, "--packages-dir", tmp_path, "--json")
    assert json.loads(text)["licences"] == {"GPL-2.0-only": 2, "CC0-1.0": 1}


def test_fetch_from_a_folder_without_packages_is_an_input_error(dmx, tmp_path):
    (tmp_path / "debs").mkdir()
    out = tmp_path / "assets"
    code, _, err = dmx("data", "fetch", "--out", out, "--packages-dir", tmp_path / "debs")
    assert code == 3
    assert "apt-get download" in err
    assert not out.exists()


def test_every_help_has_an_example(dmx):
    for name in ((), ("fetch",), ("compose",), ("preview",)):
        code, text, _ = dmx("data", *name, "--help")
        assert code == 0
        assert "Example:\n    dmx data" in text, text
