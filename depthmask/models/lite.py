"""`lite`: a small network for the edge, used for both stages of the `lite` chain.

The encoder is EfficientNet-Lite0 (Tan and Le, "EfficientNet", ICML 2019; the Lite variants have ReLU6 in
place of swish and no squeeze-and-excite, so that they quantise well), without its classification head,
and takes the published ImageNet weights. The decoder adds the encoder's maps from coarse to fine with
depthwise-separable convolutions, which are cheap on CPUs.

Shapes: B batch, C channels, H and W the image's size, h and w = ceil(H / 2) and ceil(W / 2).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from depthmask.models.blocks import resize_bilinear


class _Stage(NamedTuple):
    """A row of table 1 of the EfficientNet paper, at width and depth 1.0."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_STEM_CHANNELS = 32
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
# The last stage at each scale: 1/2, 1/4, 1/8, 1/16, 1/32.
_TAPPED_STAGES = (0, 1, 2, 4, 6)
_DECODER_CHANNELS = (32, 64, 96, 128)  # at 1/2, 1/4, 1/8, 1/16
_BN_EPS = 1e-3  # as the published weights were trained


class _ConvBN(nn.Module):
    """Convolution without bias, batch norm, and ReLU6 unless `activate` is off."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
        )
        self.bn = nn.BatchNorm2d(channels_out, eps=_BN_EPS)
        self.activate = activate

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.bn(self.conv(x_BCHW))
        return functional.relu6(y_BCHW) if self.activate else y_BCHW


class _InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, depthwise convolution, project, add where the shape stays."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = channels_in * expansion
        self.expand = _ConvBN(channels_in, hidden, 1) if expansion > 1 else None
        self.depthwise = _ConvBN(hidden, hidden, kernel, stride=stride, groups=hidden)
        self.project = _ConvBN(hidden, channels_out, 1, activate=False)
        self.adds = stride == 1 and channels_in == channels_out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = x_BCHW if self.expand is None else self.expand(x_BCHW)
        y_BCHW = self.project(self.depthwise(y_BCHW))
        result_BCHW: Tensor = x_BCHW + y_BCHW if self.adds else y_BCHW
        return result_BCHW


class EfficientNetLite0Encoder(nn.Module):
    """EfficientNet-Lite0 without its head: five maps, from 1/2 to 1/32 of the image's size."""

    channels = tuple(_STAGES[stage].channels for stage in _TAPPED_STAGES)

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvBN(3, _STEM_CHANNELS, 3, stride=2)
        blocks: list[nn.Module] = []
        taps: list[int] = []
        channels = _STEM_CHANNELS
        for number, stage in enumerate(_STAGES):
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(
                    _InvertedResidual(
                        channels, stage.channels, stage.kernel, stride, stage.expansion
                    )
                )
                channels = stage.channels
            if number in _TAPPED_STAGES:
                taps.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self._taps = frozenset(taps)

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """Give the maps of `channels`, finest first."""
        x_BCHW = self.stem(image_B3HW)
        maps = []
        for number, block in enumerate(self.blocks):
            x_BCHW = block(x_BCHW)
            if number in self._taps:
                maps.append(x_BCHW)
        return maps


class _Merge(nn.Module):
    """Brings a coarse map to a finer one's size, adds the finer one, and mixes both."""

    def __init__(self, channels_coarse: int, channels_fine: int, channels_out: int) -> None:
        super().__init__()
        # The 1x1 convolution commutes with the resize, so it runs where the map is small.
        self.reduce = _ConvBN(channels_coarse, channels_out, 1, activate=False)
        self.lateral = _ConvBN(channels_fine, channels_out, 1, activate=False)
        self.depthwise = _ConvBN(channels_out, channels_out, 3, groups=channels_out)
        self.pointwise = _ConvBN(channels_out, channels_out, 1)

    def forward(self, coarse_BCHW: Tensor, fine_BCHW: Tensor) -> Tensor:
        lateral_BCHW = self.lateral(fine_BCHW)
        up_BCHW = resize_bilinear(self.reduce(coarse_BCHW), lateral_BCHW.shape[2:])
        merged_BCHW = functional.relu6(up_BCHW + lateral_BCHW)
        y_BCHW: Tensor = self.pointwise(self.depthwise(merged_BCHW))
        return y_BCHW


class _LiteTrunk(nn.Module):
    """Encoder and decoder: image (B,3,H,W) -> features (B,32,h,w)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = EfficientNetLite0Encoder()
        coarse = self.encoder.channels[-1]
        merges: list[nn.Module] = []
        for fine, out in zip(self.encoder.channels[-2::-1], _DECODER_CHANNELS[::-1], strict=True):
            merges.append(_Merge(coarse, fine, out))
            coarse = out
        self.decoder = nn.ModuleList(merges)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        maps: list[Tensor] = self.encoder(image_B3HW)
        *finer, x_BCHW = maps
        for merge in self.decoder:
            x_BCHW = merge(x_BCHW, finer.pop())
        return x_BCHW


class LiteMask(nn.Module):
    """image (B,3,H,W) -> mask (B,1,H,W) in (0, 1).

    The last layer gives 2x2 logits per half-resolution pixel (sub-pixel convolution, Shi et al., CVPR
    2016), so that edges keep the image's resolution at a quarter of the cost.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = _LiteTrunk()
        self.head = nn.Conv2d(_DECODER_CHANNELS[0], 4, 3, padding=1)

    def logits(self, image_B3HW: Tensor) -> Tensor:
        """The mask before its sigmoid, (B,1,H,W); the training losses want it."""
        logits_B1HW = functional.pixel_shuffle(self.head(self.trunk(image_B3HW)), 2)
        # An odd side has half a pixel too many at 2 * ceil(H / 2).
        return logits_B1HW[:, :, : image_B3HW.shape[2], : image_B3HW.shape[3]]

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Give the mask."""
        return torch.sigmoid(self.logits(image_B3HW))


class LiteDepth(nn.Module):
    """image (B,3,H,W) -> depth (B,1,h,w), between `near` and `far`, even steps in log depth.

    Depth spans orders of magnitude and is judged by ratios, so the network answers on a log scale: an
    error of its (quantised) last layer is the same ratio at every distance.
    """

    def __init__(self, near: float = 0.5, far: float = 20.0) -> None:
        super().__init__()
        if not 0 < near < far:
            raise ValueError(f"near and far must be 0 < near < far, but got {near} and {far}")
        self.trunk = _LiteTrunk()
        self.head = nn.Conv2d(_DECODER_CHANNELS[0], 1, 3, padding=1)
        self.near = near
        self.far = far

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Give the depth."""
        share_B1HW = torch.sigmoid(self.head(self.trunk(image_B3HW)))
        return self.near * torch.exp(math.log(self.far / self.near) * share_B1HW)
