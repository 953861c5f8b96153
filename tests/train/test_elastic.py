"""Workers that train together by torchrun, one of whom is killed: the others wait for it."""

from __future__ import annotations

import json
import os
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

from depthmask.train.config import Phase, TrainingConfig
from depthmask.train.distributed import Processes
from depthmask.train.recipe import StageRecipe
from depthmask.train.schedule import Plan
from depthmask.train.sources import gather

STEPS = 60
CONFIG = TrainingConfig(
    recipe=StageRecipe(seed=2, canvas_px=32),
    phases=(Phase(32, 4, STEPS),),
    warmup_steps=0,
    micro_batch=2,
    save_every_steps=5,
    precision="fp32",  # in bf16 a sum of halves is not the whole
    freeze_batch_norm=True,  # so that two processes are one with twice the batch
)


def start(nodes, assets_folder, config_file):
    """Two workers: of one torchrun agent, or of one each, as on two machines that meet on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes)),
        *("--nproc-per-node", str(2 // nodes)),
        # Two nodes may need a second one, where one node is back before the other has noticed.
        *("--max-restarts", "5", "--rdzv-backend", "c10d", "--rdzv-id", "test"),
        *("--rdzv-endpoint", f"127.0.0.1:{port}", "--monitor-interval", "0.1"),
        *(tiny_trained.__file__, str(assets_folder), str(config_file)),
    )
    # A store that outlives a restart holds the addresses of the dead, and gloo waits for them.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(nodes)
    ]


def worker_of(agents, rank):
    """The process id of a rank."""
    for agent in agents:
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        for child in children:
            if f"\0RANK={rank}\0".encode() in Path(f"/proc/{child}/environ").read_bytes():
                return int(child)
    raise AssertionError(f"no process has rank {rank}")


def steps_logged(run):
    log = run / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def weights(run):
    return torch.load(sorted(run.glob("state-*.pt"))[-1], weights_only=True)["chain"]


@pytest.mark.parametrize(
    ("nodes", "rank"),
    [
        (1, 1),
        pytest.param(1, 0, marks=pytest.mark.slow),
        pytest.param(2, 1, marks=pytest.mark.slow),
        pytest.param(2, 0, marks=pytest.mark.slow),
    ],
)
def test_a_worker_killed_in_mid_epoch_costs_only_time(assets, assets_folder, tmp_path, nodes, rank):
    config_file = tmp_path / "run.json"
    config_file.write_bytes(msgspec.json.encode(CONFIG))
    run = tmp_path / "run"
    agents = start(nodes, assets_folder, config_file)
    try:
        deadline = time.monotonic() + 60
        while steps_logged(run) < 12 and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(worker_of(agents, rank), signal.SIGKILL)
        for agent in agents:
            _, errors = agent.communicate(timeout=150)
            assert agent.returncode == 0, errors
    finally:
        for agent in agents:
            agent.kill()
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").open()] == list(
        range(1, STEPS + 1)
    )
    # The last start took the steps after a saved state, and not all of them.
    noted = json.loads((tmp_path / "run.samples-0.json").read_text())
    resumed_at = STEPS - len(noted)
    assert resumed_at > 0
    assert resumed_at % CONFIG.save_every_steps == 0
    alone = weights(tiny_trained.train_tiny(CONFIG, assets, tmp_path / "alone"))
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, alone[name], rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8, 64, 512])
def test_at_every_world_size_each_sample_is_of_one_process(assets, count):
    config = replace(CONFIG, phases=(Phase(32, 512, 2),))
    plan = Plan(config, gather(config, assets).pools)
    for step in range(plan.steps):
        draws = plan.draws(step)
        shares = [Processes(rank, count, torch.device("cpu")).share(draws) for rank in range(count)]
        taken = [draw.number for share in shares for draw in share]
        assert sorted(taken) == sorted(draw.number for draw in draws)
        assert len(set(taken)) == len(draws)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
