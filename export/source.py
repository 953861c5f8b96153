"""Which chain is exported, and where its weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from depthmask import chain as chains
from depthmask import presets
from depthmask.chain import MaskDepthChain
from depthmask.checkpoint import load_checkpoint, read_info
from depthmask.errors import UsageError
from depthmask.presets import DEFAULT_PRESET, ChainSpec, StageSpec, shipped_checkpoint


def open_chain(
    preset: str | None = None,
    *,
    checkpoint: Path | None = None,
    init: int | None = None,
    mask: str | None = None,
    depth: str | None = None,
    mask_activation: Literal["none", "sigmoid"] = "none",
) -> tuple[MaskDepthChain, dict[str, Any]]:
    """Build a chain with its weights; by default the trained `lite` that ships with depthmask.

    Args:
        preset: a preset's name.
        checkpoint: a checkpoint folder.
        init: a seed for untrained weights.
        mask: `pkg.mod:factory` of a mask network that brings its own weights; a stage that is not
            given is lite's.
        depth: likewise.
        mask_activation: what that mask network lacks to end in [0, 1].

    Returns:
        The chain, and the record of its weights for a manifest.

    Raises:
        UsageError: the options exclude each other, or leave the weights open.
        InputError: the checkpoint is missing, damaged or of another architecture.
    """
    if checkpoint is not None and init is not None:
        raise UsageError("weights come from --checkpoint or from --init, but both were given")
    own = mask is not None or depth is not None
    spec = presets.preset(preset or DEFAULT_PRESET)
    if own:
        spec = _with_own(spec, mask, depth, mask_activation)
    if init is not None:
        return chains.build(spec, seed=init), {"init_seed": init}
    if checkpoint is not None:
        chain = load_checkpoint(checkpoint, spec if own or preset is not None else None)
        sha256 = read_info(checkpoint).weights_sha256
        return chain, {"checkpoint": str(checkpoint.resolve()), "sha256": sha256}
    if own:
        return _own_chain(spec, mask, depth)
    shipped = shipped_checkpoint(spec.preset)
    if shipped is None:
        raise UsageError(
            f"the preset {spec.preset} comes without trained weights. Give --checkpoint (see"
            " `dmx import` and `dmx train`), or --init 0 for untrained ones"
        )
    return load_checkpoint(shipped), {
        "checkpoint": "the weights shipped with depthmask",
        "sha256": read_info(shipped).weights_sha256,
        "shipped": True,
    }


def _with_own(
    spec: ChainSpec,
    mask: str | None,
    depth: str | None,
    mask_activation: Literal["none", "sigmoid"],
) -> ChainSpec:
    return msgspec.structs.replace(
        spec,
        preset="custom",
        mask=StageSpec(network=mask, activation=mask_activation) if mask else spec.mask,
        depth=StageSpec(network=depth) if depth else spec.depth,
        depth_unit="relative" if depth else spec.depth_unit,
    )


def _own_chain(
    spec: ChainSpec, mask: str | None, depth: str | None
) -> tuple[MaskDepthChain, dict[str, Any]]:
    """Factories bring their weights; a stage that is lite's takes the shipped ones."""
    chain = chains.build(spec)
    if mask is None or depth is None:
        folder = shipped_checkpoint(DEFAULT_PRESET)
        assert folder is not None
        shipped = load_checkpoint(folder)
        chain.mask = chain.mask if mask else shipped.mask
        chain.depth = chain.depth if depth else shipped.depth
    return chain, {"factories": [spec.mask.network, spec.depth.network]}
