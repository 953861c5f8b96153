"""The loss of Hu, Zhang, Okatani, "Visualization of CNNs for Monocular Depth Estimation" (ICCV 2019).

With e = output - target: depth mean(ln(|e| + 0.5)); dx, dy the same of the difference of Sobel
gradients; normal mean(|1 - cos(n_output, n_target)|), n = (-dx, -dy, 1); and the mask's mean, which
is weighed by 5 there. One value per image, (B,), each; only valid pixels count.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from depthmask.train.losses import valid_depth

_OFFSET = 0.5


class RelevanceTerms(NamedTuple):
    """The terms that compare two depths; each (B,)."""

    depth_B: Tensor
    dx_B: Tensor
    dy_B: Tensor
    normal_B: Tensor


def relevance_terms(output_B1HW: Tensor, target_B1HW: Tensor) -> RelevanceTerms:
    """Compare two depths in metres; a target that is not positive and finite is missing.

    Gradients count where all that their kernel sees is valid (zero padding outside the image, as in
    the original). An image without any valid pixel costs zero.
    """
    valid_B1HW = valid_depth(target_B1HW)
    target_B1HW = torch.where(valid_B1HW, target_B1HW, 0.0)
    output_B1HW = torch.where(valid_B1HW, output_B1HW, 0.0)
    around_B1HW = functional.max_pool2d((~valid_B1HW).float(), 3, 1, 1) == 0
    output_B2HW, target_B2HW = _sobel(output_B1HW), _sobel(target_B1HW)
    difference_B2HW = output_B2HW - target_B2HW
    dx_B1HW, dy_B1HW = difference_B2HW[:, :1], difference_B2HW[:, 1:]
    cosine_BHW = functional.cosine_similarity(_normal(output_B2HW), _normal(target_B2HW), dim=1)
    return RelevanceTerms(
        _mean(_logarithm(output_B1HW - target_B1HW), valid_B1HW),
        _mean(_logarithm(dx_B1HW), around_B1HW),
        _mean(_logarithm(dy_B1HW), around_B1HW),
        _mean((1 - cosine_BHW[:, None]).abs(), around_B1HW),
    )


def mask_sparsity(mask_B1HW: Tensor) -> Tensor:
    """The mask's mean, (B,)."""
    return mask_B1HW.mean((1, 2, 3))


def _logarithm(error_B1HW: Tensor) -> Tensor:
    return torch.log(error_B1HW.abs() + _OFFSET)


def _sobel(map_B1HW: Tensor) -> Tensor:
    """Dx and dy, (B,2,H,W)."""
    along = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    kernels_2133 = torch.stack([along, along.T])[:, None].to(map_B1HW)
    return functional.conv2d(map_B1HW, kernels_2133, padding=1)


def _normal(gradient_B2HW: Tensor) -> Tensor:
    return torch.cat([-gradient_B2HW, torch.ones_like(gradient_B2HW[:, :1])], dim=1)


def _mean(map_B1HW: Tensor, counted_B1HW: Tensor) -> Tensor:
    total_B = torch.where(counted_B1HW, map_B1HW, 0.0).sum((1, 2, 3))
    return total_B / counted_B1HW.sum((1, 2, 3)).clamp(min=1)
