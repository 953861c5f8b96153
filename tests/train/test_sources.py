"""Samples of recipes and data sets, and how they are mixed."""

from __future__ import annotations

import json
import math
import pickle

import cv2
import numpy as np
import pytest

from depthmask.errors import InputError, UsageError
from depthmask.samples import open_samples
from depthmask.train.config import TrainingConfig
from depthmask.train.materialise import materialise
from depthmask.train.recipe import GridRecipe, PhotoRecipe, StageRecipe
from depthmask.train.schedule import UNSEEN
from depthmask.train.sources import (
    DatasetSource,
    TrainingSample,
    framed,
    gather,
    open_data,
    with_object_of,
)


def write_dataset(folder, count=4, *, mask=True, depth=True, unit="m", size=(40, 50)):
    rng = np.random.default_rng(count)
    folder.mkdir()
    info = {"schema": 1, "count": count, "depth_scale_m": 0.001, "depth_unit": unit}
    (folder / "dataset.json").write_text(json.dumps(info))
    for number in range(count):
        image_HW3 = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image_HW3)
        if mask:
            mask_HW = np.zeros(size, np.uint8)
            mask_HW[5:20, 10:30] = 255
            cv2.imwrite(str(folder / f"{number}.mask.png"), mask_HW)
        if depth:
            depth_HW = rng.integers(1000, 5000, size, dtype=np.uint16)
            cv2.imwrite(str(folder / f"{number}.depth.png"), depth_HW)
    return folder


@pytest.fixture
def sample():
    columns_HW = np.tile(np.arange(60, dtype=np.float32), (40, 1))
    image_HW3 = np.repeat((4 * columns_HW)[:, :, None], 3, axis=2).astype(np.uint8)
    mask_HW = np.where(columns_HW > 30, 255, 0).astype(np.uint8)
    return TrainingSample(image_HW3, mask_HW, 1 + columns_HW, metric=True)


def test_framing_is_a_pure_function_of_its_random_numbers(sample):
    made = [framed(sample, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert np.array_equal(made[0].image_HW3, made[1].image_HW3)
    assert made[0].image_HW3.shape != made[2].image_HW3.shape


@pytest.mark.parametrize("seed", range(4))
def test_image_mask_and_depth_stay_together_and_metres_shrink_with_the_crop(sample, seed):
    made = framed(sample, np.random.default_rng(seed))
    height, width = made.image_HW3.shape[:2]
    assert made.mask_HW.shape == made.depth_HW.shape == (height, width)
    share = width / 60
    assert 0.69 < share <= 1
    column = made.depth_HW[0] / (made.depth_HW[0] / (1 + np.arange(60))[:1]).mean()
    assert np.all(np.diff(column) > 0) or np.all(np.diff(column) < 0)  # perhaps mirrored
    step = np.abs(np.diff(made.depth_HW[0])).mean()
    assert step == pytest.approx(share, abs=0.02)
    inside = made.depth_HW[made.mask_HW > 0] / step
    assert inside.min() > 31


def test_a_relative_depth_keeps_its_values(sample):
    relative = TrainingSample(sample.image_HW3, None, sample.depth_HW, metric=False)
    made = framed(relative, np.random.default_rng(0))
    assert made.mask_HW is None
    assert set(np.unique(made.depth_HW)) <= set(np.unique(sample.depth_HW))


def test_a_data_sets_sample_hangs_on_index_and_number(tmp_path):
    source = DatasetSource(open_samples(write_dataset(tmp_path / "d")), seed=3)
    again = pickle.loads(pickle.dumps(source))
    first = source.sample(1, 10)
    assert np.array_equal(first.image_HW3, again.sample(1, 10).image_HW3)
    other = source.sample(1, 11)
    assert first.image_HW3.shape != other.image_HW3.shape or not np.array_equal(
        first.image_HW3, other.image_HW3
    )


def test_an_object_of_another_sample_is_pasted_with_its_mask_and_no_depth(sample):
    image_HW3 = np.full((30, 30, 3), 200, np.uint8)
    mask_HW = np.zeros((30, 30), np.uint8)
    mask_HW[10:20, 10:20] = 255
    image_HW3[mask_HW > 0] = 9, 90, 250
    empty = TrainingSample(sample.image_HW3, np.zeros_like(sample.mask_HW), sample.depth_HW, True)
    made = with_object_of(
        TrainingSample(image_HW3, mask_HW, None, False), empty, np.random.default_rng(2)
    )
    pasted_HW = made.mask_HW == 255
    assert 0.02 < pasted_HW.mean() < 0.9
    assert np.all(made.image_HW3[pasted_HW] == (9, 90, 250))
    assert np.all(made.image_HW3[made.mask_HW == 0] == sample.image_HW3[made.mask_HW == 0])
    assert np.array_equal(np.isnan(made.depth_HW), made.mask_HW > 0)


def test_a_mask_in_doubt_or_of_everything_is_no_object(sample):
    for mask_HW in (np.full((40, 60), 120, np.uint8), np.full((40, 60), 255, np.uint8)):
        donor = TrainingSample(sample.image_HW3, mask_HW, None, False)
        assert with_object_of(donor, sample, np.random.default_rng(0)) is sample


def test_objects_are_pasted_out_of_training_samples_only(assets, tmp_path):
    data = [open_data(str(write_dataset(tmp_path / "a", 8)))]
    config = TrainingConfig(data_share=1, validation_share=0.25, paste_share=1)
    material = gather(config, None, data)
    assert material.sources[1].donors == tuple(material.pools[1].train)
    assert not set(material.sources[1].donors) & set(material.pools[1].validation)
    masks = [material.sources[1].sample(0, number).mask_HW > 0 for number in range(8)]
    assert len({int(mask_HW.sum()) for mask_HW in masks}) == 8
    assert material.validation_sources[1].sample(0, 0).mask_HW.sum() == 15 * 20 * 255


@pytest.mark.parametrize(("unit", "metric"), [("m", True), ("relative", False)])
def test_a_data_set_says_whether_its_depth_is_in_metres(tmp_path, unit, metric):
    folder = write_dataset(tmp_path / "d", mask=False, unit=unit)
    read = DatasetSource(open_samples(folder), 0, augment=False).sample(0, 0)
    assert read.metric == metric
    assert read.mask_HW is None


def test_shares_are_those_of_the_configuration_and_the_weights(assets, tmp_path):
    first, second = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b", 8)
    data = [open_data(f"{first}:3"), open_data(str(second))]
    config = TrainingConfig(data_share=0.4, validation_share=0.25, validation_limit=7)
    material = gather(config, assets, data)
    assert [pool.share for pool in material.pools] == pytest.approx([0.6, 0.3, 0.1])
    assert [len(pool.validation) for pool in material.pools] == [7, 1, 2]
    assert [pool.train is None for pool in material.pools] == [True, False, False]
    assert material.pools[0].validation.min() == UNSEEN


def test_without_a_word_half_of_the_samples_are_the_data_sets(assets, tmp_path):
    data = [open_data(str(write_dataset(tmp_path / "a")))]
    assert [pool.share for pool in gather(TrainingConfig(), assets, data).pools] == [0.5, 0.5]
    assert [pool.share for pool in gather(TrainingConfig(), assets).pools] == [1.0]


def test_the_digest_sees_files_and_weights(assets, tmp_path):
    folder = write_dataset(tmp_path / "a")

    def digest(argument):
        return gather(TrainingConfig(), assets, [open_data(argument)]).digests["data sets"]

    before = digest(str(folder))
    assert digest(f"{folder}:2") != before
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes() + b"0")
    assert digest(str(folder)) != before


def test_the_digest_is_of_the_samples_and_not_of_what_else_is_there(tmp_path):
    folder = write_dataset(tmp_path / "a", mask=False)
    config = TrainingConfig(data_share=1)

    def digest():
        return gather(config, None, [open_data(str(folder))]).digests["data sets"]

    before = digest()
    (folder / "notes.txt").write_text("mine")
    (folder / "0.png.license").write_text("mine")
    assert digest() == before
    cv2.imwrite(str(folder / "0.mask.png"), np.zeros((40, 50), np.uint8))
    assert digest() != before


@pytest.mark.parametrize("form", ["shards", "files"])
def test_a_composed_data_set_is_what_its_description_says(recipe, assets, tmp_path, form):
    folder = tmp_path / "a"
    materialise(recipe, assets, folder, 3, form=form, shard_size=2)
    config = TrainingConfig(data_share=1)

    def digest():
        return gather(config, None, [open_data(str(folder))]).digests["data sets"]

    before = digest()
    sheet = folder / ("sheet.png" if form == "shards" else "sheet.pdf")
    sheet.write_bytes(b"a preview")
    (folder / ("shard-000001.tar" if form == "shards" else "000001.jpg")).unlink()
    materialise(recipe, assets, folder, 3, form=form, shard_size=2)
    assert digest() == before
    materialise(recipe, assets, folder, 2, form=form, shard_size=2, overwrite=True)
    assert digest() != before


def test_a_picture_that_a_composed_data_set_does_not_count_is_another_sample(
    recipe, assets, tmp_path
):
    folder = tmp_path / "a"
    materialise(recipe, assets, folder, 2, form="files")
    config = TrainingConfig(data_share=1)
    before = gather(config, None, [open_data(str(folder))]).digests
    cv2.imwrite(str(folder / "sheet.png"), np.zeros((40, 50, 3), np.uint8))
    assert gather(config, None, [open_data(str(folder))]).digests != before


def test_a_cut_shard_is_found_when_the_data_set_is_opened(recipe, assets, tmp_path):
    folder = tmp_path / "a"
    materialise(recipe, assets, folder, 3, shard_size=1)
    path = folder / "shard-000001.tar"
    path.write_bytes(path.read_bytes()[:2000])
    for argument in (str(folder), f"{folder}:2"):
        with pytest.raises(InputError, match=r"shard-000001\.tar must be a whole shard"):
            open_data(argument)


@pytest.mark.parametrize(
    ("fields", "has_assets", "has_data", "message"),
    [
        ({"data_share": 0.5}, True, False, "data_share of 0.5"),
        ({"data_share": 0.0}, True, True, "data_share of 0"),
        ({}, False, True, "Try --assets"),
        ({"recipe": PhotoRecipe()}, True, False, "dmx data compose"),
        ({"recipe": StageRecipe(depth="teacher")}, True, False, "dmx data compose"),
    ],
)
def test_material_that_does_not_agree_is_refused(
    assets, tmp_path, fields, has_assets, has_data, message
):
    data = [open_data(str(write_dataset(tmp_path / "d")))] if has_data else []
    with pytest.raises(UsageError, match=message):
        gather(TrainingConfig(**fields), assets if has_assets else None, data)


def test_a_data_set_without_labels_is_refused(tmp_path):
    folder = write_dataset(tmp_path / "d", mask=False, depth=False)
    with pytest.raises(InputError, match="masks or depths"):
        gather(TrainingConfig(data_share=1.0), None, [open_data(str(folder))])


@pytest.mark.parametrize("weight", ["0", "-1", "inf", "nan"])
def test_a_weight_must_be_above_0(tmp_path, weight):
    folder = write_dataset(tmp_path / "d")
    with pytest.raises(UsageError, match="above 0"):
        open_data(f"{folder}:{weight}")


def test_a_missing_data_set_is_an_input_error(tmp_path):
    with pytest.raises(InputError):
        open_data(str(tmp_path / "none:such"))


def test_a_grids_pool_is_its_training_indices(assets):
    recipe = GridRecipe(backgrounds=2, foregrounds=3)
    config = TrainingConfig(recipe=recipe, validation_share=0.2)
    (pool,) = gather(config, assets).pools
    assert (len(pool.train), len(pool.validation)) == (192, 48)
    assert math.isclose(pool.share, 1)
