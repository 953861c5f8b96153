from __future__ import annotations

import pytest
import torch
from torch import nn

from depthmask.errors import InputError, UsageError
from depthmask.models.drn import DRND22, DRN22Autoencoder
from depthmask.models.encoder_weights import load_encoder_weights
from depthmask.models.hu_resnet import HuResNet50
from depthmask.models.resnet import ResNet50Encoder


def with_values(state):
    """A value per key, so that a mix-up of two keys of one shape shows."""
    return {
        key: torch.full(tuple(tensor.shape), index, dtype=tensor.dtype)
        for index, (key, tensor) in enumerate(state.items())
    }


@pytest.fixture(scope="module")
def resnet50_state():
    """As torchvision publishes it: the encoder's keys without `E.`, and the head."""
    with torch.device("meta"):
        encoder = ResNet50Encoder()
    head = {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    return with_values(encoder.state_dict()) | head


@pytest.fixture(scope="module")
def drn_d_22_state():
    with torch.device("meta"):
        backbone = DRND22()
    return with_values(backbone.state_dict())


@pytest.fixture(scope="module")
def hu_resnet50():
    return HuResNet50()


@pytest.fixture(scope="module")
def autoencoder():
    return DRN22Autoencoder()


def decoder_of(network):
    return {k: v.clone() for k, v in network.state_dict().items() if not k.startswith("E.")}


def test_resnet50_into_hu_resnet50(hu_resnet50, resnet50_state):
    before = decoder_of(hu_resnet50)
    load_encoder_weights(hu_resnet50, resnet50_state)
    state = hu_resnet50.state_dict()
    for key, value in resnet50_state.items():
        if not key.startswith("fc."):
            assert torch.equal(state[f"E.{key}"], value), key
    assert all(torch.equal(state[key], value) for key, value in before.items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_drn_d_22_into_the_autoencoder(autoencoder, drn_d_22_state, prefix):
    before = decoder_of(autoencoder)
    load_encoder_weights(autoencoder, {prefix + k: v for k, v in drn_d_22_state.items()})
    state = autoencoder.state_dict()
    for key, value in drn_d_22_state.items():
        if not key.startswith("fc."):
            assert torch.equal(state[key.replace("layer", "E.base.", 1)], value), key
    assert all(torch.equal(state[key], value) for key, value in before.items())


def test_the_encoder_then_computes_what_the_backbone_does(networks):
    autoencoder, backbone = DRN22Autoencoder().eval(), networks("drn_d_22")
    load_encoder_weights(autoencoder, backbone.state_dict())
    image = torch.linspace(-2, 2, 3 * 40 * 56).reshape(1, 3, 40, 56)
    with torch.inference_mode():
        expected = nn.Sequential(*list(backbone.children())[:-1])(image)
        assert torch.equal(autoencoder.E(image)[-1], expected)


def test_head_and_batch_counters_may_be_absent(hu_resnet50, resnet50_state):
    state = {
        key: value
        for key, value in resnet50_state.items()
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked")
    }
    load_encoder_weights(hu_resnet50, state)
    assert torch.equal(hu_resnet50.E.conv1.weight, state["conv1.weight"])


def test_missing_keys_are_named_up_to_five_and_counted(hu_resnet50, resnet50_state):
    state = {k: v for k, v in resnet50_state.items() if not k.startswith("layer1.0.")}
    with pytest.raises(InputError) as caught:
        load_encoder_weights(hu_resnet50, state)
    message = str(caught.value)
    assert "HuResNet50 must have the keys of torchvision ResNet-50" in message
    assert "20 missing (E.layer1.0.conv1.weight, E.layer1.0.bn1.weight, " in message
    assert message.count("E.layer1.0.") == 5
    assert ", ...)" in message
    assert "unexpected" not in message
    assert "\n" not in message


def test_unexpected_keys_are_named_as_they_were_published(autoencoder, drn_d_22_state):
    extra = {"module.layer9.0.weight": torch.zeros(1), "seg.weight": torch.zeros(1)}
    with pytest.raises(InputError, match=r"2 unexpected \(layer9\.0\.weight, seg\.weight\)\. Try"):
        load_encoder_weights(autoencoder, drn_d_22_state | extra)


def test_weights_of_another_network_are_refused(autoencoder, resnet50_state):
    with pytest.raises(InputError, match=r"\d+ missing \(.*\) and \d+ unexpected \(conv1\.weight"):
        load_encoder_weights(autoencoder, resnet50_state)


def test_a_wrong_shape_is_refused_and_nothing_is_copied(hu_resnet50, resnet50_state):
    load_encoder_weights(hu_resnet50, resnet50_state)
    before = hu_resnet50.E.bn1.weight.clone()
    bad = {
        "bn1.weight": before + 1,
        "conv1.weight": torch.zeros(64, 1, 7, 7),
    }
    with pytest.raises(
        InputError, match=r"1 misshapen \(E\.conv1\.weight \[64, 1, 7, 7\] for \[64, 3, 7, 7\]\)"
    ):
        load_encoder_weights(hu_resnet50, resnet50_state | bad)
    assert torch.equal(hu_resnet50.E.bn1.weight, before)


def test_a_network_without_published_encoder_is_refused():
    with pytest.raises(UsageError, match=r"must be one of HuResNet50, DRN22Auto.*got Linear"):
        load_encoder_weights(nn.Linear(1, 1), {})


def test_a_subclass_loads_as_its_base(drn_d_22_state):
    class Renamed(DRN22Autoencoder):
        pass

    network = Renamed()
    load_encoder_weights(network, drn_d_22_state)
    assert torch.equal(network.E.base[0][0].weight, drn_d_22_state["layer0.0.weight"])
