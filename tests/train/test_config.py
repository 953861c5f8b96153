from __future__ import annotations

import math

import msgspec
import pytest

from depthmask.errors import InputError, UsageError
from depthmask.train.config import Phase, TrainingConfig, read_config
from depthmask.train.recipe import GridRecipe, StageRecipe


@pytest.mark.parametrize(
    "name",
    [
        "bench-weights",
        "lite",
        "lite-mask",
        "lite-round2",
        "reference",
        "relevance-depth",
        "relevance-mask",
    ],
)
def test_a_shipped_configuration_is_valid(name):
    assert read_config(name).phases


def test_the_reference_schedule():
    config = read_config("reference")
    assert config.recipe == GridRecipe()
    assert config.recipe.count == 424_320
    assert [(p.resolution_px, p.batch_size, p.epochs) for p in config.phases] == [
        (38, 512, 2),
        (38, 256, 2),
        (48, 256, 6),
        (52, 256, 2),
        (64, 128, 2),
    ]
    assert config.validation_share == 0.2


def test_what_is_not_named_keeps_its_default(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("recipe: {kind: stage, seed: 7}\nsparsity: 2\n")
    assert read_config(path) == TrainingConfig(recipe=StageRecipe(seed=7), sparsity=2.0)


def test_every_error_is_named_at_once(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("presett: lite\nseed: -1\nprecision: fp8\nphases: [{resolution_px: 8}]\n")
    with pytest.raises(InputError) as caught:
        read_config(path)
    for wrong in ("presett", "seed", "precision", r"phases[0]"):
        assert wrong in str(caught.value)


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        "phases: []",
        "phases: [{resolution_px: 32, batch_size: 1, steps: 1}]",
        "phases: [{resolution_px: 32, batch_size: 2}]",
        "phases: [{resolution_px: 32, batch_size: 2, steps: 1, epochs: 1}]",
        "save_every_steps: 0",
        "validation_share: 1.0",
        "{mode: relevance, train: mask}",
        "recipe: {kind: none}",
    ],
)
def test_a_bad_configuration_is_refused(tmp_path, document):
    path = tmp_path / "config.yaml"
    path.write_text(document)
    with pytest.raises(InputError):
        read_config(path)


def test_a_missing_configuration_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_config(tmp_path / "none.yaml")


def test_values_made_in_python_are_held_to_the_same_ranges():
    with pytest.raises(UsageError, match="learning_rate"):
        TrainingConfig(learning_rate=-1.0)
    with pytest.raises(UsageError, match="either steps or epochs"):
        Phase(32, 2)


@pytest.mark.parametrize("name", ["hours", "learning_rate", "clip_norm", "encoder_rate"])
def test_a_number_that_is_not_finite_is_refused(name):
    """config.json could not hold it."""
    with pytest.raises(UsageError, match=f"{name} must be finite, but got inf"):
        TrainingConfig(**{name: math.inf})
    with pytest.raises(UsageError, match=f"{name} must be finite"):
        msgspec.structs.replace(TrainingConfig(), **{name: math.inf})


def test_a_configuration_survives_its_own_document():
    config = TrainingConfig(recipe=GridRecipe(seed=3), phases=(Phase(38, 8, epochs=2),), hours=0.5)
    assert msgspec.json.decode(msgspec.json.encode(config), type=TrainingConfig) == config
