from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from depthmask.train import assets as assets_module
from depthmask.train import materialise as materialise_module
from depthmask.train import shards as shards_module


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
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", "shard-000000.tar"]
    recipe = json.loads((out / "dataset.json").read_text())["recipe"]
    wanted = {"kind": "stage", "seed": 5, "split": "train", "canvas_px": 48, "augment": False}
    assert wanted.items() <= recipe.items()


def test_compose_writes_loose_files_too(dmx, assets, tmp_path):
    out = tmp_path / "data"
    assert dmx(*compose(assets, out, "--limit", "3", "--format", "files"))[0] == 0
    assert len(list(out.iterdir())) == 10


def test_compose_interrupted_goes_on_with_the_same_command(dmx, assets, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options = ("--limit", "5", "--shard-size", "2")
    assert dmx(*compose(assets, whole, *options))[0] == 0
    real, calls = shards_module.write_file, []

    def interrupted(path, content):
        calls.append(path)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "write_file", interrupted)
        code, _, err = dmx(*compose(assets, parts, *options))
    assert code == 130
    assert "The same command goes on" in err
    code, text, _ = dmx(*compose(assets, parts, *options, "--workers", "2", "--json"))
    assert code == 0
    assert json.loads(text) == {"out": str(parts), "count": 5, "made": 3, "skipped": []}
    assert content(parts) == content(whole)


def is_worker(process, group):
    """Whether a folder in /proc is of a worker process of this group; one may go meanwhile."""
    try:
        found = int((process / "stat").read_text().rpartition(")")[2].split()[2])
        return found == group and b"spawn_main" in (process / "cmdline").read_bytes()
    except OSError:
        return False


def test_ctrl_c_ends_the_workers_without_a_word_of_theirs(assets, tmp_path):
    """A terminal sends it to the whole process group."""
    out = tmp_path / "data"
    options = ("--limit", "100000", "--shard-size", "50000", "--workers", "2")
    command = [sys.executable, "-m", "depthmask", *map(str, compose(assets, out, *options))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        while len(list(out.glob(".shard-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on" in err
    assert "Traceback" not in err
    assert [path.name for path in out.iterdir()] == ["dataset.json"]
    assert not [one for one in Path("/proc").glob("[0-9]*") if is_worker(one, process.pid)]


def test_compose_on_a_disk_that_is_too_small_is_an_output_error(dmx, assets, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(materialise_module.shutil, "disk_usage", lambda path: usage)
    code, _, err = dmx(*compose(assets, tmp_path / "data", "--limit", "50"))
    assert code == 6
    assert "must have room for 50 samples" in err
    assert not (tmp_path / "data").exists()


GRID = """
recipe: {kind: grid, canvas_px: 48, backgrounds: 2, foregrounds: 3, positions: 2,
         foreground_px: [20, 30], offset_px: [0, 18]}
phases: [of a training]
"""


@pytest.fixture
def grid(tmp_path):
    pytest.importorskip("yaml")
    document = tmp_path / "grid.yaml"
    document.write_text(GRID)
    return document


def test_compose_makes_all_of_a_grid_in_a_training_configuration(dmx, assets, tmp_path, grid):
    arguments = ["data", "compose", "--assets", assets, "--recipe", grid]
    code, text, _ = dmx(*arguments, "--out", tmp_path / "data")
    assert code == 0
    assert "24 samples" in text
    code, _, err = dmx(*arguments, "--out", tmp_path / "more", "--limit", "25")
    assert (code, "but it has 24" in err) == (2, True)


def test_the_reference_asks_for_more_material_than_there_is(dmx, assets, tmp_path):
    pytest.importorskip("yaml")
    arguments = ["data", "compose", "--recipe", "reference", "--assets", assets]
    code, _, err = dmx(*arguments, "--out", tmp_path / "data")
    assert code == 3
    assert "102 backgrounds" in err
    assert "dmx data fetch" in err
    assert "\n" not in err.strip()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--depth", "sideways"], "depth must be one of stage, teacher, none"),
        (["--depth", "render", "--recipe", "GRID"], "go together, but got --depth render"),
        (["--mask-teacher", "m.onnx"], "a recipe of kind photos"),
        (["--no-augment", "--recipe", "GRID"], "has no augment"),
        (["--size", "32", "--recipe", "GRID"], "every foreground is whole"),
    ],
)
def test_options_that_do_not_fit_the_recipe_are_usage_errors(
    dmx, assets, tmp_path, grid, options, said
):
    options = [grid if option == "GRID" else option for option in options]
    code, _, err = dmx("data", "compose", "--assets", assets, "--out", tmp_path / "data", *options)
    assert code == 2
    assert said in err


def test_a_recipe_that_wants_a_teacher_says_how_to_give_it(dmx, assets, tmp_path):
    (tmp_path / "r.json").write_text('{"kind": "stage", "depth": "teacher"}')
    code, _, err = dmx(*compose(assets, tmp_path / "data", "--recipe", tmp_path / "r.json"))
    assert code == 2
    assert "--depth teacher=MODEL.onnx" in err


def test_a_teacher_that_is_missing_is_an_input_error(dmx, assets, tmp_path):
    pytest.importorskip("onnxruntime")
    code, _, err = dmx(*compose(assets, tmp_path / "data", "--depth", "teacher=none.onnx"))
    assert code == 3
    assert "none.onnx" in err


def test_compose_without_depth(dmx, assets, tmp_path):
    out = tmp_path / "data"
    assert dmx(*compose(assets, out, "--limit", "2", "--depth", "none"))[0] == 0
    code, text, _ = dmx("data", "stats", out, "--json")
    assert code == 0
    assert json.loads(text)["depth"] is None


@pytest.fixture
def flawed(assets, tmp_path):
    """The material, with two foregrounds and a background that cannot be used."""
    folder = tmp_path / "flawed"
    shutil.copytree(assets, folder)
    (folder / "foregrounds" / "5x.png").write_bytes(b"broken")
    cv2.imwrite(str(folder / "foregrounds" / "6x.png"), np.zeros((20, 20, 4), np.uint8))
    whole = (folder / "backgrounds" / "3.png").read_bytes()
    (folder / "backgrounds" / "3x.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_pictures_that_cannot_be_used_are_left_out_and_named(dmx, assets, flawed, tmp_path):
    options = ("--limit", "3", "--split", "all")
    code, text, err = dmx(*compose(flawed, tmp_path / "data", *options, "--json"))
    assert code == 3
    assert [Path(name).name for name in json.loads(text)["skipped"]] == [
        "5x.png",
        "6x.png",
        "3x.png",
    ]
    assert "but 3 are not and were left out (5x.png, 6x.png, 3x.png)" in err
    named = [line for line in err.splitlines() if line.startswith("left out: ")]
    assert len(named) == 3
    assert "6x.png is empty" in named[1]
    assert "3x.png must be a whole image" in named[2]
    assert dmx(*compose(assets, tmp_path / "clean", *options))[0] == 0
    assert content(tmp_path / "data") == content(tmp_path / "clean")


def test_strict_stops_at_the_first_picture_that_cannot_be_used(dmx, flawed, tmp_path):
    code, _, err = dmx(*compose(flawed, tmp_path / "data", "--split", "all", "--strict"))
    assert code == 3
    assert "5x.png" in err
    assert not (tmp_path / "data").exists()


def test_preview_names_the_pictures_that_were_left_out(dmx, flawed, tmp_path):
    (tmp_path / "r.json").write_text('{"split": "all", "canvas_px": 48}')
    sheet = tmp_path / "sheet.png"
    options = ("--recipe", tmp_path / "r.json", "--assets", flawed, "--out", sheet)
    code, text, err = dmx("data", "preview", *options)
    assert (code, text) == (0, f"{sheet}\n")
    assert [line.startswith("left out: ") for line in err.splitlines()] == [True] * 3
    assert "5x.png" in err


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


def test_photographs_alone_make_a_data_set_of_photographs(dmx, tmp_path):
    folder = tmp_path / "own"
    (folder / "photos").mkdir(parents=True)
    cv2.imwrite(str(folder / "photos" / "a.png"), np.full((40, 50, 3), 90, np.uint8))
    recipe = tmp_path / "r.json"
    recipe.write_text('{"kind": "photos", "mask": "none", "depth": "none", "split": "all"}')
    code, _, err = dmx(*compose(folder, tmp_path / "data", "--recipe", recipe, "--limit", "2"))
    assert code == 0, err
    code, _, err = dmx(*compose(folder, tmp_path / "other", "--limit", "2"))
    assert code == 3
    assert "foregrounds must hold images" in err


def test_preview_writes_a_contact_sheet(dmx, assets, tmp_path):
    assert dmx(*compose(assets, tmp_path / "data", "--limit", "2"))[0] == 0
    sheet = tmp_path / "sheet.png"
    assert dmx("data", "preview", tmp_path / "data", "--out", sheet)[0] == 0
    assert cv2.imread(str(sheet)).shape == (48, 2 * 3 * 48, 3)
    assert dmx("data", "preview", tmp_path / "data", "--out", sheet)[0] == 2
    assert dmx("data", "preview", tmp_path / "data", "--out", tmp_path / "sheet.gif")[0] == 2


def test_preview_shows_a_recipe(dmx, assets, tmp_path, grid):
    sheet = tmp_path / "sheet.png"
    options = ("--recipe", grid, "--assets", assets, "--out", sheet)
    assert dmx("data", "preview", *options)[0] == 0
    assert cv2.imread(str(sheet)).shape == (6 * 48, 4 * 3 * 48, 3)
    assert dmx("data", "preview", tmp_path, *options, "--overwrite")[0] == 2
    assert dmx("data", "preview", "--out", sheet, "--overwrite")[0] == 2


def test_stats_measures_a_data_set(dmx, assets, tmp_path):
    assert dmx(*compose(assets, tmp_path / "data", "--limit", "2"))[0] == 0
    code, text, _ = dmx("data", "stats", tmp_path / "data")
    assert code == 0
    assert "2 samples (2 of 48x48), 2 masks, 2 depths" in text
    assert "depth (m)" in text
    code, text, _ = dmx("data", "stats", tmp_path / "data", "--json")
    found = json.loads(text)
    assert (found["count"], found["depth_unit"], len(found["image"])) == (2, "m", 3)
    assert 0 < found["mask"]["mean"] < 1


def test_stats_lists_what_a_grid_enumerates(dmx):
    pytest.importorskip("yaml")
    code, text, _ = dmx("data", "stats", "--recipe", "reference")
    assert code == 0
    assert "424320 samples = 102 backgrounds x 104 foregrounds x 20 positions x 2 flips" in text
    code, text, _ = dmx("data", "stats", "--recipe", "reference", "--json")
    assert json.loads(text)["foreground_px"]["smallest"] == 90


def test_stats_needs_data_or_a_grid(dmx, tmp_path):
    assert dmx("data", "stats")[0] == 2
    (tmp_path / "r.json").write_text("{}")
    code, _, err = dmx("data", "stats", "--recipe", tmp_path / "r.json")
    assert code == 2
    assert "has no end" in err
    assert dmx("data", "stats", tmp_path / "nothing")[0] == 3


def test_fetch_prints_counts_and_licences(dmx, tmp_path, monkeypatch):
    out = tmp_path / "assets"

    def fetch(folder, *, packages_dir, overwrite, progress):
        progress("writing images", 1, 2)
        folder.mkdir()
        entries = [{"licence": "GPL-2.0-only"}] * 2 + [{"licence": "CC0-1.0"}]
        (folder / "assets.json").write_text(json.dumps(entries))
        assert packages_dir == tmp_path
        return assets_module.AssetSummary(folder, 2, 1, 1, 1, 3, 2, 1_500_000, ("a.png",))

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
    for name in ((), ("fetch",), ("compose",), ("stats",), ("preview",)):
        code, text, _ = dmx("data", *name, "--help")
        assert code == 0
        assert "Example:\n    dmx data" in text, text
