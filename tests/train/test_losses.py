from __future__ import annotations

import math

import pytest
import torch

from depthmask.train.losses import NEAREST_M, depth_loss, log_depth, mask_loss


@pytest.fixture
def mask_B1HW():
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, 4:12, 4:12] = 1
    return mask


def test_the_true_mask_costs_least(mask_B1HW):
    logits = 20 * (mask_B1HW - 0.5)
    right, wrong = mask_loss(logits, mask_B1HW), mask_loss(-logits, mask_B1HW)
    assert 0 <= right < 1e-3
    assert wrong > 5


def test_without_edge_weight_it_is_cross_entropy_and_dice(mask_B1HW):
    logits = torch.zeros_like(mask_B1HW)
    # p = 1/2 everywhere: overlap 32 of 128 + 64 in the first image, 0 of 128 in the second.
    dice = (1 - (2 * 32 + 100) / (128 + 64 + 100) + 1 - 100 / (128 + 100)) / 2
    expected = math.log(2) + dice
    assert mask_loss(logits, mask_B1HW, edge_weight=0.0).item() == pytest.approx(expected, rel=1e-5)


def test_an_error_at_the_edge_costs_more_than_one_far_from_it(mask_B1HW):
    def loss_with_error_at(row, column):
        logits = 8 * (mask_B1HW - 0.5)
        logits[0, 0, row, column] *= -1
        return mask_loss(logits, mask_B1HW)

    assert loss_with_error_at(4, 8) > loss_with_error_at(8, 8)


def test_depth_loss_is_the_ratio_whatever_the_distance(mask_B1HW):
    for target_m in (1.0, 10.0):
        target = torch.full((2, 1, 16, 16), target_m)
        assert depth_loss(target, target, mask_B1HW) == 0
        loss = depth_loss(1.1 * target, target, mask_B1HW)
        assert loss.item() == pytest.approx(math.log(1.1), rel=1e-4)


def test_depth_inside_the_mask_weighs_more(mask_B1HW):
    target = torch.ones(2, 1, 16, 16)
    inside = torch.where(mask_B1HW > 0, 1.2, 1.0)
    outside = torch.where(mask_B1HW.roll(8, 2) > 0, 1.2, 1.0)
    assert depth_loss(inside, target, mask_B1HW) > depth_loss(outside, target, mask_B1HW)


def test_log_depth_is_the_logarithm_and_below_it_its_tangent():
    depth_m = torch.tensor([NEAREST_M, 0.5, 20.0])
    torch.testing.assert_close(log_depth(depth_m), torch.log(depth_m))
    assert log_depth(torch.tensor(0.0)).item() == pytest.approx(math.log(NEAREST_M) - 1)


@pytest.mark.parametrize("depth_m", [-5.0, 0.0, 0.05, 3.0])
def test_any_prediction_has_a_finite_loss_and_a_gradient_towards_the_target(depth_m, mask_B1HW):
    prediction = torch.full((2, 1, 16, 16), depth_m, requires_grad=True)
    loss = depth_loss(prediction, torch.full((2, 1, 16, 16), 5.0), mask_B1HW)
    loss.backward()
    assert loss.isfinite()
    assert (prediction.grad < 0).all()
