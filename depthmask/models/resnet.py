"""The ResNet-50 encoder: He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016).

Attribute names are torchvision's, so its published ImageNet weights fit as they are; the stride of
a bottleneck is on its 3x3 convolution, as there.

Shapes: B batch, C channels, H and W of the image; a feature f1..f4 is at 1/4, 1/8, 1/16 and 1/32
of the image, every division rounded up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthmask.models.blocks import conv

EXPANSION = 4  # a bottleneck's output channels per channel of its width


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut.

    Shapes: (B, c_in, h, w) to (B, 4 * width, h / stride, w / stride).
    """

    def __init__(self, c_in: int, width: int, stride: int = 1) -> None:
        super().__init__()
        c_out = EXPANSION * width
        self.conv1 = conv(c_in, width, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, c_out, 1)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the shortcut and the three convolutions, rectified."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + self.downsample(x))


def bottlenecks(c_in: int, width: int, count: int, stride: int) -> nn.Sequential:
    """`count` bottlenecks in a row, of which the first has the stride."""
    first = Bottleneck(c_in, width, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * width, width) for _ in range(count - 1)))


class ResNet50Encoder(nn.Module):
    """ResNet-50 without average pool and `fc`.

    Shapes: image (B, 3, H, W) to f1 (B, 256, 1/4), f2 (B, 512, 1/8), f3 (B, 1024, 1/16) and
    f4 (B, 2048, 1/32).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv(3, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = bottlenecks(64, 64, count=3, stride=1)
        self.layer2 = bottlenecks(256, 128, count=4, stride=2)
        self.layer3 = bottlenecks(512, 256, count=6, stride=2)
        self.layer4 = bottlenecks(1024, 512, count=3, stride=2)

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The outputs of the four groups of blocks, the largest first."""
        x = torch.relu(self.bn1(self.conv1(image_B3HW)))
        x = nn.functional.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        f1 = self.layer1(x)
        f2 = self.layer2(f1)
        f3 = self.layer3(f2)
        return f1, f2, f3, self.layer4(f3)
