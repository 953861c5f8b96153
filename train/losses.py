"""Training losses. Shapes: B batch, H and W the network's size.

Every loss is one value per image, (B,), and looks at no other image. So a batch's loss is the mean
however the batch is split over parts and processes, and an image without a label costs exactly zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

NEAREST_M = 0.1
"""Below this depth the logarithm, and one over depth, go on as their tangents."""
_SCALES = 4
_TRIMMED_SHARE = 0.2
_SMALLEST_SPREAD = 1e-3  # of a prediction's disparity, 1/m


def mask_loss(logits_B1HW: Tensor, mask_B1HW: Tensor, *, edge_weight: float = 4.0) -> Tensor:
    """Cross-entropy, weighted up along edges, + Dice (Milletari et al., "V-Net", 3DV 2016); (B,).

    The Dice term's smoothing of a hundred pixels keeps images without any foreground well-behaved.
    """
    weight_B1HW = 1 + edge_weight * _edges(mask_B1HW)
    entropy_B1HW = functional.binary_cross_entropy_with_logits(
        logits_B1HW, mask_B1HW, reduction="none"
    )
    entropy_B = _sum(weight_B1HW * entropy_B1HW) / _sum(weight_B1HW)
    probability_B1HW = torch.sigmoid(logits_B1HW)
    smoothing = 100.0
    overlap_B, total_B = _sum(probability_B1HW * mask_B1HW), _sum(probability_B1HW + mask_B1HW)
    dice_B = (2 * overlap_B + smoothing) / (total_B + smoothing)
    return entropy_B + (1 - dice_B)


def metric_depth_loss(depth_m_B1HW: Tensor, target_m_B1HW: Tensor, weight_B1HW: Tensor) -> Tensor:
    """Weighted mean absolute error of log depth + its gradient, over the valid pixels; (B,).

    The gradient term (Li and Snavely, "MegaDepth", CVPR 2018) keeps edges sharp. Any prediction is
    legal, also a negative one (a network without a last activation gives those at first). A target
    that is not positive and finite is missing.
    """
    valid_B1HW = valid_depth(target_m_B1HW)
    target_log = torch.log(torch.where(valid_B1HW, target_m_B1HW, 1.0))
    error_B1HW = torch.where(valid_B1HW, log_depth(depth_m_B1HW) - target_log, 0.0)
    weight_B1HW = weight_B1HW * valid_B1HW
    absolute_B = _sum(weight_B1HW * error_B1HW.abs()) / _sum(weight_B1HW).clamp(min=1e-6)
    return absolute_B + 0.5 * _gradient_B(error_B1HW, valid_B1HW)


def relative_depth_loss(depth_m_B1HW: Tensor, target_B1HW: Tensor) -> Tensor:
    """Scale-and-shift-invariant error of disparity + its gradient over four scales; (B,).

    Ranftl et al., "Towards Robust Monocular Depth Estimation" (TPAMI 2022), their trimmed loss:
    each disparity (one over depth) less its median, over its mean absolute deviation; the fifth of
    the pixels that are furthest off does not count. `target` is a depth of any unit.
    """
    valid_B1HW = valid_depth(target_B1HW)
    target = 1 / torch.where(valid_B1HW, target_B1HW, 1.0)
    smallest_B = 1e-4 * _sum(target * valid_B1HW) / _count(valid_B1HW)
    true_B1HW = _standardised(target, valid_B1HW, smallest_B)
    found_B1HW = _standardised(disparity(depth_m_B1HW), valid_B1HW, torch.tensor(_SMALLEST_SPREAD))
    error_B1HW = torch.where(valid_B1HW, found_B1HW - true_B1HW, 0.0)
    gradient_B = torch.stack(
        [
            _gradient_B(error_B1HW[:, :, ::step, ::step], valid_B1HW[:, :, ::step, ::step])
            for step in (2**scale for scale in range(_SCALES))
        ]
    ).sum(0)
    return 0.5 * _trimmed_B(error_B1HW.abs(), valid_B1HW) + 0.5 * gradient_B


def valid_depth(target_B1HW: Tensor) -> Tensor:
    """Where there is a depth: finite and positive."""
    return target_B1HW.isfinite() & (target_B1HW > 0)


def log_depth(depth_m: Tensor) -> Tensor:
    """Natural logarithm of metres from `NEAREST_M` on; below, the tangent there: always finite."""
    tangent = math.log(NEAREST_M) + (depth_m - NEAREST_M) / NEAREST_M
    return torch.where(depth_m < NEAREST_M, tangent, torch.log(depth_m.clamp(min=NEAREST_M)))


def disparity(depth_m: Tensor) -> Tensor:
    """One over metres from `NEAREST_M` on; below, the tangent there: always finite."""
    tangent = 1 / NEAREST_M - (depth_m - NEAREST_M) / NEAREST_M**2
    return torch.where(depth_m < NEAREST_M, tangent, 1 / depth_m.clamp(min=NEAREST_M))


def _standardised(map_B1HW: Tensor, valid_B1HW: Tensor, smallest_B: Tensor) -> Tensor:
    """Less the median, over the mean absolute deviation from it; 0 where not valid."""
    any_B = valid_B1HW.flatten(1).any(1)
    known_BN = torch.where(valid_B1HW, map_B1HW, math.nan).flatten(1)
    # Without a valid pixel the median would be NaN, and so its gradient.
    known_BN = torch.where(any_B[:, None], known_BN, 0.0)
    median_B = known_BN.nanmedian(1).values
    centred_B1HW = torch.where(valid_B1HW, map_B1HW - _spread(median_B), 0.0)
    deviation_B = _sum(centred_B1HW.abs()) / _count(valid_B1HW)
    return centred_B1HW / _spread(torch.maximum(deviation_B, smallest_B + 1e-12))


def _trimmed_B(absolute_B1HW: Tensor, valid_B1HW: Tensor) -> Tensor:
    ordered_BN = torch.where(valid_B1HW, absolute_B1HW, math.inf).flatten(1).sort(1).values
    kept_B = ((1 - _TRIMMED_SHARE) * valid_B1HW.flatten(1).sum(1)).ceil()
    keep_BN = torch.arange(ordered_BN.shape[1], device=kept_B.device) < kept_B[:, None]
    return torch.where(keep_BN, ordered_BN, 0.0).sum(1) / _count(valid_B1HW)


def _gradient_B(error_B1HW: Tensor, valid_B1HW: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, both valid, down plus along."""
    total_B = torch.zeros(len(error_B1HW), device=error_B1HW.device)
    for axis, size in ((2, error_B1HW.shape[2]), (3, error_B1HW.shape[3])):
        if size < 2:
            continue
        difference = error_B1HW.diff(dim=axis).abs()
        later, earlier = valid_B1HW.narrow(axis, 1, size - 1), valid_B1HW.narrow(axis, 0, size - 1)
        both = later & earlier
        total_B = total_B + _sum(difference * both) / _count(both)
    return total_B


def _edges(mask_B1HW: Tensor) -> Tensor:
    """1 within two pixels of the mask's outline, else 0."""
    dilated = functional.max_pool2d(mask_B1HW, 5, 1, 2)
    eroded = -functional.max_pool2d(-mask_B1HW, 5, 1, 2)
    return (dilated - eroded > 0.5).float()


def _sum(map_B1HW: Tensor) -> Tensor:
    return map_B1HW.sum((1, 2, 3))


def _count(valid_B1HW: Tensor) -> Tensor:
    return valid_B1HW.sum((1, 2, 3)).clamp(min=1)


def _spread(value_B: Tensor) -> Tensor:
    return value_B[:, None, None, None]
