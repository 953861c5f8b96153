from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from itertools import pairwise

import cv2
import msgspec
import numpy as np
import pytest

from depthmask.errors import InputError, UsageError
from depthmask.train.compose import compose
from depthmask.train.composed import assets_digest
from depthmask.train.material import (
    Assets,
    Cutout,
    PictureCache,
    load_assets,
    load_material,
    split_of,
)
from depthmask.train.recipe import GridRecipe, PhotoRecipe, StageRecipe
from depthmask.train.stage import Stage


def stage_of(recipe, index):
    """The empty stage of a sample: the first thing that its generator draws."""
    size = recipe.canvas_px
    return Stage.sample(np.random.default_rng([recipe.seed, index])).depth_m_HW(size, size)


def same(first, second):
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("image_HW3", "mask_HW", "depth_m_HW")
    )


def test_a_sample_is_what_it_says(recipe, assets):
    sample = compose(recipe, assets, 0)
    assert sample.image_HW3.shape == (64, 64, 3)
    assert sample.image_HW3.dtype == sample.mask_HW.dtype == np.uint8
    assert sample.mask_HW.shape == sample.depth_m_HW.shape == (64, 64)
    assert sample.depth_m_HW.dtype == np.float32
    assert repr(sample) == "Sample(64x64)"


def test_a_sample_depends_on_its_index_alone(recipe, assets):
    forwards = [compose(recipe, assets, index) for index in range(12)]
    backwards = [compose(recipe, assets, index) for index in reversed(range(12))][::-1]
    assert all(same(*pair) for pair in zip(forwards, backwards, strict=True))
    assert not any(same(*pair) for pair in pairwise(forwards))


def test_composing_leaves_the_assets_as_they_were(recipe, assets):
    before = [picture.copy() for picture in assets.backgrounds]
    cutouts = [cutout.premultiplied_HW4.copy() for cutout in assets.foregrounds]
    for index in range(20):
        compose(recipe, assets, index)
    for copy, picture in zip(before, assets.backgrounds, strict=True):
        np.testing.assert_array_equal(copy, picture)
    for copy, cutout in zip(cutouts, assets.foregrounds, strict=True):
        np.testing.assert_array_equal(copy, cutout.premultiplied_HW4)


def test_seeds_and_augmentation_make_other_samples(recipe, assets):
    other = msgspec.structs.replace(recipe, seed=4)
    clean = msgspec.structs.replace(recipe, augment=False)
    assert not same(compose(recipe, assets, 1), compose(other, assets, 1))
    assert not same(compose(recipe, assets, 1), compose(clean, assets, 1))


@pytest.mark.parametrize("augment", [True, False])
def test_depth_is_the_stage_outside_the_mask_and_nearer_inside(recipe, assets, augment):
    recipe = msgspec.structs.replace(recipe, augment=augment, empty_share=0.0)
    seen = 0
    for index in range(60):
        sample, stage_m_HW = compose(recipe, assets, index), stage_of(recipe, index)
        inside_HW = sample.mask_HW >= 128
        np.testing.assert_array_equal(sample.depth_m_HW[~inside_HW], stage_m_HW[~inside_HW])
        assert (sample.depth_m_HW[inside_HW] <= stage_m_HW[inside_HW]).all()
        assert (sample.depth_m_HW > 0.3).all()
        seen += int(inside_HW.any())
    assert seen > 50


def test_a_share_of_the_samples_is_empty(recipe, assets):
    never = msgspec.structs.replace(recipe, empty_share=0.0)
    always = msgspec.structs.replace(recipe, empty_share=1.0)
    assert any(compose(never, assets, index).mask_HW.any() for index in range(5))
    for index in range(5):
        sample = compose(always, assets, index)
        assert not sample.mask_HW.any()
        np.testing.assert_array_equal(sample.depth_m_HW, stage_of(always, index))


def test_without_augmentation_an_image_is_the_background_outside_the_mask(recipe, assets):
    clean = msgspec.structs.replace(recipe, augment=False, empty_share=0.0)
    empty = msgspec.structs.replace(clean, empty_share=1.0)
    for index in range(10):
        sample, background = compose(clean, assets, index), compose(empty, assets, index)
        outside_HW = sample.mask_HW == 0
        np.testing.assert_array_equal(
            sample.image_HW3[outside_HW], background.image_HW3[outside_HW]
        )


def cutout(height, width):
    return Cutout("thin", np.full((height, width, 4), 255, np.uint8))


@pytest.mark.parametrize("size", [(120, 1), (1, 120), (1, 1), (3, 2000), (2000, 3)])
@pytest.mark.parametrize(
    "recipe",
    [
        StageRecipe(canvas_px=64, empty_share=0.0),
        StageRecipe(canvas_px=32, augment=False, empty_share=0.0),
        PhotoRecipe(canvas_px=32, mask="none", depth="none"),
        GridRecipe(
            canvas_px=64, backgrounds=1, foregrounds=1, foreground_px=(20, 40), offset_px=(0, 24)
        ),
    ],
    ids=lambda recipe: f"{type(recipe).__name__}-{recipe.canvas_px}",
)
def test_pictures_of_any_shape_make_samples(recipe, size):
    odd_HW3 = np.full((*size, 3), 90, np.uint8)
    for assets in (
        Assets((cutout(*size),), (odd_HW3,)),
        Assets((cutout(30, 40),), (odd_HW3,)),
        Assets((cutout(*size),), (np.full((90, 120, 3), 90, np.uint8),)),
    ):
        for index in range(30):
            sample = compose(recipe, assets, index)
            assert sample.image_HW3.shape == (recipe.canvas_px, recipe.canvas_px, 3)


def test_splits_share_no_group(assets_folder):
    def groups(split):
        return {
            cutout.name.rsplit("_", 1)[0]
            for cutout in load_assets(assets_folder, split).foregrounds
        }

    train, test = groups("train"), groups("test")
    assert train
    assert test
    assert not train & test
    assert groups("all") == train | test
    assert {split_of(group) for group in train} == {"train"}


def test_a_material_without_index_is_split_by_file_name(assets_folder, tmp_path):
    for role in ("foregrounds", "backgrounds"):
        (tmp_path / role).symlink_to(assets_folder / role)
    found = load_assets(tmp_path, "train")
    assert 0 < len(found.foregrounds) <= 10
    assert repr(found).startswith("Assets(")


def test_missing_material_names_the_command_that_fetches_it(tmp_path):
    with pytest.raises(InputError, match=r"but got none\. Try `dmx data fetch --out .*nothing`"):
        load_assets(tmp_path / "nothing")


def write_own(folder, *files):
    """Pictures of one's own, without an index."""
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        channels = 4 if path.parent.name == "foregrounds" else 3
        image = np.full((40, 50, channels), 200, np.uint8)
        image[:5, :, channels - 1] = 0
        cv2.imwrite(str(path), image)
    return folder


def test_ones_own_pictures_of_the_other_split_are_named_with_the_way_out(tmp_path):
    of_train = [f"{n}.png" for n in range(30) if split_of(f"{n}.png") == "train"][:2]
    files = [f"{role}/{name}" for role in ("foregrounds", "backgrounds") for name in of_train]
    folder = write_own(tmp_path / "own", *files)
    wanted = r"own/foregrounds must hold .* split test, but its 2 are not\. Try `split: all` .*--split all"
    with pytest.raises(InputError, match=wanted) as caught:
        load_assets(folder, "test")
    assert "fetch" not in str(caught.value)
    assert len(load_assets(folder, "all").foregrounds) == 2


def test_nothing_is_fetched_into_a_folder_of_ones_own(tmp_path):
    folder = write_own(tmp_path / "own", "foregrounds/a.png")
    with pytest.raises(
        InputError, match=r"own/backgrounds must hold images, but got none"
    ) as caught:
        load_assets(folder)
    assert f"--out {folder}`" not in str(caught.value)
    assert "into another folder" in str(caught.value)


def test_photographs_of_objects_are_enough_for_photos(tmp_path):
    folder = write_own(tmp_path / "own", "photos/a.png")
    recipe = PhotoRecipe(split="all", mask="none", depth="none", canvas_px=32)
    assets = load_material(recipe, folder)
    assert (len(assets.backgrounds), len(assets.photos)) == (0, 1)
    assert compose(recipe, assets, 0).image_HW3.shape == (32, 32, 3)
    (folder / "photos" / "a.png").unlink()
    with pytest.raises(InputError, match=r"own/backgrounds or .*own/photos must hold images"):
        load_material(recipe, folder)


def test_a_foreground_must_have_alpha(tmp_path):
    for role in ("foregrounds", "backgrounds"):
        (tmp_path / role).mkdir()
        cv2.imwrite(str(tmp_path / role / "opaque.PNG"), np.full((9, 9, 3), 7, np.uint8))
    with pytest.raises(InputError, match="opaque everywhere"):
        load_assets(tmp_path)


def test_pictures_that_cannot_be_used_are_left_out_and_reported(assets_folder, tmp_path):
    folder = tmp_path / "assets"
    shutil.copytree(assets_folder, folder)
    whole = load_assets(folder)
    (folder / "foregrounds" / "a.png").write_bytes(b"broken")
    cv2.imwrite(str(folder / "foregrounds" / "zz.png"), np.full((9, 9, 3), 7, np.uint8))
    (folder / "backgrounds" / "m.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    found = load_assets(folder)
    assert [one.file.name for one in found.skipped] == ["a.png", "zz.png", "m.jpg"]
    assert "opaque everywhere" in found.skipped[1].reason
    assert assets_digest(found) == assets_digest(whole)
    with pytest.raises(InputError, match=r"a\.png"):
        load_assets(folder, strict=True)
    assert "zz.png" not in str(load_assets(folder, at_most={"foregrounds": 2}).skipped)


def test_a_fetched_picture_that_is_not_what_was_fetched_is_left_out(assets_folder, tmp_path):
    folder = tmp_path / "assets"
    shutil.copytree(assets_folder, folder)
    entries = json.loads((folder / "assets.json").read_text())
    for entry in entries:
        entry["sha256"] = hashlib.sha256((folder / entry["file"]).read_bytes()).hexdigest()
    (folder / "assets.json").write_text(json.dumps(entries))
    assert load_assets(folder).skipped == ()
    damaged = folder / entries[0]["file"]
    shutil.copy(folder / entries[1]["file"], damaged)
    shutil.copy(damaged, damaged.with_name("zz-own.png"))  # not listed, so not compared
    (skipped,) = load_assets(folder).skipped
    assert skipped.file == damaged
    assert "must have the sha256 that assets.json records" in skipped.reason
    with pytest.raises(InputError, match="sha256"):
        load_assets(folder, strict=True)


def test_a_recipe_gets_only_what_it_needs(assets_folder, tmp_path):
    folder = tmp_path / "assets"
    shutil.copytree(assets_folder, folder)
    stage, photos = StageRecipe(split="all"), PhotoRecipe(split="all", mask="none")
    assert load_material(stage, folder).photos == load_material(photos, folder).photos == ()
    (folder / "photos").mkdir()
    cv2.imwrite(str(folder / "photos" / "a.png"), np.zeros((40, 40, 3), np.uint8))
    assert load_material(stage, folder).photos == ()
    found = load_material(photos, folder)
    assert (len(found.foregrounds), len(found.photos)) == (0, 1)
    assert found.backgrounds


def test_the_cache_is_bounded_and_keeps_what_was_used_last():
    cache = PictureCache(limit_bytes=250)
    made = []

    def get(key):
        cache.get(key, lambda: made.append(key) or np.zeros(100, np.uint8))

    for key in "abacab":
        get(key)
    assert made == ["a", "b", "c", "b"]
    reopened = pickle.loads(pickle.dumps(cache))
    reopened.get("a", lambda: made.append("again") or np.zeros(1, np.uint8))
    assert made[-1] == "again"


@pytest.mark.parametrize("document", ["{", "[1]", json.dumps([{"file": "x"}])])
def test_a_damaged_index_is_an_input_error(tmp_path, document):
    (tmp_path / "assets.json").write_text(document)
    with pytest.raises(InputError, match="must be a list of assets"):
        load_assets(tmp_path)


@pytest.mark.parametrize(
    "fields", [{"canvas_px": 31}, {"max_foregrounds": 0}, {"seed": -1}, {"empty_share": 1.5}]
)
def test_impossible_recipes_are_refused(fields):
    with pytest.raises(UsageError, match=next(iter(fields))):
        StageRecipe(**fields)
