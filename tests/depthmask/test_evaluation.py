"""At what resolution a checkpoint is measured."""

from __future__ import annotations

import pytest

from depthmask.evaluation import evaluate
from depthmask.frames import Resolution
from depthmask.samples import open_samples

pytest.importorskip("torch")


def measured_at(folder, training, **options):
    from depthmask.chain import build
    from depthmask.checkpoint import save_checkpoint

    save_checkpoint(build("lite", seed=0), folder, training=training)
    evaluation = evaluate(folder, open_samples(), limit=1, threads=1, **options)
    return [str(result.resolution) for result in evaluation.results]


def phases(*resolutions_px):
    return {"config": {"phases": [{"resolution_px": px, "steps": 3} for px in resolutions_px]}}


def test_by_default_it_is_the_one_that_its_training_ended_at(tmp_path):
    assert measured_at(tmp_path / "a", phases(32, 64)) == ["64"]
    asked = (Resolution(48, 64),)
    assert measured_at(tmp_path / "b", phases(32, 64), resolutions=asked) == ["48x64"]


@pytest.mark.parametrize("training", [{}, phases(), phases(7), {"config": {"phases": 3}}])
def test_without_a_word_of_that_it_is_224(tmp_path, training):
    assert measured_at(tmp_path / "a", training) == ["224"]
