"""`hu_resnet50`, `drn22_autoencoder` and `drn_d_22` against what the originals gave.

Tolerance: 1e-4 of the output's range, what NETWORKS.md promises for float32.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from depthmask.models.drn import DRND22, DRN22Autoencoder
from depthmask.models.hu_resnet import HuResNet50

RANGE_TOLERANCE = 1e-4
PARAMETERS = {
    "hu_resnet50": 67_569_473,
    "drn22_autoencoder": 25_259_761,
    "drn_d_22": 16_393_752,
}
CASES = ["64x64_seed0_alignF", "96x128_seed1_alignF", "114x152_seed2_alignT"]
OUTPUTS = ["hu_resnet50", "drn22_autoencoder", "hu2019_chain_depth"]
ODD_SIZES = [(32, 32), (33, 47), (47, 33), (32, 101)]


class Case(NamedTuple):
    rows: int
    columns: int
    seed: int
    align_corners: bool


def parse(case: str) -> Case:
    match = re.fullmatch(r"(\d+)x(\d+)_seed(\d+)_align([FT])", case)
    assert match is not None
    rows, columns, seed = (int(text) for text in match.groups()[:3])
    return Case(rows, columns, seed, match[4] == "T")


def image_of(rows: int, columns: int, seed: int = 0, batch: int = 1) -> torch.Tensor:
    values = np.random.default_rng(seed).uniform(-2, 2, (batch, 3, rows, columns))
    return torch.from_numpy(values.astype(np.float32))


def half_size(side: int) -> int:
    """Twice the size of the encoder's first feature, a quarter of the image's rounded up."""
    return 2 * math.ceil(side / 4)


def assert_close_in_range(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.shape == expected.shape
    deviation = (actual - expected).abs().max() / (expected.max() - expected.min())
    assert deviation <= RANGE_TOLERANCE


@pytest.mark.parametrize("name", PARAMETERS)
def test_keys_shapes_and_their_order(networks, state_dict_keys, name):
    shapes = [(key, list(value.shape)) for key, value in networks(name).state_dict().items()]
    assert shapes == list(state_dict_keys[name].items())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_count(networks, name):
    assert sum(p.numel() for p in networks(name).parameters()) == PARAMETERS[name]


def test_every_network_vector_is_tested(vectors):
    stored = {key for key in vectors if not key.startswith(("metrics/", "loss/"))}
    assert stored == {f"{case}/{output}" for case in CASES for output in OUTPUTS}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("case", CASES)
def test_reference_vectors(networks, vectors, case, output):
    rows, columns, seed, align_corners = parse(case)
    image = image_of(rows, columns, seed)
    with torch.inference_mode():
        if output == "hu2019_chain_depth":
            masked = image * networks("drn22_autoencoder", align_corners)(image)
            actual = networks("hu_resnet50", align_corners)(masked)
        else:
            actual = networks(output, align_corners)(image)
    assert_close_in_range(actual, torch.from_numpy(vectors[f"{case}/{output}"]))


@pytest.mark.parametrize(("name", "align_corners"), [(n, a) for n in OUTPUTS[:2] for a in (0, 1)])
@pytest.mark.parametrize(("rows", "columns"), ODD_SIZES)
def test_any_size_from_32_up(networks, name, align_corners, rows, columns):
    with torch.inference_mode():
        y = networks(name, bool(align_corners))(image_of(rows, columns))
    is_hu = name == "hu_resnet50"
    size = (half_size(rows), half_size(columns)) if is_hu else (rows, columns)
    assert y.shape == (1, 1, *size)
    assert y.isfinite().all()


@pytest.mark.parametrize("name", OUTPUTS[:2])
def test_align_corners_matters(networks, name):
    image = image_of(64, 64)
    with torch.inference_mode():
        off, on = networks(name)(image), networks(name, align_corners=True)(image)
    assert (off - on).abs().max() > RANGE_TOLERANCE


@pytest.mark.parametrize("name", PARAMETERS)
def test_images_of_a_batch_do_not_mix(networks, name):
    image = image_of(40, 48, batch=2)
    with torch.inference_mode():
        both = networks(name)(image)
        second = networks(name)(image[1:])
    assert_close_in_range(both[1:], second)


def test_only_the_autoencoder_has_a_final_activation(networks):
    image = 10 * image_of(64, 64)
    with torch.inference_mode():
        assert networks("hu_resnet50")(image).max() > 1
        mask = networks("drn22_autoencoder")(image)
    assert mask.min() >= 0
    assert mask.max() <= 1


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (33, 47), (224, 224), (250, 226)])
def test_backbone_scores_every_size(networks, rows, columns):
    with torch.inference_mode():
        scores = networks("drn_d_22")(image_of(rows, columns))
    assert scores.shape == (1, 1000)
    assert scores.isfinite().all()


def test_backbone_pools_like_the_original_at_224(networks):
    backbone, image = networks("drn_d_22"), image_of(224, 224)
    *stages, head = backbone.children()
    with torch.inference_mode():
        feature = nn.Sequential(*stages)(image)
        expected = head(nn.functional.avg_pool2d(feature, 28)).flatten(1)
        assert feature.shape == (1, 512, 28, 28)
        assert_close_in_range(backbone(image), expected)


def test_backbone_layer_names_and_other_class_counts():
    with torch.device("meta"):
        backbone = DRND22(num_classes=7)
    names = [name for name, _ in backbone.named_children()]
    assert names == [*(f"layer{index}" for index in range(9)), "fc"]
    assert backbone(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("network_class", [HuResNet50, DRN22Autoencoder])
def test_a_checkpoint_without_batch_counters_fits(network_class):
    with torch.device("meta"):
        network = network_class()
    state = {k: v for k, v in network.state_dict().items() if "num_batches_tracked" not in k}
    result = network.load_state_dict(state, strict=False, assign=True)
    assert not result.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in result.missing_keys)


@pytest.mark.parametrize("network_class", [HuResNet50, DRN22Autoencoder])
def test_gradients_reach_every_parameter(network_class):
    network = network_class().train()
    network(image_of(33, 40, batch=2)).sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize("network_class", [HuResNet50, DRN22Autoencoder])
def test_one_traced_graph_serves_every_size(network_class):
    with torch.device("meta"):
        network = network_class().eval()
        image = torch.empty(2, 3, 64, 96)
    dynamic = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(network, (image,), dynamic_shapes=(dynamic,))
    for shape in [(2, 3, 64, 96), (3, 3, 131, 77)]:
        other = torch.empty(shape, device="meta")
        assert program.module()(other).shape == network(other).shape
