from __future__ import annotations

import json
import os
import signal

import msgspec
import pytest
import torch

from depthmask.checkpoint import load_checkpoint, read_info
from depthmask.errors import (
    CheckFailedError,
    InputError,
    OutputError,
    UnavailableError,
    UsageError,
)
from depthmask.frames import Normalisation, Resolution
from depthmask.models import encoder_weights
from depthmask.train import dataset as dataset_module
from depthmask.train import loop
from depthmask.train.compose import Assets
from depthmask.train.config import Phase, TrainingConfig, read_config
from depthmask.train.dataset import CompositeDataset, batches
from depthmask.train.loop import learning_rate_at, train
from depthmask.train.materialise import assets_digest
from depthmask.train.recipe import StageRecipe

CONFIG = TrainingConfig(
    recipe=StageRecipe(seed=1, canvas_px=32),
    phases=(Phase(32, 2, 2), Phase(64, 2, 2)),
    warmup_steps=2,
    save_every_steps=100,
    bf16=False,
)


class StoppedError(Exception):
    pass


def stop_at(wanted):
    def report(step, losses):
        if step == wanted:
            raise StoppedError

    return report


def interrupt_at(wanted):
    def report(step, losses):
        if step == wanted:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def state_of(run):
    return torch.load(run / "state.pt", weights_only=True)


def assert_equal(first, second):
    """Bit by bit, through all containers; the time taken aside."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first.keys() - {"seconds"}:
            assert_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for pair in zip(first, second, strict=True):
            assert_equal(*pair)
    else:
        assert first == second


@pytest.fixture(scope="module")
def run(assets, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("run") / "run"
    train(CONFIG, assets, out, workers=0)
    return out


def test_a_run_leaves_a_checkpoint_that_says_how_it_was_made(run, assets):
    chain = load_checkpoint(run / "checkpoint")
    assert chain.spec.preset == "lite"
    training = read_info(run / "checkpoint").training
    assert training["steps"] == 4
    assert training["config"]["recipe"]["seed"] == 1
    assert training["assets_sha256"] == assets_digest(assets)
    assert training["encoder_weights_sha256"] is None
    averaged = state_of(run)["averaged"]
    assert torch.equal(chain.state_dict()["mask.head.weight"], averaged["mask.head.weight"])


def test_a_run_logs_every_step(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert {"loss_mask", "loss_depth", "rate"} <= lines[0].keys()
    assert list(run.glob("events.out.tfevents.*"))


@pytest.mark.parametrize("step", [1, 3])  # 2 is the killed run below
def test_an_interrupted_run_ends_bit_by_bit_as_an_uninterrupted_one(run, assets, tmp_path, step):
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, assets, tmp_path, workers=0, report=interrupt_at(step))
    assert state_of(tmp_path)["step"] == step
    assert not (tmp_path / "checkpoint").exists()
    train(CONFIG, assets, tmp_path, workers=0)
    assert_equal(state_of(tmp_path), state_of(run))
    assert (tmp_path / "log.jsonl").read_text() == (run / "log.jsonl").read_text()


def test_so_it_does_in_bf16(assets, tmp_path):
    config = msgspec.structs.replace(CONFIG, bf16=True, phases=(Phase(32, 2, 2),))
    train(config, assets, tmp_path / "whole", workers=0)
    with pytest.raises(KeyboardInterrupt):
        train(config, assets, tmp_path / "parts", workers=0, report=interrupt_at(1))
    train(config, assets, tmp_path / "parts", workers=0)
    assert_equal(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))


def test_a_killed_run_goes_on_from_its_last_saved_state(run, assets, tmp_path):
    config = msgspec.structs.replace(CONFIG, save_every_steps=2)
    with pytest.raises(StoppedError):  # steps 3 is logged, but not saved
        train(config, assets, tmp_path, workers=0, report=stop_at(3))
    assert state_of(tmp_path)["step"] == 2
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "loss_')  # cut short
    steps = []
    train(config, assets, tmp_path, workers=0, report=lambda step, losses: steps.append(step))
    assert steps == [3, 4]
    assert_equal(state_of(tmp_path), state_of(run))
    assert (tmp_path / "log.jsonl").read_text() == (run / "log.jsonl").read_text()


def test_a_complete_run_trains_no_more(run, assets):
    before = state_of(run)
    steps = []
    train(CONFIG, assets, run, workers=0, report=lambda step, losses: steps.append(step))
    assert steps == []
    assert_equal(state_of(run), before)


def test_signal_handlers_are_put_back(run, assets):
    before = signal.getsignal(signal.SIGINT)
    train(CONFIG, assets, run, workers=0)
    assert signal.getsignal(signal.SIGINT) == before


def test_another_configuration_is_refused(run, assets):
    other = msgspec.structs.replace(CONFIG, learning_rate=1.0)
    with pytest.raises(UsageError, match="differs"):
        train(other, assets, run, workers=0)


def test_other_assets_or_encoder_weights_are_refused(run, assets, monkeypatch):
    before = (run / "log.jsonl").read_bytes()
    fewer = Assets(assets.foregrounds[1:], assets.backgrounds)
    with pytest.raises(UsageError, match="same assets"):
        train(CONFIG, fewer, run, workers=0)
    monkeypatch.setattr(encoder_weights, "load_encoder_weights", lambda network, state: None)
    weights = {"x": torch.zeros(1, dtype=torch.bfloat16), "n": torch.tensor(3)}
    with pytest.raises(UsageError, match="same encoder weights"):
        train(CONFIG, assets, run, encoder_weights=weights, workers=0)
    assert (run / "log.jsonl").read_bytes() == before


def test_the_digest_of_weights_is_of_names_shapes_and_values():
    state = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    digest = loop.weights_digest(state)
    assert loop.weights_digest(dict(reversed(state.items()))) == digest
    assert loop.weights_digest({**state, "b": torch.tensor(4)}) != digest
    assert loop.weights_digest({**state, "a": torch.arange(4.0).reshape(2, 2)}) != digest


def test_a_log_that_cannot_be_written_is_an_output_error(assets, tmp_path, monkeypatch):
    class FullBoard:
        def add_scalar(self, *_):
            raise OSError(28, "No space left on device")

        def close(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop, "_summary_writer", lambda out, step: FullBoard())
    with pytest.raises(OutputError, match="No space left on device"):
        train(CONFIG, assets, tmp_path / "run", workers=0)


def test_a_folder_with_something_else_is_refused(assets, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"photo\.jpg"):
        train(CONFIG, assets, tmp_path, workers=0)
    with pytest.raises(UsageError, match="must be a folder"):
        train(CONFIG, assets, tmp_path / "photo.jpg", workers=0)
    with pytest.raises(OutputError, match="cannot be written"):
        train(CONFIG, assets, tmp_path / "photo.jpg" / "run", workers=0)


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04cut short"])
def test_a_damaged_state_is_an_input_error(assets, tmp_path, content):
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(CONFIG))
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(InputError, match="must be the saved state"):
        train(CONFIG, assets, tmp_path, workers=0)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(assets, tmp_path, monkeypatch):
    config = msgspec.structs.replace(CONFIG, save_every_steps=1)
    calls = []

    def broken(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) == 3 else 1.0)

    real = loop.depth_loss
    monkeypatch.setattr(loop, "depth_loss", broken)
    with pytest.raises(CheckFailedError, match="at step 2 it is nan"):
        train(config, assets, tmp_path, workers=0)
    state = state_of(tmp_path)
    assert state["step"] == 2
    assert all(t.isfinite().all() for t in state["chain"].values())


@pytest.mark.parametrize("preset", ["seed", "hu2019"])
def test_a_preset_that_cannot_be_trained_so_far_is_refused(assets, tmp_path, preset):
    config = msgspec.structs.replace(CONFIG, preset=preset)
    with pytest.raises(UsageError, match=f"must be lite, but got {preset}"):
        train(config, assets, tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_encoder_weights_reach_both_networks_and_must_fit(assets, tmp_path):
    with pytest.raises(InputError, match="EfficientNet-Lite0"):
        train(CONFIG, assets, tmp_path / "run", encoder_weights={"x": torch.zeros(1)}, workers=0)
    assert not (tmp_path / "run").exists()


def test_workers_compose_the_same_batches(assets):
    mean = (0.5, 0.5, 0.5)
    dataset = CompositeDataset(CONFIG.recipe, assets, Resolution(32, 32), Normalisation(mean, mean))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    here, there = (list(batches(dataset, 2, 4, 2, workers)) for workers in (0, 1))
    assert_equal(here, there)
    assert [len(part) for part in here[0]] == [2, 2, 2]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
    assert torch.equal(here[1][0][0], dataset[6][0])


def test_a_worker_that_dies_is_named_and_nothing_hangs(assets, monkeypatch):
    mean = (0.5, 0.5, 0.5)
    dataset = CompositeDataset(CONFIG.recipe, assets, Resolution(32, 32), Normalisation(mean, mean))
    monkeypatch.setattr(dataset_module, "_stay_out_of_the_way", os._exit)  # with its number, 0
    with pytest.raises(UnavailableError, match="--workers 0"):
        list(batches(dataset, 2, 0, 1, 1))


def test_the_learning_rate_warms_up_and_ends_at_zero():
    config = msgspec.structs.replace(CONFIG, phases=(Phase(32, 2, 100),), warmup_steps=10)
    rates = [learning_rate_at(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(config.learning_rate / 10, rel=0.01)
    assert max(rates) == rates[9]
    assert rates[-1] < 0.001 * config.learning_rate


def test_a_mask_network_without_logits_is_trained_through_its_output():
    chain = loop.build("lite")
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        logits = loop.mask_logits(chain, image)
        wrapped = loop.MaskDepthChain(torch.nn.Sequential(chain.mask), chain.depth, chain.spec)
        torch.testing.assert_close(loop.mask_logits(wrapped, image), logits, rtol=1e-3, atol=1e-4)


def test_the_shipped_configuration_is_valid(request):
    config = read_config(request.config.rootpath / "configs" / "lite.json")
    assert config.preset == "lite"
    assert [(p.resolution_px, p.steps) for p in config.phases] == [
        (96, 1100),
        (128, 750),
        (160, 310),
        (224, 250),
    ]
    assert config.recipe == StageRecipe(seed=7)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", InputError),
        (b"{", InputError),
        (b'{"unknown": 1}', InputError),
        (b'{"phases": []}', UsageError),
        (b'{"phases": [{"resolution_px": 8, "batch_size": 2, "steps": 1}]}', UsageError),
        (b'{"phases": [{"resolution_px": 32, "batch_size": 1, "steps": 1}]}', UsageError),
        (b'{"save_every_steps": 0}', UsageError),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path, content, error):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(error):
        read_config(path)


def test_a_missing_configuration_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read_config(tmp_path / "none.json")


def test_a_training_starts_from_a_checkpoints_weights(assets, tmp_path):
    from depthmask.chain import build

    start = build("lite", seed=3)
    config = TrainingConfig(
        recipe=StageRecipe(canvas_px=32),
        phases=(Phase(32, 2, 1),),
        learning_rate=0.0,
        weight_decay=0.0,
    )
    checkpoint = train(config, assets, tmp_path / "run", start=start, workers=0)
    ours, theirs = load_checkpoint(checkpoint).mask.head.weight, start.mask.head.weight
    assert torch.equal(ours, theirs)
    with pytest.raises(UsageError, match="the same starting checkpoint"):
        train(config, assets, tmp_path / "run", workers=0)
