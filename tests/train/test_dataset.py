"""Batches: what is in them, and that the number of workers does not matter."""

from __future__ import annotations

import multiprocessing
import os
import signal

import cv2
import numpy as np
import pytest
import torch

from depthmask.errors import InputError, UnavailableError
from depthmask.frames import Normalisation, Resolution
from depthmask.samples import open_samples
from depthmask.train import dataset as dataset_module
from depthmask.train.dataset import Batch, MixedDataset, batches, sample_tensors
from depthmask.train.recipe import StageRecipe
from depthmask.train.schedule import Draw
from depthmask.train.sources import DatasetSource, RecipeSource, TrainingSample

NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def mixed(assets):
    return MixedDataset([RecipeSource(StageRecipe(canvas_px=32), assets)], NORMALISATION)


def draws(*batches):
    return iter([[Draw(0, index, index, 32) for index in batch] for batch in batches])


def test_a_batch_holds_what_is_known(mixed):
    (batch,) = batches(mixed, draws([4, 5, 6]), 0)
    assert batch.image_B3HW.shape == (3, 3, 32, 32)
    assert batch.mask_B1HW.shape == batch.depth_B1HW.shape == (3, 1, 32, 32)
    assert batch.mask_known_B.all()
    assert batch.metric_B.all()
    assert batch.number_B.tolist() == [4, 5, 6]
    part = batch.part(slice(1, 3))
    assert torch.equal(part.image_B3HW, batch.image_B3HW[1:])


def test_what_is_not_known_is_marked():
    image_HW3 = np.zeros((20, 30, 3), np.uint8)
    sample = TrainingSample(image_HW3, None, None, metric=False)
    made = sample_tensors(sample, Resolution(32, 48), NORMALISATION, 9)
    assert made.image_B3HW.shape == (3, 32, 48)
    assert not made.mask_known_B
    assert not made.metric_B
    assert (made.mask_B1HW == 0).all()
    assert made.depth_B1HW.isnan().all()


def test_depth_takes_the_nearest_sample():
    depth_HW = np.array([[1, 2], [3, 9]], np.float32).repeat(20, 0).repeat(20, 1)
    sample = TrainingSample(np.zeros((40, 40, 3), np.uint8), None, depth_HW, metric=True)
    made = sample_tensors(sample, Resolution(32, 32), NORMALISATION)
    assert set(made.depth_B1HW.unique().tolist()) == {1.0, 2.0, 3.0, 9.0}


def until_damaged(dataset, draws, workers):
    """The batches up to the one that cannot be read, and the message."""
    made = []
    with pytest.raises(InputError) as caught:
        made.extend(batches(dataset, draws, workers))
    assert not multiprocessing.active_children()  # though the error, and its frames, are still here
    return made, str(caught.value)


def test_workers_make_the_same_batches_and_name_what_is_damaged(mixed, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "b.png").write_bytes(b"no picture")
    stored = DatasetSource(open_samples(tmp_path), seed=0)
    dataset = MixedDataset([*mixed.sources, stored], NORMALISATION)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    asked = [[Draw(0, 4, 4, 32), Draw(1, 0, 5, 32)], [Draw(0, 9, 6, 48)], [Draw(1, 1, 7, 32)]]
    (here, ours), (there, theirs) = (
        until_damaged(dataset, iter(asked), workers) for workers in (0, 1)
    )
    assert ours == theirs
    assert "b.png" in ours
    assert "\n" not in ours
    assert len(here) == 2
    for ours, theirs in zip(here, there, strict=True):
        assert isinstance(theirs, Batch)
        torch.testing.assert_close(tuple(ours), tuple(theirs), rtol=0, atol=0, equal_nan=True)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked


def test_a_worker_that_dies_is_named_and_nothing_hangs(mixed, monkeypatch):
    monkeypatch.setattr(dataset_module, "_stay_out_of_the_way", os._exit)  # with its number, 0
    with pytest.raises(UnavailableError, match="--workers 0"):
        list(batches(mixed, draws([0, 1]), 1))
    assert not multiprocessing.active_children()
