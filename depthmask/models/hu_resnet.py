"""`hu_resnet50`: ResNet-50 with the decoder, multi-scale fusion and refinement of Hu et al.

Hu, Ozay, Zhang, Okatani, "Revisiting Single Image Depth Estimation" (WACV 2019), as used in Hu,
Zhang, Okatani, "Visualization of Convolutional Neural Networks for Monocular Depth Estimation"
(ICCV 2019). The attributes `E`, `D`, `MFF` and `R` are the names that published checkpoints carry.

Shapes: B batch, C channels, H and W of the image; f1..f4 are the encoder's features at 1/4 to
1/32; h and w are twice f1's, that is about H/2 and W/2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthmask.models.blocks import UpProjection, conv, spatial_size
from depthmask.models.resnet import ResNet50Encoder

Features = tuple[Tensor, Tensor, Tensor, Tensor]


class Decoder(nn.Module):
    """Four up-projections from the deepest feature to twice the size of the shallowest.

    Shapes: f1..f4 to (B, 64, h, w).
    """

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.conv = conv(2048, 1024, 1)
        self.bn = nn.BatchNorm2d(1024)
        self.up1 = UpProjection(1024, 512, align_corners)
        self.up2 = UpProjection(512, 256, align_corners)
        self.up3 = UpProjection(256, 128, align_corners)
        self.up4 = UpProjection(128, 64, align_corners)

    def forward(self, features: Features) -> Tensor:
        """The decoded feature; the shallower features give only their sizes."""
        f1, f2, f3, f4 = features
        rows, columns = spatial_size(f1)
        x = torch.relu(self.bn(self.conv(f4)))
        x = self.up1(x, spatial_size(f3))
        x = self.up2(x, spatial_size(f2))
        x = self.up3(x, spatial_size(f1))
        x_B64hw: Tensor = self.up4(x, (2 * rows, 2 * columns))
        return x_B64hw


class MultiScaleFusion(nn.Module):
    """Every feature of the encoder brought to one size, 16 channels each, and mixed.

    Shapes: f1..f4 to (B, 64, h, w).
    """

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.up1 = UpProjection(256, 16, align_corners)
        self.up2 = UpProjection(512, 16, align_corners)
        self.up3 = UpProjection(1024, 16, align_corners)
        self.up4 = UpProjection(2048, 16, align_corners)
        self.conv = conv(64, 64, 5)
        self.bn = nn.BatchNorm2d(64)

    def forward(self, features: Features, size: tuple[int, int]) -> Tensor:
        """The fused feature at `size` (rows, columns)."""
        f1, f2, f3, f4 = features
        ups = [self.up1(f1, size), self.up2(f2, size), self.up3(f3, size), self.up4(f4, size)]
        return torch.relu(self.bn(self.conv(torch.cat(ups, dim=1))))


class Refinement(nn.Module):
    """Three 5x5 convolutions, the last one to a single channel, linear.

    Shapes: (B, 128, h, w) to (B, 1, h, w).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = conv(128, 128, 5)
        self.bn0 = nn.BatchNorm2d(128)
        self.conv1 = conv(128, 128, 5)
        self.bn1 = nn.BatchNorm2d(128)
        self.conv2 = conv(128, 1, 5, bias=True)

    def forward(self, x_B128hw: Tensor) -> Tensor:
        """The map that the network predicts."""
        x = torch.relu(self.bn0(self.conv0(x_B128hw)))
        x = torch.relu(self.bn1(self.conv1(x)))
        y_B1hw: Tensor = self.conv2(x)
        return y_B1hw


class HuResNet50(nn.Module):
    """Encoder `E`, decoder `D`, multi-scale feature fusion `MFF`, refinement `R`.

    There is no final activation: as a depth network the output is the depth, as a mask network
    the chain puts a sigmoid behind it. `align_corners` is how all bilinear resizing is done: True
    for the checkpoints of 2019.

    Shapes: image (B, 3, H, W) to (B, 1, h, w); h = 2 * ceil(H / 4), likewise w.
    """

    def __init__(self, align_corners: bool = False) -> None:
        super().__init__()
        self.E = ResNet50Encoder()
        self.D = Decoder(align_corners)
        self.MFF = MultiScaleFusion(align_corners)
        self.R = Refinement()

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """The unbounded map at about half the image's size."""
        features = self.E(image_B3HW)
        decoded_B64hw = self.D(features)
        fused_B64hw = self.MFF(features, spatial_size(decoded_B64hw))
        y_B1hw: Tensor = self.R(torch.cat((decoded_B64hw, fused_B64hw), dim=1))
        return y_B1hw
