"""Processes that train together by torchrun, and processes that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import tiny_trained
import torch
from msgspec.structs import replace

from depthmask.checkpoint import read_info
from depthmask.errors import UsageError
from depthmask.train import loop
from depthmask.train.config import Phase, TrainingConfig
from depthmask.train.distributed import Processes
from depthmask.train.recipe import StageRecipe
from depthmask.train.schedule import Plan
from depthmask.train.sources import gather

SCRIPT = Path(tiny_trained.__file__)
CONFIG = TrainingConfig(
    recipe=StageRecipe(seed=2, canvas_px=32),
    phases=(Phase(32, 4, 4), Phase(40, 8, 2)),
    warmup_steps=0,
    micro_batch=2,
    save_every_steps=3,
    precision="fp32",  # in bf16 a sum of halves is not the whole
)


def command(assets_folder, **configs):
    """To train each configuration in the folder that is its key."""
    for out, config in configs.items():
        Path(f"{out}.json").write_bytes(msgspec.json.encode(config))
    return [str(SCRIPT), str(assets_folder), *(f"{out}.json" for out in configs)]


def weights(run):
    return torch.load(sorted(run.glob("state-*.pt"))[-1], weights_only=True)["chain"]


def by_torchrun(arguments):
    return [[sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments]], {}


def by_hand(arguments):
    """What torchrun does, without a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    return [[sys.executable, *arguments]] * 2, shared


@pytest.fixture(scope="module", params=[by_hand, pytest.param(by_torchrun, marks=pytest.mark.slow)])
def together(request, assets_folder, tmp_path_factory):
    """Two processes: batch norm frozen, then live. Each notes the samples that it trained on."""
    folder = tmp_path_factory.mktemp("together")
    configs = {
        str(folder / name): replace(CONFIG, freeze_batch_norm=name == "frozen")
        for name in ("frozen", "live")
    }
    arguments = command(assets_folder, **configs)
    if request.param is by_torchrun:
        arguments = ["--nproc-per-node", "2", *arguments]
    commands, shared = request.param(arguments)
    started = [
        subprocess.Popen(
            command,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                **shared,
                **({"RANK": str(rank)} if shared else {}),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return {name: folder / name for name in ("frozen", "live")}


def test_two_processes_with_frozen_batch_norm_are_one_with_twice_the_batch(
    together, assets, tmp_path
):
    config = replace(CONFIG, freeze_batch_norm=True)
    alone = weights(tiny_trained.train_tiny(config, assets, tmp_path / "alone"))
    start = tiny_trained.chain().state_dict()
    for name, tensor in weights(together["frozen"]).items():
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-5, msg=name)
    assert not torch.equal(alone["mask.second.weight"], start["mask.second.weight"])


@pytest.mark.parametrize("name", ["frozen", "live"])
def test_processes_take_the_same_samples_as_one_without_overlap(together, assets, name):
    noted = [
        json.loads((together[name].with_suffix(f".samples-{rank}.json")).read_text())
        for rank in range(2)
    ]
    plan = Plan(CONFIG, gather(CONFIG, assets).pools)
    for step in range(plan.steps):
        first, second = (set(numbers[step]) for numbers in noted)
        assert not first & second
        assert first | second == {draw.number for draw in plan.draws(step)}


def test_one_of_the_processes_writes(together):
    run = together["live"]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert read_info(run / "checkpoint").training["origin"]["number of processes"] == "2"
    assert len(list(run.glob("events.out.tfevents.*"))) == 1


def test_another_number_of_processes_or_an_uneven_one_is_refused(together, assets, tmp_path):
    with pytest.raises(UsageError, match="same number of processes"):
        tiny_trained.train_tiny(CONFIG, assets, together["live"])
    material = gather(CONFIG, assets)
    three = Processes(0, 3, torch.device("cpu"))
    with pytest.raises(UsageError, match="of the 3 processes"):
        loop.Run(
            CONFIG,
            tmp_path / "run",
            material,
            Plan(CONFIG, material.pools),
            loop.Beginning(),
            three,
        )


def final_hash(run):
    return read_info(run / "checkpoint").weights_sha256


def kill_and_resume(config, assets, assets_folder, out, kills, rng):
    """Kill -9 at a random step each time; gives how often it was killed while it trained."""
    killed = 0
    for _ in range(kills):
        arguments = command(assets_folder, **{str(out): config})
        process = subprocess.Popen([sys.executable, *arguments])
        log = out / "log.jsonl"
        wanted = steps_logged(log) + rng.randint(1, 8)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and steps_logged(log) < wanted:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    tiny_trained.train_tiny(config, assets, out)
    return killed


def steps_logged(log):
    return log.read_bytes().count(b"\n") if log.exists() else 0


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_at_any_time_the_end_is_the_same(assets, assets_folder, tmp_path, kills):
    config = replace(CONFIG, phases=(Phase(32, 2, 8 + 12 * kills),))
    whole = tiny_trained.train_tiny(config, assets, tmp_path / "whole")
    out = tmp_path / "killed"
    killed = kill_and_resume(config, assets, assets_folder, out, kills, random.Random(kills))
    assert killed == kills
    assert final_hash(out) == final_hash(whole)
    assert steps_logged(out / "log.jsonl") == config.phases[0].steps
