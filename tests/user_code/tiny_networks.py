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


class DeterminantDepth(TinyDepth):
    """Computes what ONNX Runtime has on the CPU only."""

    def forward(self, image_B3HW: Tensor) -> Tensor:
        small_B33 = nn.functional.adaptive_avg_pool2d(image_B3HW, (3, 3)).mean(1)
        return super().forward(image_B3HW) + torch.linalg.det(small_B33)[:, None, None, None]


class UpsamplingDepth(nn.Module):
    """image (B,3,H,W) -> depth (B,1,H/2,W/2), with two convolutions that read one upsampled map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.down = nn.Conv2d(3, 64, 3, stride=8, padding=1)
        self.up = UpProjection(64, 16, scale=4)
        self.last = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        return 2 + self.last(self.up(torch.relu(self.down(image_B3HW))))


class UpProjection(nn.Module):
    """(B,C,h,w) -> (B,K,scale*h,scale*w): two branches over the upsampled map, added."""

    def __init__(self, channels_in: int, channels_out: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.first = nn.Conv2d(channels_in, channels_out, 5, padding=2)
        self.second = nn.Conv2d(channels_in, channels_out, 5, padding=2)

    def forward(self, features_BChw: Tensor) -> Tensor:
        large = nn.functional.interpolate(features_BChw, scale_factor=self.scale, mode="bilinear")
        return torch.relu(self.first(large)) + self.second(large)


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


class SingularValues(TinyMask):
    """A mask that uses an operation which ONNX does not have."""

    def forward(self, image_B3HW: Tensor) -> Tensor:
        mask = super().forward(image_B3HW)
        strengths = torch.linalg.svdvals(mask)  # the line to blame
        return torch.sigmoid(mask + strengths[..., None])


class Branching(TinyMask):
    """A mask whose way hangs on what it sees."""

    def forward(self, image_B3HW: Tensor) -> Tensor:
        mask = super().forward(image_B3HW)
        if mask.mean() > 0.5:  # the branch to blame
            mask = mask / 2
        return mask
