from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tarfile

import cv2
import msgspec
import numpy as np
import pytest

from depthmask.errors import InputError, OutputError, UnavailableError, UsageError
from depthmask.samples import open_samples
from depthmask.train import materialise as materialise_module
from depthmask.train import shards as shards_module
from depthmask.train.compose import compose
from depthmask.train.material import Assets
from depthmask.train.materialise import materialise
from depthmask.train.parking import parked
from depthmask.train.recipe import StageRecipe
from depthmask.train.shards import shard_name
from depthmask.train.workers import make_blocks


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
    """Loose files."""
    out = tmp_path_factory.mktemp("whole") / "data"
    materialise(StageRecipe(seed=3, canvas_px=64), assets, out, 5, form="files")
    return out


@pytest.fixture(scope="module")
def shards(assets, tmp_path_factory):
    """Five samples in three shards."""
    out = tmp_path_factory.mktemp("shards") / "data"
    materialise(StageRecipe(seed=3, canvas_px=64), assets, out, 5, shard_size=2)
    return out


def same(first, second):
    return all(
        np.array_equal(getattr(first, name), getattr(second, name), equal_nan=name != "mask_HW")
        for name in ("image_HW3", "mask_HW", "depth_m_HW")
    )


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
            materialise(recipe, assets, out, 5, form="files", progress=stop_after(samples))
    first = (out / "000000.jpg").stat()
    (out / ".000003.jpg.abc").write_bytes(b"left by a kill")
    result = materialise(recipe, assets, out, 5, form="files")
    assert (result.count, result.made) == (5, 2)
    assert (out / "000000.jpg").stat().st_ino == first.st_ino
    assert digests(out) == digests(whole)


def test_a_sample_without_its_image_is_made_again(whole, recipe, assets, tmp_path):
    out = tmp_path / "data"
    materialise(recipe, assets, out, 5, form="files")
    (out / "000002.jpg").unlink()
    (out / "000002.mask.png").write_bytes(b"half")
    assert materialise(recipe, assets, out, 5, form="files").made == 1
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


def test_shards_hold_the_same_samples_as_loose_files(shards, whole):
    assert sorted(path.name for path in shards.iterdir()) == [
        "dataset.json",
        *(shard_name(number) for number in range(3)),
    ]
    in_shards, loose = open_samples(shards), open_samples(whole)
    assert len(in_shards) == len(loose) == 5
    for index in (3, 0, 4, -1, 2, 1):
        assert in_shards[index].name == loose[index].name
        assert same(in_shards[index], loose[index])


def test_a_member_of_a_shard_says_nothing_of_the_machine_that_wrote_it(shards):
    with tarfile.open(shards / shard_name(1)) as archive:
        members = archive.getmembers()
        assert [member.name for member in members[:4]] == [
            f"000002.{suffix}" for suffix in ("depth.png", "jpg", "json", "mask.png")
        ]
        assert json.load(archive.extractfile("000003.json")) == {"index": 3}
    for member in members:
        assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (
            0,
            0,
            0,
            "",
            0o644,
        )


def test_a_grid_is_materialised_to_its_end_and_says_what_samples_are_made_of(
    grid, assets, tmp_path
):
    result = materialise(grid, assets, tmp_path / "data")
    assert result.count == 72
    with tarfile.open(tmp_path / "data" / shard_name(0)) as archive:
        made_of = json.load(archive.extractfile("000013.json"))
    names = ("background", "foreground", "position", "flip")
    wanted = dict(zip(names, grid.combination(13), strict=True))
    assert {"index": 13, **wanted}.items() <= made_of.items()
    with pytest.raises(UsageError, match=r"the 73 samples .* but it has 72"):
        materialise(grid, assets, tmp_path / "more", 73)


def test_a_recipe_without_end_needs_a_count(recipe, assets, tmp_path):
    with pytest.raises(UsageError, match=r"no number of\. Try --limit"):
        materialise(recipe, assets, tmp_path / "data")


@pytest.mark.parametrize("form", ["shards", "files"])
def test_workers_make_the_same_bytes_in_any_order(recipe, assets, tmp_path, form, shards, whole):
    seen = []
    result = materialise(
        recipe,
        assets,
        tmp_path / "data",
        5,
        form=form,
        shard_size=2,
        workers=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert result.made == 5
    assert seen == [(done, 5) for done in range(6)]
    assert digests(tmp_path / "data") == digests(shards if form == "shards" else whole)


def test_a_shard_that_is_there_is_not_made_again(recipe, assets, tmp_path, shards):
    out = tmp_path / "data"
    with pytest.raises(StoppedError):
        materialise(recipe, assets, out, 5, shard_size=2, progress=stop_after(3))
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", shard_name(0)]
    assert len(open_samples(out, unfinished=True)) == 2
    with pytest.raises(InputError, match="run its `dmx data compose` again"):
        open_samples(out)
    before = (out / shard_name(0)).stat()
    assert materialise(recipe, assets, out, 5, shard_size=2).made == 3
    assert (out / shard_name(0)).stat().st_ino == before.st_ino
    assert digests(out) == digests(shards)


def test_a_shard_in_the_middle_may_be_made_last(recipe, assets, tmp_path, shards):
    out = tmp_path / "data"
    materialise(recipe, assets, out, 5, shard_size=2)
    (out / shard_name(1)).unlink()
    unfinished = open_samples(out, unfinished=True)
    assert [sample.name for sample in unfinished] == ["000000", "000001", "000004"]
    assert materialise(recipe, assets, out, 5, shard_size=2).made == 2
    assert digests(out) == digests(shards)


@pytest.mark.parametrize(
    "damage", ["cut in the middle", "no end marker", "a sample short", "empty"]
)
def test_a_shard_that_is_not_whole_is_made_anew(recipe, assets, tmp_path, shards, damage):
    out = tmp_path / "data"
    shutil.copytree(shards, out)
    path, whole = out / shard_name(1), (shards / shard_name(1)).read_bytes()
    end_bytes = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    keep = {"cut in the middle": 700, "no end marker": end_bytes, "empty": 0}
    one_sample = (shards / shard_name(2)).read_bytes()
    path.write_bytes(one_sample if damage == "a sample short" else whole[: keep[damage]])
    before = (out / shard_name(0)).stat()
    assert materialise(recipe, assets, out, 5, shard_size=2).made == 2
    assert (out / shard_name(0)).stat().st_ino == before.st_ino
    assert digests(out) == digests(shards)


KILLED = """
import sys
from pathlib import Path
from depthmask.train.material import load_assets
from depthmask.train.materialise import materialise
from depthmask.train.recipe import StageRecipe
materialise(StageRecipe(seed=3, canvas_px=64), load_assets(Path(sys.argv[1]), "train"),
            Path(sys.argv[2]), 60, shard_size=4, workers=int(sys.argv[3]),
            progress=lambda done, total: print(done, flush=True))
"""


def killed_at(samples, assets_folder, out, workers):
    """Run until so many more samples are made, then SIGKILL; whether it was killed."""
    command = [sys.executable, "-c", KILLED, str(assets_folder), str(out), str(workers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(samples + 1):
            if not process.stdout.readline():
                break
        process.kill()
        process.wait()
        return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("kills", "workers"), [(2, 2), pytest.param(20, 2, marks=pytest.mark.slow)]
)
def test_killed_again_and_again_it_ends_with_the_same_bytes(
    recipe, assets, assets_folder, tmp_path, kills, workers
):
    rng = np.random.default_rng(kills)
    killed = 0
    for _ in range(kills):
        killed += killed_at(int(rng.integers(3, 7)), assets_folder, tmp_path / "data", workers)
    materialise(recipe, assets, tmp_path / "data", 60, shard_size=4)
    materialise(recipe, assets, tmp_path / "whole", 60, shard_size=4)
    assert killed >= min(kills, 8)
    assert not list((tmp_path / "data").glob(".*"))
    assert digests(tmp_path / "data") == digests(tmp_path / "whole")


def test_a_worker_that_is_killed_is_an_error_and_what_is_finished_is_kept(
    recipe, assets, tmp_path, shards
):
    def kill(done, total):
        if done == 1:
            for child in multiprocessing.active_children():
                child.kill()

    out = tmp_path / "data"
    with pytest.raises(UnavailableError, match=r"died \(exit code -9\).*the same command goes on"):
        materialise(recipe, assets, out, 5, shard_size=2, workers=2, progress=kill)
    assert not multiprocessing.active_children()
    assert not list(out.glob(".*"))
    materialise(recipe, assets, out, 5, shard_size=2)
    assert digests(out) == digests(shards)


def test_an_error_in_a_worker_is_raised_here(grid, assets, tmp_path):
    few = Assets(assets.foregrounds[:1], assets.backgrounds)
    job = shards_module.Job(grid, None, grid.count, 4, tmp_path, "shards")
    with parked(few) as pictures, pytest.raises(InputError, match="dmx data fetch"):
        make_blocks(job, pictures, iter(range(4)), 2, lambda: None)


def test_too_small_a_disk_is_refused_before_anything_is_written(
    recipe, assets, tmp_path, monkeypatch
):
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr(materialise_module.shutil, "disk_usage", lambda path: usage)
    out = tmp_path / "data"
    with pytest.raises(OutputError, match=r"room for 500 samples, about .* MB, .* 0\.01 MB free"):
        materialise(recipe, assets, out, 500)
    assert not out.exists()


def test_a_disk_that_is_full_in_the_middle_is_an_output_error_and_can_be_gone_on_with(
    recipe, assets, tmp_path, shards, monkeypatch
):
    out = tmp_path / "data"
    real = os.fsync

    def full(descriptor):
        if list(out.glob(".shard-000001*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"No space left.*the same command goes on"):
            materialise(recipe, assets, out, 5, shard_size=2)
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", shard_name(0)]
    assert materialise(recipe, assets, out, 5, shard_size=2).made == 3
    assert digests(out) == digests(shards)


def test_two_commands_do_not_write_into_one_data_set(recipe, assets, tmp_path):
    def second(done, total):
        if done == 1:
            with pytest.raises(UsageError, match="one command at a time"):
                materialise(recipe, assets, tmp_path / "data", 2)

    assert materialise(recipe, assets, tmp_path / "data", 2, progress=second).made == 2


@pytest.mark.parametrize("seed", [3, 4])
def test_a_data_set_that_is_being_written_is_not_replaced(recipe, assets, tmp_path, seed):
    other = msgspec.structs.replace(recipe, seed=seed)
    out = tmp_path / "data"

    def second(done, total):
        if done == 1:
            with pytest.raises(UsageError, match="one command at a time"):
                materialise(other, assets, out, 2, overwrite=True)

    materialise(recipe, assets, out, 2, progress=second)
    materialise(recipe, assets, tmp_path / "alone", 2)
    assert digests(out) == digests(tmp_path / "alone")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert materialise(other, assets, out, 2, overwrite=True).made == 2


def test_a_data_set_that_was_replaced_while_it_was_opened_is_left_alone(
    recipe, assets, tmp_path, monkeypatch
):
    """Between the look at a folder and its lock another command may exchange it."""
    out, other = tmp_path / "data", msgspec.structs.replace(recipe, seed=4)
    materialise(recipe, assets, out, 2, shard_size=1)
    (out / shard_name(1)).unlink()
    real = shutil.disk_usage

    def meanwhile(path):
        with monkeypatch.context() as patch:
            patch.setattr(materialise_module.shutil, "disk_usage", real)
            materialise(other, assets, out, 1, overwrite=True)
        return real(path)

    monkeypatch.setattr(materialise_module.shutil, "disk_usage", meanwhile)
    with pytest.raises(UsageError, match=r"one of another .*recipe"):
        materialise(recipe, assets, out, 2, shard_size=1)
    assert sorted(path.name for path in out.iterdir()) == ["dataset.json", shard_name(0)]


@pytest.mark.parametrize("fields", [{"workers": 0}, {"shard_size": 0}])
def test_impossible_numbers_are_refused(recipe, assets, tmp_path, fields):
    with pytest.raises(UsageError, match="1 or more"):
        materialise(recipe, assets, tmp_path / "data", 2, **fields)


class Teachers:
    """As train/teacher.py's, without a network: depth as large as 200, some of it missing."""

    digest = "of these teachers"
    mask = None

    @staticmethod
    def depth(image_HW3):
        depth_HW = image_HW3[:, :, 0].astype(np.float32) + 1
        depth_HW[:2] = np.nan
        depth_HW[2, 0] = 500
        return depth_HW


def test_a_teachers_depth_is_stored_relative_to_the_largest_and_said_to_be(
    recipe, assets, tmp_path
):
    taught = msgspec.structs.replace(recipe, depth="teacher")
    materialise(taught, assets, tmp_path / "data", 2, teachers=Teachers())
    samples = open_samples(tmp_path / "data")
    assert samples.depth_unit == "relative"
    found_HW = samples[1].depth_m_HW
    wanted_HW = compose(taught, assets, 1, Teachers()).depth_m_HW / 500
    assert np.isnan(found_HW[:2]).all()
    np.testing.assert_allclose(found_HW[2:], wanted_HW[2:], atol=1e-5)
    info = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert (info["teachers_sha256"], info["depth_unit"]) == ("of these teachers", "relative")
    Teachers.digest, before = "of others", Teachers.digest
    try:
        with pytest.raises(UsageError, match="another teachers"):
            materialise(taught, assets, tmp_path / "data", 2, teachers=Teachers())
    finally:
        Teachers.digest = before


def test_a_data_set_may_have_no_depth(recipe, assets, tmp_path):
    bare = msgspec.structs.replace(recipe, depth="none")
    materialise(bare, assets, tmp_path / "data", 2)
    sample = open_samples(tmp_path / "data")[0]
    assert sample.depth_m_HW is None
    assert sample.mask_HW is not None
