"""What each mode teaches, and what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import tiny_trained
import torch
from msgspec.structs import replace
from torch import nn

from depthmask.chain import MaskDepthChain, build
from depthmask.presets import preset
from depthmask.train.config import TrainingConfig
from depthmask.train.dataset import Batch
from depthmask.train.distributed import Processes
from depthmask.train.learner import Learner
from depthmask.train.modes import Objective, depth_loss, depth_scale_m, mask_logits, uses_bf16
from depthmask.train.relevance_loss import relevance_terms

ALONE = Processes(0, 1, torch.device("cpu"))
CONFIG = TrainingConfig(weight_decay=0.0, precision="fp32")


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(0)
    mask = torch.zeros(4, 1, 32, 32)
    mask[:, :, 8:24, 8:24] = 1
    return Batch(
        torch.randn(4, 3, 32, 32, generator=random),
        mask,
        torch.ones(4, dtype=torch.bool),
        1 + 4 * torch.rand(4, 1, 32, 32, generator=random),
        torch.ones(4, dtype=torch.bool),
        torch.arange(4),
    )


def learner(config, kind="foreground", teacher=None):
    chain = tiny_trained.chain(kind)
    return Learner(config, ALONE, spec=chain.spec, start=chain, teacher=teacher)


def moved(made, before):
    return {
        role
        for role in ("mask", "depth")
        for name, tensor in made.chain.get_submodule(role).state_dict().items()
        if not torch.equal(tensor, before[f"{role}.{name}"])
    }


@pytest.mark.parametrize(
    ("fields", "kind", "learns"),
    [
        ({}, "foreground", {"mask", "depth"}),
        ({"train": "mask"}, "foreground", {"mask"}),
        ({"train": "depth"}, "foreground", {"depth"}),
        ({"train": "depth", "true_mask_share": 1.0}, "relevance", {"depth"}),
        ({"mode": "relevance"}, "relevance", {"mask"}),
        ({"mode": "relevance", "adapt_depth": True}, "relevance", {"mask", "depth"}),
        ({"mode": "distill", "train": "mask"}, "foreground", {"mask"}),
    ],
)
def test_what_is_frozen_stays_as_it_is_also_its_batch_norm(batch, fields, kind, learns):
    config = replace(CONFIG, **fields)
    teacher = tiny_trained.chain() if config.mode == "distill" else None
    made = learner(config, kind, teacher)
    before = copy.deepcopy(made.chain.state_dict())
    losses = made.step(batch, 1e-2, 0)
    assert moved(made, before) == learns
    assert all(name.startswith("loss_") for name in losses)


def test_frozen_batch_norm_keeps_its_statistics_but_learns(batch):
    made = learner(replace(CONFIG, freeze_batch_norm=True))
    before = copy.deepcopy(made.chain.state_dict())
    made.step(batch, 1e-2, 0)
    after = made.chain.state_dict()
    assert torch.equal(after["mask.norm.running_mean"], before["mask.norm.running_mean"])
    assert not torch.equal(after["mask.norm.weight"], before["mask.norm.weight"])


@pytest.mark.parametrize("part", [1, 2, 3])
def test_micro_batches_are_the_batch_where_batch_norm_is_frozen(batch, part):
    config = replace(CONFIG, freeze_batch_norm=True)
    whole, parts = learner(config), learner(replace(config, micro_batch=part))
    losses = [made.step(batch, 1e-2, 0) for made in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, tensor in parts.chain.state_dict().items():
        torch.testing.assert_close(tensor, whole.chain.state_dict()[name], rtol=0, atol=1e-5)


def test_labels_that_are_missing_cost_nothing(batch):
    none = batch._replace(
        mask_B1HW=torch.zeros_like(batch.mask_B1HW),
        mask_known_B=torch.zeros(4, dtype=torch.bool),
        depth_B1HW=torch.full_like(batch.depth_B1HW, torch.nan),
    )
    made = learner(CONFIG)
    before = copy.deepcopy(dict(made.chain.named_parameters()))
    assert made.step(none, 1e-2, 0) == {"loss_mask": 0.0, "loss_depth": 0.0}
    assert all(torch.equal(p, before[name]) for name, p in made.chain.named_parameters())


def test_metric_and_relative_depths_share_a_batch(batch):
    mixed = torch.tensor([True, False, True, False])
    prediction = batch.depth_B1HW.flip(2)
    weight = torch.ones_like(prediction)
    both = depth_loss(prediction, batch.depth_B1HW, weight, mixed)
    for kind in (True, False):
        alone = depth_loss(prediction, batch.depth_B1HW, weight, torch.full((4,), kind))
        torch.testing.assert_close(both[mixed == kind], alone[mixed == kind])
    ten = depth_loss(prediction, 10 * batch.depth_B1HW, weight, torch.zeros(4, dtype=torch.bool))
    torch.testing.assert_close(ten[~mixed], both[~mixed])


def test_a_foreground_chain_weighs_depth_inside_the_mask_a_relevance_chain_does_not(batch):
    whole = batch._replace(mask_B1HW=torch.ones_like(batch.mask_B1HW))
    losses = {}
    for kind in ("foreground", "relevance"):
        chain = tiny_trained.chain(kind).eval()
        objective = Objective(replace(CONFIG, train="depth", true_mask_share=1.0), chain)
        losses[kind] = [objective(one)["loss_depth"].item() for one in (batch, whole)]
    assert losses["relevance"][0] == losses["relevance"][1]  # it sees the whole image anyway
    assert losses["foreground"][0] != losses["foreground"][1]
    assert losses["foreground"][1] == pytest.approx(losses["relevance"][1])


def test_relevance_is_the_iccv_loss_of_the_masked_against_the_whole_image(batch):
    chain = tiny_trained.chain("relevance").eval()
    config = replace(CONFIG, mode="relevance", sparsity=3.0)
    found = Objective(config, chain).eval()(batch)
    mask = chain.predict_mask(batch.image_B3HW)
    depths = [
        nn.functional.interpolate(chain.depth(image), size=(32, 32), mode="bilinear")
        for image in (batch.image_B3HW * mask, batch.image_B3HW)
    ]
    expected = [term.mean() for term in relevance_terms(*depths)]
    for name, value in zip(("depth", "dx", "dy", "normal"), expected, strict=True):
        torch.testing.assert_close(found[f"loss_{name}"], value)
    torch.testing.assert_close(found["loss_mask"], 3 * mask.mean())


def test_relevance_can_aim_at_the_labels(batch):
    chain = tiny_trained.chain("relevance").eval()
    config = replace(CONFIG, mode="relevance")
    to_network = Objective(config, chain).eval()(batch)["loss_depth"]
    config = replace(config, relevance_target="labels")
    to_labels = Objective(config, chain).eval()
    assert to_labels(batch)["loss_depth"] != to_network
    relative = batch._replace(metric_B=torch.zeros(4, dtype=torch.bool))
    torch.testing.assert_close(to_labels(relative)["loss_depth"], to_network)


def test_a_teacher_sees_its_own_normalisation(batch):
    """A teacher that is the student but for its normalisation says what the student says."""
    student = tiny_trained.chain().eval()
    spec = replace(student.spec, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))

    class Renormalised(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, image):
            std, mean = (torch.tensor(v)[:, None, None] for v in (spec.std, spec.mean))
            own_std, own_mean = (
                torch.tensor(v)[:, None, None] for v in (student.spec.std, student.spec.mean)
            )
            return self.network((image * std + mean - own_mean) / own_std)

    class Teacher(MaskDepthChain):
        def forward(self, image):
            mask, _ = student(Renormalised(nn.Identity())(image))
            return mask, torch.full_like(mask, 3.0)

    config = replace(CONFIG, mode="distill", distill_weight=1.0)
    teacher = Teacher(nn.Identity(), nn.Conv2d(3, 1, 1), spec)
    found = Objective(config, student, teacher).eval()(batch)["loss_mask_teacher"]
    wanted = copy.deepcopy(batch)._replace(
        mask_B1HW=student.predict_mask(batch.image_B3HW).detach()
    )
    expected = Objective(CONFIG, student).eval()(wanted)["loss_mask"]
    torch.testing.assert_close(found, expected)


def test_a_mask_network_without_logits_is_trained_through_its_output():
    chain = build("lite")
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        logits = mask_logits(chain, image)
        wrapped = MaskDepthChain(nn.Sequential(chain.mask), chain.depth, chain.spec)
        torch.testing.assert_close(mask_logits(wrapped, image), logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "scale_m"), [("lite", 1.0), ("lite-relevance", 1.0), ("seed", 20.0), ("hu2019", 1.0)]
)
def test_a_network_that_ends_at_one_reaches_20_m(name, scale_m):
    assert depth_scale_m(preset(name)) == scale_m
    assert depth_scale_m(preset(name), TrainingConfig(depth_scale_m=7.0)) == 7.0


def test_bf16_is_for_processors_that_have_it(monkeypatch):
    for has_it in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has_it=has_it: has_it)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert uses_bf16(TrainingConfig(), "cpu") == has_it
        assert uses_bf16(TrainingConfig(precision="bf16"), "cpu")
        assert not uses_bf16(TrainingConfig(precision="fp32"), "cpu")
