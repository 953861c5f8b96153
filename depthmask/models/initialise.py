"""Weights that follow from their names: for parity checks and vectors, without a checkpoint.

PyTorch's own initialisation leaves a mask of range 1e-5, where rounding alone is 5e-3 of the
range. This one spreads the outputs, and any implementation of the same networks can repeat it.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from depthmask.errors import UsageError

BUFFERS_FILLED = ("running_mean", "running_var")  # other buffers are constants, not weights


def fill_from_keys(module: nn.Module, seed: int | None = None) -> None:
    """Fill every parameter and running statistic of `module` from its own state-dict key.

    A value depends on the key, the shape and the seed alone: not on the order, on the other
    keys, nor on any global generator. Keys are `module`'s: fill the networks of a chain one by one.
    `seed` None gives the weights of the reference vectors, and so does 0 (numpy pads a seed with
    zeros); a negative one is a `UsageError`.
    """
    if seed is not None and seed < 0:
        raise UsageError(f"seed must be 0 or more, but got {seed}. Try --init 0")
    parameters = dict(module.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            if key in parameters or key.endswith(BUFFERS_FILLED):
                values = _values(key, tuple(tensor.shape), _generator(key, seed))
                tensor.copy_(torch.from_numpy(np.asarray(values, dtype=np.float32)))


def _generator(key: str, seed: int | None) -> np.random.Generator:
    checksum = zlib.crc32(key.encode())
    return np.random.default_rng(checksum if seed is None else [checksum, seed])


def _values(
    key: str, shape: tuple[int, ...], generator: np.random.Generator
) -> npt.NDArray[np.float64]:
    if key.endswith("running_var"):
        return generator.uniform(0.5, 1.5, shape)
    if key.endswith("running_mean"):
        return generator.normal(0.0, 0.1, shape)
    if len(shape) == 4:
        return generator.normal(0.0, np.sqrt(2 / (shape[1] * shape[2] * shape[3])), shape)
    if len(shape) == 2:
        return generator.normal(0.0, shape[1] ** -0.5, shape)
    if key.endswith(".weight"):
        return generator.uniform(0.6, 0.9, shape)
    return generator.normal(0.0, 0.05, shape)
