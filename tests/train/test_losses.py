from __future__ import annotations

import math

import pytest
import torch

from depthmask.train.losses import (
    NEAREST_M,
    disparity,
    log_depth,
    mask_loss,
    metric_depth_loss,
    relative_depth_loss,
)

SIZE = (2, 1, 16, 16)


@pytest.fixture
def mask_B1HW():
    mask = torch.zeros(SIZE)
    mask[0, :, 4:12, 4:12] = 1
    return mask


@pytest.fixture
def depth_m():
    return 1 + 5 * torch.rand(SIZE, generator=torch.Generator().manual_seed(0))


def metric(depth, target, weight=None):
    return metric_depth_loss(depth, target, torch.ones_like(depth) if weight is None else weight)


def test_the_true_mask_costs_least(mask_B1HW):
    logits = 20 * (mask_B1HW - 0.5)
    right, wrong = mask_loss(logits, mask_B1HW), mask_loss(-logits, mask_B1HW)
    assert right.shape == (2,)
    assert ((right >= 0) & (right < 1e-3)).all()
    assert (wrong > 5).all()


def test_without_edge_weight_it_is_cross_entropy_and_dice(mask_B1HW):
    # p = 1/2 everywhere: overlap 32 of 128 + 64 in the first image, 0 of 128 in the second.
    dice = torch.tensor([1 - (2 * 32 + 100) / (128 + 64 + 100), 1 - 100 / (128 + 100)])
    loss = mask_loss(torch.zeros(SIZE), mask_B1HW, edge_weight=0.0)
    torch.testing.assert_close(loss, math.log(2) + dice)


def test_an_error_at_the_edge_costs_more_than_one_far_from_it(mask_B1HW):
    def loss_with_error_at(row, column):
        logits = 8 * (mask_B1HW - 0.5)
        logits[0, 0, row, column] *= -1
        return mask_loss(logits, mask_B1HW)[0]

    assert loss_with_error_at(4, 8) > loss_with_error_at(8, 8)


def test_metric_loss_is_the_ratio_whatever_the_distance():
    for target_m in (1.0, 10.0):
        target = torch.full(SIZE, target_m)
        assert (metric(target, target) == 0).all()
        loss = metric(1.1 * target, target)
        torch.testing.assert_close(loss, torch.full((2,), math.log(1.1)))


def test_what_weighs_more_costs_more(mask_B1HW):
    target, weight = torch.ones(SIZE), 1 + 3 * mask_B1HW
    inside = torch.where(mask_B1HW > 0, 1.2, 1.0)
    outside = torch.where(mask_B1HW.roll(8, 2) > 0, 1.2, 1.0)
    assert metric(inside, target, weight)[0] > metric(outside, target, weight)[0]


def test_relative_loss_ignores_scale_and_shift_of_disparity(depth_m):
    for scale, shift in ((1.0, 0.0), (0.3, 0.0), (2.0, 0.5)):
        target = 1 / (scale / depth_m + shift)
        assert (relative_depth_loss(depth_m, target) < 1e-4).all()
    assert (relative_depth_loss(depth_m, depth_m.flip(3)) > 0.3).all()


def test_relative_loss_does_not_take_far_for_near(depth_m):
    """The scale is positive: a depth the wrong way round is wrong."""
    upside_down = 1 / (1.5 - 1 / depth_m)
    assert (relative_depth_loss(upside_down, depth_m) > 0.5).all()


def test_relative_loss_trims_outliers(depth_m):
    target = depth_m.clone()
    target[:, :, 2, 2:6] = 0.01  # wrong labels, far off
    spoilt = relative_depth_loss(depth_m, target)
    everywhere = relative_depth_loss(depth_m, target.roll(5, 3) * (1 + torch.rand(SIZE)))
    assert (spoilt < everywhere).all()


@pytest.mark.parametrize("loss", [metric, relative_depth_loss], ids=["metric", "relative"])
class TestBothDepthLosses:
    def test_what_is_missing_does_not_count(self, loss, depth_m):
        target = depth_m.flip(2).clone()
        target[:, :, :, 8:] = math.nan
        other = depth_m.clone()
        other[:, :, :, 8:] = 99.0
        assert torch.equal(loss(depth_m, target), loss(other, target))

    def test_an_image_without_a_label_costs_exactly_zero(self, loss, depth_m):
        prediction = depth_m.clone().requires_grad_()
        target = depth_m.flip(2).clone()
        target[0] = math.nan
        costs = loss(prediction, target)
        costs.sum().backward()
        assert costs[0] == 0
        assert costs[1] > 0
        assert (prediction.grad[0] == 0).all()
        assert prediction.grad.isfinite().all()

    def test_images_do_not_look_at_each_other(self, loss, depth_m):
        target = depth_m.flip(2)
        apart = torch.cat([loss(depth_m[k : k + 1], target[k : k + 1]) for k in range(2)])
        torch.testing.assert_close(loss(depth_m, target), apart)

    def test_zero_negative_and_infinite_targets_are_missing(self, loss, depth_m):
        target = depth_m.flip(2).clone()
        missing = target.clone()
        for row, value in enumerate((0.0, -1.0, math.inf)):
            target[:, :, row] = value
            missing[:, :, row] = math.nan
        assert torch.equal(loss(depth_m, target), loss(depth_m, missing))

    @pytest.mark.parametrize("value", [-5.0, 0.0, 0.05, 3.0])
    def test_any_prediction_has_a_finite_loss_and_gradient(self, loss, value, depth_m):
        prediction = torch.full(SIZE, value, requires_grad=True)
        costs = loss(prediction, depth_m)
        costs.sum().backward()
        assert costs.isfinite().all()
        assert prediction.grad.isfinite().all()


def test_metric_loss_of_one_row_or_one_pixel(depth_m):
    for part in (depth_m[:, :, :1], depth_m[:, :, :1, :1]):
        assert metric_depth_loss(part, 2 * part, torch.ones_like(part)).isfinite().all()


def test_log_depth_and_disparity_go_on_as_tangents():
    depth_m = torch.tensor([NEAREST_M, 0.5, 20.0])
    torch.testing.assert_close(log_depth(depth_m), torch.log(depth_m))
    torch.testing.assert_close(disparity(depth_m), 1 / depth_m)
    assert log_depth(torch.tensor(0.0)).item() == pytest.approx(math.log(NEAREST_M) - 1)
    assert disparity(torch.tensor(0.0)).item() == pytest.approx(2 / NEAREST_M)
