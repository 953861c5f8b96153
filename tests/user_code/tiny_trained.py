"""Two small networks with batch norm that train in milliseconds, as a user's module would hold them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
