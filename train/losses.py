"""Training losses. Shapes: B batch, H and W the network's size."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

NEAREST_M = 0.1
"""Below this depth the logarithm goes on as its tangent."""


def mask_loss(logits_B1HW: Tensor, mask_B1HW: Tensor, *, edge_weight: float = 4.0) -> Tensor:
    """Cross-entropy, weighted up along edges, + Dice (Milletari et al., "V-Net", 3DV 2016).

    The Dice term is per image, and its smoothing of a hundred pixels keeps images without any
    foreground well-behaved.
    """
    edge_B1HW = _edges(mask_B1HW)
    weight_B1HW = 1 + edge_weight * edge_B1HW
    entropy_B1HW = functional.binary_cross_entropy_with_logits(
        logits_B1HW, mask_B1HW, reduction="none"
    )
    entropy = (weight_B1HW * entropy_B1HW).sum() / weight_B1HW.sum()
    probability_B1HW = torch.sigmoid(logits_B1HW)
    smoothing = 100.0
    overlap_B = (probability_B1HW * mask_B1HW).sum((1, 2, 3))
    total_B = (probability_B1HW + mask_B1HW).sum((1, 2, 3))
    dice_B = (2 * overlap_B + smoothing) / (total_B + smoothing)
    return entropy + (1 - dice_B).mean()


def depth_loss(
    depth_m_B1HW: Tensor, target_m_B1HW: Tensor, mask_B1HW: Tensor, *, mask_weight: float = 4.0
) -> Tensor:
    """Mean absolute error of log depth, the foreground `mask_weight` times, + its gradient.

    The gradient term (Li and Snavely, "MegaDepth", CVPR 2018) keeps edges sharp. Any prediction is
    legal, also a negative one (a network without a last activation gives those at first).
    """
    error_B1HW = log_depth(depth_m_B1HW) - torch.log(target_m_B1HW)
    weight_B1HW = 1 + (mask_weight - 1) * mask_B1HW
    absolute = (weight_B1HW * error_B1HW.abs()).sum() / weight_B1HW.sum()
    return absolute + 0.5 * sum(
        (gradient.abs().mean() for gradient in _gradients(error_B1HW)), torch.zeros(())
    )


def log_depth(depth_m: Tensor) -> Tensor:
    """Natural logarithm of metres from `NEAREST_M` on; below, the tangent there: always finite."""
    tangent = math.log(NEAREST_M) + (depth_m - NEAREST_M) / NEAREST_M
    return torch.where(depth_m < NEAREST_M, tangent, torch.log(depth_m.clamp(min=NEAREST_M)))


def _edges(mask_B1HW: Tensor) -> Tensor:
    """1 within two pixels of the mask's outline, else 0."""
    dilated = functional.max_pool2d(mask_B1HW, 5, 1, 2)
    eroded = -functional.max_pool2d(-mask_B1HW, 5, 1, 2)
    return (dilated - eroded > 0.5).float()


def _gradients(map_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    return (
        map_B1HW[:, :, 1:] - map_B1HW[:, :, :-1],
        map_B1HW[:, :, :, 1:] - map_B1HW[:, :, :, :-1],
    )
