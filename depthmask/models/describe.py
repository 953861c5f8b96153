"""What a network is made of: parameters, multiply-accumulates, layers. Nothing is computed.

The networks are built on torch's meta device, where tensors have a shape and no data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from depthmask import models
from depthmask.frames import Resolution

if TYPE_CHECKING:
    from torch import Tensor, nn

DEFAULT_RESOLUTION = Resolution(224, 224)


@dataclass(frozen=True)
class NetworkSummary:
    """A row of the list of networks. GMAC: 1e9 multiply-accumulates for one image of 224x224."""

    name: str
    role: str
    parameters: int
    gmac_224: float
    paper: str
    note: str


@dataclass(frozen=True)
class Layer:
    """A module without children, at its first call."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    """Its own; buffers (running statistics) do not count."""


def summarise(name: str) -> NetworkSummary:
    """Count a network's parameters, and its multiply-accumulates for one image of 224x224.

    Raises:
        UsageError: there is no network of that name.
        UnavailableError: torch is not installed.

    """
    info = models.info(name)
    models.require_torch()
    network = _build_on_meta(name)
    height, width = DEFAULT_RESOLUTION.height, DEFAULT_RESOLUTION.width
    return NetworkSummary(
        name=name,
        role=info.role,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        gmac_224=gmac(network, (1, 3, height, width)),
        paper=info.paper,
        note=info.note,
    )


def gmac(module: nn.Module, example_shape: Sequence[int]) -> float:
    """Billions of multiply-accumulates of one forward pass of `module` on an input of that shape.

    Convolutions and matrix products count, by `torch.utils.flop_counter`; the rest is noise. The pass
    is on the module's own device, and computes nothing where that is torch's meta device.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(module.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(torch.zeros(*example_shape, device=device))
    return float(counter.get_total_flops() / 2e9)


def layers(name: str, resolution: Resolution = DEFAULT_RESOLUTION) -> list[Layer]:
    """The layers of a network in the order of their execution, for one image.

    Raises:
        UsageError: there is no network of that name.
        UnavailableError: torch is not installed.

    """
    models.info(name)
    models.require_torch()
    network = _build_on_meta(name)
    found: dict[str, Layer] = {}

    def note(module_name: str, module: nn.Module, output: Tensor) -> None:
        parameters = sum(parameter.numel() for parameter in module.parameters())
        layer = Layer(module_name, type(module).__name__, tuple(output.shape), parameters)
        found.setdefault(module_name, layer)

    for module_name, module in network.named_modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(
                lambda module, _, output, name=module_name: note(name, module, output)
            )
    _run(network, resolution)
    return list(found.values())


def _build_on_meta(name: str) -> nn.Module:
    import torch

    with torch.device("meta"):
        return models.build(name).eval()


def _run(network: nn.Module, resolution: Resolution) -> None:
    import torch

    with torch.no_grad():
        network(torch.empty(1, 3, resolution.height, resolution.width, device="meta"))
