"""Chains by name, and the description of a chain that checkpoints and bundles carry. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from depthmask.errors import UsageError

Kind = Literal["foreground", "relevance"]
"""How a chain's outputs are judged: `foreground` masks are trained on ground truth, and their depth
counts inside the mask first; `relevance` masks are as sparse as they can be while the depth of the
whole frame stays the same (Hu, Zhang, Okatani, ICCV 2019)."""

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# The published EfficientNet-Lite0 weights expect (frame - 127) / 128.
_LITE = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}


class StageInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a network that is not ours takes: x = (range(pixel) - mean) / std."""

    layout: Literal["nchw", "nhwc"] = "nchw"
    order: Literal["rgb", "bgr"] = "rgb"
    range: Literal["0..1", "0..255", "-1..1"] = "0..1"
    """What black and white are before mean and std."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """In the unit of `range`, in the network's own order of channels."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Likewise."""

    def __post_init__(self) -> None:
        if not all(value > 0 for value in self.std):
            raise UsageError(f"a std must be three numbers above 0, but got {self.std}")

    @property
    def black_and_white(self) -> tuple[float, float]:
        """`range` as numbers."""
        low, high = self.range.split("..")
        return float(low), float(high)


class StageSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network of a chain: a name that `models.build` knows, or a user's `pkg.mod:factory`."""

    network: str
    """A file's name follows its kind: `onnx:NAME`, `pt2:NAME`."""
    options: dict[str, Any] = {}
    activation: Literal["none", "sigmoid"] = "none"
    """What the chain applies to the network's output; a mask must end in [0, 1]."""
    input: StageInput | None = None
    """What the network takes, where that is not the chain's normalised image."""

    @property
    def is_foreign(self) -> bool:
        """Whether building it runs code that is not ours."""
        return ":" in self.network


class ChainSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything about a chain except its weights."""

    preset: str
    kind: Kind
    mask: StageSpec
    depth: StageSpec
    mean: tuple[float, float, float] = _IMAGENET["mean"]
    std: tuple[float, float, float] = _IMAGENET["std"]
    depth_unit: Literal["m", "relative"] = "relative"

    @property
    def original(self) -> str:
        """What a bundle must agree with, for messages."""
        onnx = [stage.network.startswith("onnx:") for stage in (self.mask, self.depth)]
        if all(onnx):
            return "the original ONNX files"
        return "PyTorch and the original ONNX file" if any(onnx) else "PyTorch"


PRESETS = {
    spec.preset: spec
    for spec in (
        ChainSpec(
            preset="lite",
            kind="foreground",
            mask=StageSpec(network="lite_mask"),
            depth=StageSpec(network="lite_depth"),
            mean=_LITE["mean"],
            std=_LITE["std"],
            depth_unit="m",
        ),
        ChainSpec(
            preset="lite-relevance",
            kind="relevance",
            mask=StageSpec(network="lite_mask"),
            depth=StageSpec(network="lite_depth"),
            mean=_LITE["mean"],
            std=_LITE["std"],
        ),
        ChainSpec(
            preset="seed",
            kind="foreground",
            mask=StageSpec(network="hu_resnet50", activation="sigmoid"),
            depth=StageSpec(network="drn22_autoencoder"),
        ),
        ChainSpec(
            preset="hu2019",
            kind="relevance",
            mask=StageSpec(network="drn22_autoencoder"),
            depth=StageSpec(network="hu_resnet50"),
        ),
    )
}
DEFAULT_PRESET = "lite"
_SHIPPED = ("lite", "lite-relevance")


def shipped_checkpoint(name: str) -> Path | None:
    """The trained weights of a preset that come with the package; None where none do."""
    return Path(__file__).parent / "data" / name if name in _SHIPPED else None


def preset(name: str) -> ChainSpec:
    """Look a preset up.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in PRESETS:
        raise UsageError(f"a preset must be one of {', '.join(PRESETS)}, but got {name!r}")
    return PRESETS[name]


def refuse_foreign(spec: ChainSpec, source: str) -> None:
    """A checkpoint or bundle may describe a chain, but never name code to run.

    Raises:
        UsageError: a stage is not one of our networks.
    """
    for stage in (spec.mask, spec.depth):
        if stage.is_foreign:
            raise UsageError(
                f"{source} names {stage.network}, which is not one of our networks, and is not run."
                " Name it yourself with --mask or --depth"
            )
