"""A training from its first step to its checkpoint; the networks are tiny."""

from __future__ import annotations

import json
import os
import signal

import pytest
import tiny_trained
import torch
from msgspec.structs import replace

from depthmask.checkpoint import load_checkpoint, read_info
from depthmask.errors import CheckFailedError, InputError, OutputError, UsageError
from depthmask.train import learner, run_folder
from depthmask.train.composed import assets_digest
from depthmask.train.config import Phase, TrainingConfig
from depthmask.train.loop import Beginning, train
from depthmask.train.material import Assets
from depthmask.train.recipe import GridRecipe, StageRecipe

CONFIG = TrainingConfig(
    recipe=StageRecipe(seed=1, canvas_px=32),
    phases=(Phase(32, 2, 2), Phase(48, 2, 2)),
    warmup_steps=2,
)
GRID = GridRecipe(
    backgrounds=2,
    foregrounds=3,
    positions=2,
    canvas_px=64,
    foreground_px=(10, 30),
    offset_px=(0, 10),
)


class StoppedError(Exception):
    pass


def stop_at(wanted):
    def report(done):
        if done.step == wanted:
            raise StoppedError

    return report


def interrupt_at(wanted):
    def report(done):
        if done.step == wanted:
            os.kill(os.getpid(), signal.SIGINT)

    return report


def state_of(run):
    return torch.load(sorted(run.glob("state-*.pt"))[-1], weights_only=True)


def log_of(run):
    """Without what was measured in time."""
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "wait_share"} for line in lines]


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
    return tiny_trained.train_tiny(CONFIG, assets, tmp_path_factory.mktemp("run") / "run")


def test_a_run_leaves_a_checkpoint_that_says_how_it_was_made(run, assets):
    chain = load_checkpoint(run / "checkpoint", tiny_trained.chain().spec)
    training = read_info(run / "checkpoint").training
    assert training["steps"] == 4
    assert training["config"]["recipe"]["seed"] == 1
    assert training["origin"]["assets"] == assets_digest(assets)
    assert training["origin"]["encoder weights"] == ""
    averaged = state_of(run)["averaged"]
    for name, tensor in chain.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, averaged[name])


def test_the_log_has_one_line_a_step(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(0 <= line["wait_share"] <= 1 for line in lines)
    assert lines[0]["rate"] == pytest.approx(CONFIG.learning_rate / 2)
    assert {"loss_mask", "loss_depth"} < lines[0].keys()
    assert list(run.glob("events.out.tfevents.*"))


def test_networks_and_average_have_moved(run):
    start, state = tiny_trained.chain().state_dict(), state_of(run)
    for role in ("mask", "depth"):
        key = f"{role}.second.weight"
        weights = (start[key], state["chain"][key], state["averaged"][key])
        assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_preset_is_trained_from_random_weights(assets, tmp_path):
    config = replace(CONFIG, phases=(Phase(32, 2, 1),))
    result = train(config, assets, tmp_path / "run", workers=0)
    assert load_checkpoint(result.checkpoint).spec.preset == "lite"
    assert (result.steps, result.wait_share) == (1, None)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"mode": "relevance", "adapt_depth": True},
        {"mode": "distill"},
        {"recipe": GRID, "phases": (Phase(32, 4, epochs=1), Phase(38, 4, epochs=1))},
        {"validation_share": 0.2, "validation_limit": 2, "validate_every_steps": 2},
    ],
    ids=["supervised", "relevance", "distill", "epochs", "measured"],
)
def test_resuming_is_exact(assets, tmp_path, fields):
    config = replace(CONFIG, **fields)
    teacher = tiny_trained.chain("relevance", "relative") if config.mode == "distill" else None
    options = {"teacher": teacher}
    whole = tiny_trained.train_tiny(config, assets, tmp_path / "whole", **options)
    parts = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        tiny_trained.train_tiny(config, assets, parts, report=interrupt_at(3), **options)
    assert state_of(parts)["step"] == 3
    tiny_trained.train_tiny(config, assets, parts, **options)
    assert_equal(state_of(parts), state_of(whole))
    assert log_of(parts) == log_of(whole)
    assert (parts / "metrics.jsonl").exists() == ("validation_share" in fields)
    if "validation_share" in fields:
        assert (parts / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_a_killed_run_goes_on_from_its_last_saved_state(run, assets, tmp_path):
    config = replace(CONFIG, save_every_steps=2)
    with pytest.raises(StoppedError):  # step 3 is logged, but not saved
        tiny_trained.train_tiny(config, assets, tmp_path, report=stop_at(3))
    assert state_of(tmp_path)["step"] == 2
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "loss_')  # cut short
    (tmp_path / ".state-00000003.pt.x1y2").write_bytes(b"killed while it saved")
    steps = []
    tiny_trained.train_tiny(config, assets, tmp_path, report=lambda done: steps.append(done.step))
    assert steps == [3, 4]
    assert_equal(state_of(tmp_path), state_of(run))
    assert log_of(tmp_path) == log_of(run)
    assert not list(tmp_path.glob(".state-*"))


def test_the_last_states_are_kept_and_a_damaged_one_names_the_one_before(assets, tmp_path):
    config = replace(CONFIG, save_every_steps=1)
    tiny_trained.train_tiny(config, assets, tmp_path)
    newest, before = tmp_path / "state-00000004.pt", tmp_path / "state-00000003.pt"
    assert sorted(tmp_path.glob("state-*.pt")) == [before, newest]
    kept = newest.read_bytes()
    newest.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(InputError, match=r"Try removing it, to go on from state-00000003\.pt"):
        tiny_trained.train_tiny(config, assets, tmp_path)
    newest.unlink()
    tiny_trained.train_tiny(config, assets, tmp_path)
    assert_equal(torch.load(newest, weights_only=True), state_of(tmp_path))


def test_a_complete_run_trains_no_more(run, assets):
    before = state_of(run)
    steps = []
    tiny_trained.train_tiny(CONFIG, assets, run, report=lambda done: steps.append(done.step))
    assert steps == []
    assert_equal(state_of(run), before)


def test_signal_handlers_are_put_back(run, assets):
    before = signal.getsignal(signal.SIGINT)
    tiny_trained.train_tiny(CONFIG, assets, run)
    assert signal.getsignal(signal.SIGINT) == before


def test_time_that_is_used_up_ends_the_run_and_its_rate(assets, tmp_path):
    config = replace(CONFIG, phases=(Phase(32, 2, 10_000),), hours=0.3 / 3600)
    result = train(config, assets, tmp_path, workers=0, beginning=beginning())
    assert 1 <= result.steps < 10_000
    assert state_of(tmp_path)["step"] == result.steps
    again = train(config, assets, tmp_path, workers=0, beginning=beginning())
    assert again.steps == result.steps


def test_a_run_that_ends_by_the_clock_is_measured_at_its_end(assets, tmp_path):
    config = replace(
        CONFIG,
        phases=(Phase(32, 2, 10_000),),
        hours=0.3 / 3600,
        validation_share=0.2,
        validation_limit=2,
    )
    result = train(config, assets, tmp_path, workers=0, beginning=beginning())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [result.steps]
    assert read_info(tmp_path / "checkpoint").training["score"] is not None


def beginning():
    return Beginning(start=tiny_trained.chain())


def test_another_configuration_or_material_or_beginning_is_refused(run, assets):
    before = (run / "log.jsonl").read_bytes()
    with pytest.raises(UsageError, match="differs"):
        tiny_trained.train_tiny(replace(CONFIG, learning_rate=1.0), assets, run)
    fewer = Assets(assets.foregrounds[1:], assets.backgrounds)
    with pytest.raises(UsageError, match="same assets"):
        tiny_trained.train_tiny(CONFIG, fewer, run)
    other = tiny_trained.chain()
    torch.nn.init.zeros_(other.mask.second.weight)
    with pytest.raises(UsageError, match="same starting checkpoint"):
        train(CONFIG, assets, run, workers=0, beginning=Beginning(start=other))
    assert (run / "log.jsonl").read_bytes() == before


def test_a_state_of_another_run_is_refused(run, assets, tmp_path):
    other = tmp_path / "other"
    tiny_trained.train_tiny(replace(CONFIG, seed=5), assets, other)
    for state in run.glob("state-*.pt"):
        (other / state.name).write_bytes(state.read_bytes())
    with pytest.raises(UsageError, match="same configuration, but they differ"):
        tiny_trained.train_tiny(replace(CONFIG, seed=5), assets, other)


def test_a_mask_taught_by_labels_is_one_of_the_foreground(assets, tmp_path):
    start = tiny_trained.chain()
    start.spec = replace(start.spec, kind="relevance")
    for config, kind in (
        (CONFIG, "foreground"),
        (replace(CONFIG, train="depth"), "relevance"),
        (replace(CONFIG, mode="relevance"), "relevance"),
    ):
        short = replace(config, phases=(Phase(32, 2, 1),))
        out = tmp_path / f"{config.mode}-{config.train}"
        result = train(short, assets, out, workers=0, beginning=Beginning(start=start))
        assert read_info(result.checkpoint).chain.kind == kind


def test_a_teacher_belongs_to_distill(assets, tmp_path):
    with pytest.raises(UsageError, match="--teacher CHECKPOINT"):
        tiny_trained.train_tiny(replace(CONFIG, mode="distill"), assets, tmp_path / "run")
    with pytest.raises(UsageError, match="the mode is supervised"):
        tiny_trained.train_tiny(CONFIG, assets, tmp_path / "run", teacher=tiny_trained.chain())
    assert not (tmp_path / "run").exists()


def test_the_digest_of_weights_is_of_names_shapes_and_values():
    state = {"a": torch.arange(4.0), "b": torch.tensor(3)}
    digest = learner.weights_digest(state)
    assert learner.weights_digest(dict(reversed(state.items()))) == digest
    assert learner.weights_digest({**state, "b": torch.tensor(4)}) != digest
    assert learner.weights_digest({**state, "a": torch.arange(4.0).reshape(2, 2)}) != digest


def test_a_log_that_cannot_be_written_is_an_output_error(assets, tmp_path, monkeypatch):
    class FullBoard:
        def add_scalar(self, *_):
            raise OSError(28, "No space left on device")

        def close(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_folder, "summary_writer", lambda folder, step: FullBoard())
    with pytest.raises(OutputError, match="No space left on device"):
        tiny_trained.train_tiny(CONFIG, assets, tmp_path / "run")


def test_a_disk_that_fills_up_while_saving_keeps_the_state_before(
    run, assets, tmp_path, monkeypatch
):
    class FullFile:
        def __init__(self, file):
            self.file, self.room = file, 1000

        def write(self, data):
            self.room -= len(data)
            if self.room < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def flush(self):
            self.file.flush()

    config = replace(CONFIG, save_every_steps=1)
    write = run_folder.write_file

    def write_until_full(path, content):
        full = path.name == "state-00000003.pt"
        write(path, (lambda file: content(FullFile(file))) if full else content)

    with monkeypatch.context() as patched:
        patched.setattr(run_folder, "write_file", write_until_full)
        with pytest.raises(OutputError, match="No space left on device"):
            tiny_trained.train_tiny(config, assets, tmp_path)
    assert state_of(tmp_path)["step"] == 2
    tiny_trained.train_tiny(config, assets, tmp_path)
    assert_equal(state_of(tmp_path), state_of(run))


def test_a_folder_with_something_else_is_refused(assets, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"photo\.jpg"):
        tiny_trained.train_tiny(CONFIG, assets, tmp_path)
    with pytest.raises(UsageError, match="must be a folder"):
        tiny_trained.train_tiny(CONFIG, assets, tmp_path / "photo.jpg")
    with pytest.raises(OutputError, match="cannot be written"):
        tiny_trained.train_tiny(CONFIG, assets, tmp_path / "photo.jpg" / "run")


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04cut short"])
def test_a_damaged_state_is_an_input_error(assets, tmp_path, run, content):
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    (tmp_path / "state-00000002.pt").write_bytes(content)
    with pytest.raises(InputError, match="must be the saved state"):
        tiny_trained.train_tiny(CONFIG, assets, tmp_path)


@pytest.mark.parametrize("saved", [True, False])
def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_state(
    assets, tmp_path, monkeypatch, saved
):
    config = replace(CONFIG, save_every_steps=1 if saved else 100)
    forward = tiny_trained.Depth.forward
    calls = []

    def broken(network, image):
        calls.append(1)
        return forward(network, image) * (float("nan") if len(calls) == 3 else 1.0)

    monkeypatch.setattr(tiny_trained.Depth, "forward", broken)
    wanted = r"at step 2 .*state-00000002\.pt is the last good" if saved else "no state was saved"
    with pytest.raises(CheckFailedError, match=wanted):
        tiny_trained.train_tiny(config, assets, tmp_path)
    if saved:
        assert all(tensor.isfinite().all() for tensor in state_of(tmp_path)["chain"].values())


def test_encoder_weights_must_fit_a_network(assets, tmp_path):
    with pytest.raises(InputError, match="EfficientNet-Lite0"):
        train(
            replace(CONFIG, preset="lite"),
            assets,
            tmp_path / "run",
            beginning=Beginning(encoder_weights=({"x": torch.zeros(1)},)),
            workers=0,
        )
    assert not (tmp_path / "run").exists()


def test_metrics_pictures_and_the_best_checkpoint(assets, tmp_path):
    config = replace(CONFIG, validation_share=0.2, validation_limit=3, validate_every_steps=2)
    tiny_trained.train_tiny(config, assets, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    names = {"mask_iou", "mask_dice", "mask_f_beta", "mask_boundary_iou"} | {
        f"depth_frame_unaligned_{name}"
        for name in ["mse", "rmse", "mae", "abs_rel", "log10", "delta1", "delta2", "delta3"]
    }
    assert names < lines[-1].keys()
    for file in ("curves.png", "pictures/step-00000002.png", "pictures/step-00000004.png"):
        assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")
    best = read_info(tmp_path / "best").training
    scores = [(line["depth_in_mask_unaligned_delta1"] + line["mask_iou"]) / 2 for line in lines]
    assert best["score"] == pytest.approx(max(scores))
    last = read_info(tmp_path / "checkpoint").training
    assert last["score"] == pytest.approx(scores[-1])


@pytest.mark.gpu
def test_a_gpu_trains_as_the_cpu_does(run, assets, tmp_path):
    on_gpu = tiny_trained.train_tiny(
        replace(CONFIG, precision="fp32"), assets, tmp_path / "run", device="cuda"
    )
    for expected, found in zip(log_of(run), log_of(on_gpu), strict=True):
        assert found["loss_mask"] == pytest.approx(expected["loss_mask"], rel=0.05)
        assert found["loss_depth"] == pytest.approx(expected["loss_depth"], rel=0.05)
    load_checkpoint(on_gpu / "checkpoint", tiny_trained.chain().spec)


@pytest.mark.gpu
def test_resuming_on_a_gpu_goes_on_where_it_stopped(assets, tmp_path):
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    with pytest.raises(StoppedError):
        tiny_trained.train_tiny(CONFIG, assets, stopped, device="cuda", report=stop_at(3))
    for folder in (stopped, whole):
        tiny_trained.train_tiny(CONFIG, assets, folder, device="cuda")
    assert len(log_of(stopped)) == len(log_of(whole)) == 4
    assert log_of(stopped)[-1]["loss_depth"] == pytest.approx(
        log_of(whole)[-1]["loss_depth"], rel=0.02
    )
