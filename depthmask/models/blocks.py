"""What both reference networks are built from.

Shapes: B batch, C channels, H and W rows and columns. Lower-case `h`, `w` are a size below the
image's; a digit after the letter tells tensors of one function apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def spatial_size(x_BCHW: Tensor) -> tuple[int, int]:
    """Rows and columns of `x_BCHW`; symbolic while a graph with a dynamic size is traced."""
    return x_BCHW.shape[-2], x_BCHW.shape[-1]


def resize_bilinear(x_BChw: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """`x_BChw` at `size` (rows, columns), interpolated linearly and without antialiasing."""
    return nn.functional.interpolate(
        x_BChw, size=size, mode="bilinear", align_corners=align_corners
    )


def conv(
    c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1, bias: bool = False
) -> nn.Conv2d:
    """A convolution with an odd kernel, padded so that stride 1 keeps the size."""
    padding = dilation * (kernel // 2)
    return nn.Conv2d(c_in, c_out, kernel, stride, padding, dilation, bias=bias)


class UpProjection(nn.Module):
    """Resize, then a residual pair of branches that share a 5x5 neighbourhood.

    The up-projection of Laina et al., "Deeper Depth Prediction with Fully Convolutional
    Residual Networks" (3DV 2016), with the bilinear resize that Hu et al. (WACV 2019) put in
    place of unpooling. `conv1` and `conv2` read the same resized input: the exact rewrite of the
    export builds on that.

    Shapes: (B, c_in, h, w) and a target size (H, W) to (B, c_out, H, W).
    """

    def __init__(self, c_in: int, c_out: int, align_corners: bool = False) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.conv1 = conv(c_in, c_out, 5)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv1_2 = conv(c_out, c_out, 3)
        self.bn1_2 = nn.BatchNorm2d(c_out)
        self.conv2 = conv(c_in, c_out, 5)
        self.bn2 = nn.BatchNorm2d(c_out)

    def forward(self, x_BChw: Tensor, size: tuple[int, int]) -> Tensor:
        """`x_BChw` projected at `size` (rows, columns)."""
        x_BCHW = resize_bilinear(x_BChw, size, self.align_corners)
        branch1 = torch.relu(self.bn1(self.conv1(x_BCHW)))
        branch1 = self.bn1_2(self.conv1_2(branch1))
        branch2 = self.bn2(self.conv2(x_BCHW))
        return torch.relu(branch1 + branch2)

    def extra_repr(self) -> str:
        """The one setting that the children do not show."""
        return f"align_corners={self.align_corners}"
