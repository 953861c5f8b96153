"""DRN-D-22, the backbone, and `drn22_autoencoder`, the network that is built on it.

Backbone: Yu, Koltun, Funkhouser, "Dilated Residual Networks" (CVPR 2017). Autoencoder: the mask
network of Hu, Zhang, Okatani, "Visualization of Convolutional Neural Networks for Monocular Depth
Estimation" (ICCV 2019). `layer0`..`layer8` and `fc`, and `E.base` and `D`, are the names that
published checkpoints carry.

Shapes: B batch, C channels, H and W of the image. The stages 0 and 1 keep the image's size, 2, 3
and 4 halve it (rounded up), 5 to 8 stay at 1/8 and dilate instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthmask.models.blocks import UpProjection, conv, spatial_size


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut.

    Shapes: (B, c_in, h, w) to (B, c_out, h / stride, w / stride).
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = conv(c_in, c_out, 3, stride, dilation)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = conv(c_out, c_out, 3, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(conv(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the shortcut and the two convolutions, rectified."""
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + self.downsample(x))


def conv_stage(
    c_in: int, c_out: int, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A convolution, batch norm and ReLU."""
    return nn.Sequential(
        conv(c_in, c_out, kernel, stride, dilation), nn.BatchNorm2d(c_out), nn.ReLU()
    )


def residual_stage(c_in: int, c_out: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Two basic blocks, of which the first has the stride; the dilation is in every convolution."""
    return nn.Sequential(
        BasicBlock(c_in, c_out, stride, dilation), BasicBlock(c_out, c_out, dilation=dilation)
    )


def drn_d_22_stages() -> list[nn.Sequential]:
    """The nine stages, `layer0` to `layer8` or `base.0` to `base.8`; 512 channels come out."""
    return [
        conv_stage(3, 16, kernel=7),
        conv_stage(16, 16),
        conv_stage(16, 32, stride=2),
        residual_stage(32, 64, stride=2),
        residual_stage(64, 128, stride=2),
        residual_stage(128, 256, dilation=2),
        residual_stage(256, 512, dilation=4),
        conv_stage(512, 512, dilation=2),
        conv_stage(512, 512),
    ]


class DRND22(nn.Module):
    """The backbone with its classification head, as it is trained on ImageNet.

    The original pools over 28x28, all there is at 224x224. We pool over everything at any size:
    the same at 224x224, and one score per class elsewhere, where a fixed window fails (below) or
    makes several (above).

    Shapes: image (B, 3, H, W) to scores (B, num_classes).
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        for index, stage in enumerate(drn_d_22_stages()):
            self.add_module(f"layer{index}", stage)
        self.fc = conv(512, num_classes, 1, bias=True)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """The scores before the softmax."""
        *stages, head = self.children()
        x = image_B3HW
        for stage in stages:
            x = stage(x)
        scores_BC11: Tensor = head(x.mean(dim=(2, 3), keepdim=True))
        return scores_BC11.flatten(1)


class Encoder(nn.Module):
    """DRN-D-22 without pool and head.

    Shapes: image (B, 3, H, W) to the outputs of stage 2 (B, 32, 1/2), stage 3 (B, 64, 1/4) and
    stage 8 (B, 512, 1/8).
    """

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Sequential(*drn_d_22_stages())

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the decoder needs, the largest first."""
        at_half = self.base[:3](image_B3HW)
        at_quarter = self.base[3](at_half)
        return at_half, at_quarter, self.base[4:](at_quarter)


class Decoder(nn.Module):
    """Three up-projections back to the image's size and a 3x3 convolution to one channel.

    Shapes: (B, 512, 1/8) and three sizes to (B, 1, H, W).
    """

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.up1 = UpProjection(512, 256, align_corners)
        self.up2 = UpProjection(256, 128, align_corners)
        self.up3 = UpProjection(128, 64, align_corners)
        self.conv = conv(64, 1, 3, bias=True)

    def forward(
        self, x: Tensor, quarter: tuple[int, int], half: tuple[int, int], full: tuple[int, int]
    ) -> Tensor:
        """The map before the sigmoid, at `full` (rows, columns)."""
        x = self.up1(x, quarter)
        x = self.up2(x, half)
        x = self.up3(x, full)
        y_B1HW: Tensor = self.conv(x)
        return y_B1HW


class DRN22Autoencoder(nn.Module):
    """Encoder `E`, decoder `D` and a sigmoid.

    `align_corners` is how all bilinear resizing is done: True for the checkpoints of 2019.

    Shapes: image (B, 3, H, W) to (B, 1, H, W) in [0, 1].
    """

    def __init__(self, align_corners: bool = False) -> None:
        super().__init__()
        self.E = Encoder()
        self.D = Decoder(align_corners)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """The map in [0, 1] at the image's size."""
        at_half, at_quarter, at_eighth = self.E(image_B3HW)
        y_B1HW = self.D(
            at_eighth, spatial_size(at_quarter), spatial_size(at_half), spatial_size(image_B3HW)
        )
        return torch.sigmoid(y_B1HW)
