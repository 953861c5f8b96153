"""Published ImageNet weights into a network's encoder; the decoder stays as it is.

`ENCODERS` says, per network class, which of its keys are the encoder's and what a published key is
called there. A further network needs one entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from depthmask.errors import InputError, UsageError
from depthmask.models.drn import DRN22Autoencoder
from depthmask.models.hu_resnet import HuResNet50
from depthmask.models.lite import LiteDepth, LiteMask

KEYS_NAMED = 5  # in an error message; the rest are counted


@dataclass(frozen=True)
class EncoderKeys:
    """How the keys of published weights and of a network's encoder correspond."""

    weights: str
    """What the published weights are called, for messages."""

    prefix: str
    """What all keys of the encoder, and no others of the network, begin with."""

    to_network: Callable[[str], str | None]
    """The network's key for a published one; None for what is dropped (the head). A key that it
    does not know it returns in any form that the network lacks: it is reported as unexpected."""


def resnet50_key(key: str) -> str | None:
    """`layer1.0.conv1.weight` (torchvision) is `E.layer1.0.conv1.weight`."""
    return None if key.startswith("fc.") else f"E.{key}"


def drn_d_22_key(key: str) -> str | None:
    """`layer3.0.conv1.weight` (the drn repository, `DRND22`) is `E.base.3.0.conv1.weight`."""
    return None if key.startswith("fc.") else re.sub(r"^layer(?=\d\.)", "E.base.", key)


_LITE0_PARTS = {
    "_conv_stem.": "stem.conv.",
    "_bn0.": "stem.bn.",
    "_expand_conv.": "expand.conv.",
    "_depthwise_conv.": "depthwise.conv.",
    "_project_conv.": "project.conv.",
}


def efficientnet_lite0_key(key: str) -> str | None:
    """`_blocks.1._bn0.bias` (the EfficientNet repository) is `trunk.encoder.blocks.1.expand.bn.bias`."""
    if key.startswith(("_conv_head.", "_bn1.", "_fc.")):
        return None
    block = re.match(r"_blocks\.(\d+)\.(.*)", key)
    if block is None:
        return f"trunk.encoder.{_renamed(key)}"
    number, rest = int(block[1]), block[2]
    # A block without expansion (the first) has no _bn0; _bn1 and _bn2 follow the other convolutions.
    for old, new in (("_bn0.", "expand.bn."), ("_bn1.", "depthwise.bn."), ("_bn2.", "project.bn.")):
        rest = rest.replace(old, new)
    return f"trunk.encoder.blocks.{number}.{_renamed(rest)}"


def _renamed(key: str) -> str:
    for old, new in _LITE0_PARTS.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


ENCODERS: dict[type[nn.Module], EncoderKeys] = {
    HuResNet50: EncoderKeys("torchvision ResNet-50", "E.", resnet50_key),
    DRN22Autoencoder: EncoderKeys("DRN-D-22", "E.", drn_d_22_key),
    LiteMask: EncoderKeys("EfficientNet-Lite0", "trunk.encoder.", efficientnet_lite0_key),
    LiteDepth: EncoderKeys("EfficientNet-Lite0", "trunk.encoder.", efficientnet_lite0_key),
}


def load_encoder_weights(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy published ImageNet weights into the encoder of `network`.

    A `module.` prefix (saved from DataParallel) is stripped, the head is dropped, and
    `num_batches_tracked` may be absent. Nothing is copied unless everything fits: otherwise an
    `InputError` names the keys that are missing, unexpected, or of another shape. A network whose
    class is not in `ENCODERS` is a `UsageError`.
    """
    keys = _encoder_keys(network)
    wanted = {key: v for key, v in network.state_dict().items() if key.startswith(keys.prefix)}
    found: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for published_key, tensor in state.items():
        stripped = published_key.removeprefix("module.")
        key = keys.to_network(stripped)
        if key in wanted:
            found[key] = tensor
        elif key is not None:
            unexpected.append(stripped)
    missing = [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    misshapen = [
        f"{key} {list(tensor.shape)} for {list(wanted[key].shape)}"
        for key, tensor in found.items()
        if tensor.shape != wanted[key].shape
    ]
    _require_none(network, keys, missing=missing, unexpected=unexpected, misshapen=misshapen)
    network.load_state_dict(found, strict=False)


def _encoder_keys(network: nn.Module) -> EncoderKeys:
    for cls in type(network).__mro__:
        if cls in ENCODERS:
            return ENCODERS[cls]
    known = ", ".join(cls.__name__ for cls in ENCODERS)
    raise UsageError(
        f"a network with published encoder weights must be one of {known}, "
        f"but got {type(network).__name__}. Try it without encoder weights"
    )


def _require_none(network: nn.Module, keys: EncoderKeys, **faults: list[str]) -> None:
    listed = [f"{len(names)} {kind} ({_first(names)})" for kind, names in faults.items() if names]
    if listed:
        raise InputError(
            f"encoder weights of {type(network).__name__} must have the keys of {keys.weights}, "
            f"but got {' and '.join(listed)}. Try the weights published for that network"
        )


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:KEYS_NAMED])
    return shown if len(names) <= KEYS_NAMED else f"{shown}, ..."
