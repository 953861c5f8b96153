"""The reference networks with the weights of the reference vectors, built once per run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from depthmask.models.drn import DRND22, DRN22Autoencoder
from depthmask.models.hu_resnet import HuResNet50
from depthmask.models.initialise import fill_from_keys

DATA = Path(__file__).parents[2] / "data"
CLASSES = {
    "hu_resnet50": HuResNet50,
    "drn22_autoencoder": DRN22Autoencoder,
    "drn_d_22": DRND22,
}


class ReferenceNetworks:
    """Networks by name, filled from their keys, in evaluation mode; made on first use."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, bool], nn.Module] = {}

    def __call__(self, name: str, align_corners: bool = False) -> nn.Module:
        key = (name, align_corners)
        if key not in self._made:
            self._made[key] = self._make(name, align_corners).eval()
        return self._made[key]

    def _make(self, name: str, align_corners: bool) -> nn.Module:
        if not align_corners:
            network = CLASSES[name]()
            fill_from_keys(network)
            return network
        # The setting has no weights: share the other network's, for time and memory.
        with torch.device("meta"):
            network = CLASSES[name](align_corners=True)
        network.load_state_dict(self(name).state_dict(), assign=True)
        return network


@pytest.fixture(scope="session")
def networks():
    return ReferenceNetworks()


@pytest.fixture(scope="session")
def vectors():
    with np.load(DATA / "reference_vectors.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="session")
def state_dict_keys() -> dict[str, Any]:
    return json.loads((DATA / "state_dict_keys.json").read_text())
