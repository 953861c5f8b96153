from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from torch import nn

from depthmask.errors import UsageError
from depthmask.models.initialise import fill_from_keys


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)
        self.register_buffer("mean", torch.tensor([0.5]))


def filled(seed=None):
    module = Small()
    fill_from_keys(module, seed)
    return module.state_dict()


def drawn(key, seed=None):
    checksum = zlib.crc32(key.encode())
    return np.random.default_rng(checksum if seed is None else [checksum, seed])


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_every_kind_of_key_follows_the_recipe(seed):
    state = filled(seed)
    expected = {
        "conv.weight": lambda g: g.normal(0, np.sqrt(2 / 27), (8, 3, 3, 3)),
        "conv.bias": lambda g: g.normal(0, 0.05, 8),
        "bn.weight": lambda g: g.uniform(0.6, 0.9, 8),
        "bn.bias": lambda g: g.normal(0, 0.05, 8),
        "bn.running_mean": lambda g: g.normal(0, 0.1, 8),
        "bn.running_var": lambda g: g.uniform(0.5, 1.5, 8),
        "fc.weight": lambda g: g.normal(0, 8**-0.5, (4, 8)),
        "fc.bias": lambda g: g.normal(0, 0.05, 4),
    }
    for key, draw in expected.items():
        np.testing.assert_array_equal(state[key].numpy(), draw(drawn(key, seed)).astype(np.float32))


def test_counters_and_constants_stay():
    state = filled()
    assert state["bn.num_batches_tracked"] == 0
    assert state["mean"] == 0.5


def test_the_same_seed_gives_the_same_weights_whatever_torch_drew_before():
    torch.manual_seed(1)
    first = filled(3)
    torch.manual_seed(2)
    second = filled(3)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_seeds_differ():
    weights = [filled(seed)["conv.weight"] for seed in (0, 1, 2)]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


def test_seed_0_is_no_seed():
    # numpy pads a seed with zeros, so `--init 0` gives the weights of the reference vectors.
    assert all(
        torch.equal(a, b) for a, b in zip(filled(0).values(), filled().values(), strict=True)
    )


def test_torch_generator_is_left_alone():
    module = Small()
    torch.manual_seed(5)
    fill_from_keys(module)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))


def test_parameters_stay_trainable_and_of_their_type():
    module = Small().half()
    fill_from_keys(module)
    assert all(p.requires_grad and p.grad is None for p in module.parameters())
    assert {p.dtype for p in module.parameters()} == {torch.float16}


def test_negative_seed_is_refused():
    with pytest.raises(UsageError, match="seed must be 0 or more, but got -1"):
        fill_from_keys(Small(), -1)
