"""The chain: mask = M(image), depth = D(image * mask).

Shapes: B batch, H and W the network's input size, h and w the depth network's output size.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthmask import models
from depthmask.errors import InputError, UsageError
from depthmask.models.blocks import resize_bilinear
from depthmask.models.initialise import fill_from_keys
from depthmask.models.stage_input import run_stage, stage_image
from depthmask.presets import ChainSpec, StageSpec, preset


class MaskDepthChain(nn.Module):
    """A mask network, the product, a depth network.

    Args:
        mask: (B,3,H,W) -> (B,1,any,any), in [0, 1] unless `spec.mask.activation` makes it so.
        depth: (B,3,H,W) -> (B,1,h,w).
        spec: what is recorded of the chain; by default that of two unnamed networks.
    """

    def __init__(self, mask: nn.Module, depth: nn.Module, spec: ChainSpec | None = None) -> None:
        super().__init__()
        self.mask = mask
        self.depth = depth
        self.spec = spec or ChainSpec(
            preset="custom",
            kind="foreground",
            mask=StageSpec(network=_qualified_name(mask)),
            depth=StageSpec(network=_qualified_name(depth)),
        )
        self.mask_image = stage_image(self.spec.mask.input)
        self.depth_image = stage_image(self.spec.depth.input)

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Give mask (B,1,H,W), the one that multiplied the image, and depth (B,1,h,w)."""
        mask_B1HW = self.predict_mask(image_B3HW)
        # The product is of what the depth network takes: a masked pixel is 0 to it, in any range.
        return mask_B1HW, self.predict_depth(self.depth_image(image_B3HW) * mask_B1HW)

    def predict_mask(self, image_B3HW: Tensor) -> Tensor:
        """The first stage, at the image's size."""
        mask = run_stage(self.mask, self.spec.mask, self.mask_image(image_B3HW))
        size = image_B3HW.shape[2:]
        return mask if mask.shape[2:] == size else resize_bilinear(mask, size)

    def predict_depth(self, masked_B3HW: Tensor) -> Tensor:
        """The second stage, on image * mask."""
        return run_stage(self.depth, self.spec.depth, masked_B3HW)


def build(chain: str | ChainSpec, *, seed: int | None = None) -> MaskDepthChain:
    """Build a preset (by name) or any spec, in evaluation mode, with fresh weights.

    With a `seed` the weights follow the recipe of `models.initialise`, which gives outputs of a spread
    that parity can be judged on.

    Raises:
        UsageError: unknown preset or network, or a factory that does not make a usable network.
    """
    spec = preset(chain) if isinstance(chain, str) else chain
    built = MaskDepthChain(build_stage(spec.mask), build_stage(spec.depth), spec).eval()
    if seed is not None:
        fill_from_keys(built.mask, seed)
        fill_from_keys(built.depth, seed)
    return built


def check_shapes(chain: MaskDepthChain, height: int, width: int) -> None:
    """Run the chain once on noise: a foreign network may not be what it should.

    Raises:
        UsageError: a stage raises, or gives another shape than (B,1,h,w).
    """
    image_B3HW = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    stages: tuple[tuple[str, StageSpec, nn.Module], ...] = (
        ("mask", chain.spec.mask, chain.mask),
        ("depth", chain.spec.depth, chain.depth),
    )
    for role, stage, network in stages:
        try:
            with torch.inference_mode():
                output = run_stage(network, stage, image_B3HW)
        except Exception as error:
            raise UsageError(
                f"the {role} network {stage.network} must take an image (2,3,{height},{width}), but it"
                f" raised {type(error).__name__}: {error}"
            ) from error
        if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[:2] != (2, 1):
            found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(
                f"the {role} network {stage.network} must give (2,1,h,w) for an image"
                f" (2,3,{height},{width}), but got {found}"
            )


def build_stage(stage: StageSpec) -> nn.Module:
    """Build one network with fresh weights, or call the user's factory.

    Raises:
        UsageError: as `build`.
        InputError: the factory cannot be imported.
    """
    if not stage.is_foreign:
        return models.build(stage.network, **stage.options)
    module_name, _, attribute = stage.network.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: the user's code is here
    try:
        factory: Any = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the user's module may raise anything
        raise InputError(
            f"the network factory {stage.network} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    try:
        network = factory(**stage.options)
    except Exception as error:
        raise UsageError(
            f"the network factory {stage.network} raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UsageError(
            f"the network factory {stage.network} must return a torch.nn.Module, but got"
            f" {type(network).__name__}"
        )
    return network


def _qualified_name(module: nn.Module) -> str:
    return f"{type(module).__module__}:{type(module).__qualname__}"
