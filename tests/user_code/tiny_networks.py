"""Two small networks that export in seconds; also user factories, as `--mask PKG.MOD:FACTORY` takes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TinyMask(nn.Module):
    """image (B,3,H,W) -> mask (B,1,H,W)."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 1, 3, padding=1)
        self.gain = gain

    def forward(self, image_B3HW: Tensor) -> Tensor:
        hidden = torch.relu(self.first(image_B3HW)) * self.gain
        return torch.sigmoid(self.second(hidden) / self.gain)


class TinyDepth(nn.Module):
    """image (B,3,H,W) -> depth (B,1,H/2,W/2)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        return 2 + self.second(torch.relu(self.first(image_B3HW)))


def overflowing_mask() -> nn.Module:
    """A mask whose inner values leave float16's range, and whose output does not."""
    return TinyMask(gain=1e6)


def wrong_shape() -> nn.Module:
    """A network that is none: it gives three channels."""
    return nn.Conv2d(3, 3, 3, padding=1)


def raising() -> nn.Module:
    """A factory that fails."""
    raise RuntimeError("no weights here")


def not_a_network() -> str:
    """A factory of something else."""
    return "network"
