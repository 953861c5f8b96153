"""Two small networks with batch norm that train in milliseconds, as a user's module would hold them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from depthmask.chain import MaskDepthChain, build
from depthmask.presets import ChainSpec, Kind, StageSpec
from depthmask.train.config import TrainingConfig, read_config
from depthmask.train.dataset import Batch
from depthmask.train.learner import Learner
from depthmask.train.loop import Beginning, train
from depthmask.train.material import Assets, load_assets

_STEP = Learner.step


class Mask(nn.Module):
    """image (B,3,H,W) -> mask (B,1,H,W)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        return torch.sigmoid(self.second(torch.relu(self.norm(self.first(image_B3HW)))))


class Depth(nn.Module):
    """image (B,3,H,W) -> depth (B,1,H/2,W/2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        return 4 + self.second(torch.relu(self.norm(self.first(image_B3HW))))


def chain(kind: Kind = "foreground", unit: Literal["m", "relative"] = "m") -> MaskDepthChain:
    """Both, with fresh weights that are always the same."""
    torch.manual_seed(0)
    return build(
        ChainSpec(
            preset="custom",
            kind=kind,
            mask=StageSpec(network="tiny_trained:Mask"),
            depth=StageSpec(network="tiny_trained:Depth"),
            depth_unit=unit,
        )
    )


def train_tiny(config: TrainingConfig, assets: Assets | None, out: Path, **options: Any) -> Path:
    """Train the two; gives the run's folder."""
    beginning = Beginning(start=chain(), teacher=options.pop("teacher", None))
    options = {"workers": 0, "beginning": beginning, **options}
    train(config, assets, out, **options)
    return out


def note_samples(path: Path) -> None:
    """Write which samples this process trains on, step by step."""
    noted: list[list[int]] = []
    step = _STEP

    def noting(learner: Learner, batch: Batch, *arguments: Any) -> dict[str, float]:
        noted.append(batch.number_B.tolist())
        path.write_text(json.dumps(noted))
        return step(learner, batch, *arguments)

    Learner.step = noting  # type: ignore[method-assign]


def main() -> None:
    """`python tiny_trained.py ASSETS CONFIG...`: to be killed, or started by torchrun.

    A CONFIG is a .json file; the run's folder is beside it, without the suffix.
    """
    torch.set_num_threads(1)
    assets = load_assets(Path(sys.argv[1]), "train")
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    for config in map(Path, sys.argv[2:]):
        out = config.with_suffix("")
        if "RANK" in os.environ:
            note_samples(out.with_suffix(f".samples-{os.environ['RANK']}.json"))
        train_tiny(read_config(config), assets, out)


if __name__ == "__main__":
    main()
