"""The networks by name. Importing this package does not import torch; `build` does."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from depthmask.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from torch import nn

Role = Literal["mask", "depth", "either", "backbone"]


@dataclass(frozen=True)
class NetworkInfo:
    """What is known of a network without building it.

    To add a network, write its module and add a row to `_NETWORKS`.
    """

    name: str
    factory: str
    """`module:class`; called with the options given to `build`."""
    role: Role
    paper: str
    note: str = ""


_HU = "Hu, Zhang, Okatani, ICCV 2019"
_LITE = "encoder: Tan and Le, ICML 2019 (EfficientNet-Lite0)"
_NETWORKS = (
    NetworkInfo("lite_mask", "depthmask.models.lite:LiteMask", "mask", _LITE),
    NetworkInfo("lite_depth", "depthmask.models.lite:LiteDepth", "depth", _LITE),
    NetworkInfo("hu_resnet50", "depthmask.models.hu_resnet:HuResNet50", "either", _HU),
    NetworkInfo(
        "drn22_autoencoder",
        "depthmask.models.drn:DRN22Autoencoder",
        "either",
        f"{_HU}; encoder: Yu, Koltun, Funkhouser, CVPR 2017",
        note="the 16.39 M often quoted for it is drn_d_22, its backbone with the classification head",
    ),
    NetworkInfo(
        "drn_d_22",
        "depthmask.models.drn:DRND22",
        "backbone",
        "Yu, Koltun, Funkhouser, CVPR 2017",
        note="classifies; with its 1000-class head",
    ),
)
_BY_NAME = {info.name: info for info in _NETWORKS}


def names() -> tuple[str, ...]:
    """The networks that `build` knows."""
    return tuple(_BY_NAME)


def info(name: str) -> NetworkInfo:
    """Look a network up.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in _BY_NAME:
        raise UsageError(f"a network must be one of {', '.join(_BY_NAME)}, but got {name!r}")
    return _BY_NAME[name]


def build(name: str, **options: Any) -> nn.Module:  # noqa: ANN401  (each network has its own)
    """Build a network with fresh weights.

    Raises:
        UsageError: there is none of that name, or it does not take these options.
        UnavailableError: torch is not installed.
    """
    module_name, _, class_name = info(name).factory.partition(":")
    require_torch()
    network_class = getattr(importlib.import_module(module_name), class_name)
    try:
        network: nn.Module = network_class(**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} cannot be built with {options}: {error}") from error
    return network


def require_torch() -> None:
    """Say how to get torch where it is not installed (an edge device has none).

    Raises:
        UnavailableError: it is not installed.
    """
    if not _is_there("torch"):
        raise UnavailableError(
            "this needs PyTorch, which is not installed. Try `pip install 'depthmask[export]'`"
        )


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it is blocked (sys.modules holds None)
        return False
