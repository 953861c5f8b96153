from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace

from depthmask.chain import build
from depthmask.checkpoint import load_checkpoint, read_info, save_checkpoint
from depthmask.errors import InputError
from depthmask.train.release import release


def test_a_run_or_its_best_checkpoint_is_released_in_half_the_size(tmp_path):
    for name in ("checkpoint", "best"):
        save_checkpoint(build("lite", seed=0), tmp_path / "run" / name, training={"name": name})
    for source, name in ((tmp_path / "run", "checkpoint"), (tmp_path / "run" / "best", "best")):
        release([source], tmp_path / "out")
        assert read_info(tmp_path / "out").training == {"name": name}
    sizes = [
        (folder / "weights.safetensors").stat().st_size
        for folder in (tmp_path / "out", tmp_path / "run" / "best")
    ]
    assert sizes[0] < 0.52 * sizes[1]


def test_several_are_averaged(tmp_path):
    chains = [build("lite", seed=seed) for seed in (0, 1, 2)]
    folders = [tmp_path / str(number) for number in range(3)]
    for number, (chain, folder) in enumerate(zip(chains, folders, strict=True)):
        save_checkpoint(chain, folder, training={"run": number})
    release(folders, tmp_path / "out")
    assert read_info(tmp_path / "out").training == {"mean_of": [{"run": k} for k in range(3)]}
    found = load_checkpoint(tmp_path / "out").state_dict()
    states = [chain.state_dict() for chain in chains]
    for name, tensor in states[0].items():
        expected = sum(state[name].double() for state in states) / 3
        if tensor.is_floating_point():
            assert torch.allclose(found[name].double(), expected, atol=1e-3, rtol=1e-3)


def test_other_chains_are_not_averaged(tmp_path):
    save_checkpoint(build("lite", seed=0), tmp_path / "a")
    other = build("lite", seed=0)
    other.spec = replace(other.spec, depth=replace(other.spec.depth, activation="sigmoid"))
    save_checkpoint(other, tmp_path / "b")
    with pytest.raises(InputError, match="must be of one chain"):
        release([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_an_unfinished_run_is_an_input_error(tmp_path):
    with pytest.raises(InputError):
        release([tmp_path], tmp_path / "out")
