"""Which chain is exported, and where its weights come from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, TypeGuard

import msgspec
from torch import nn

from depthmask import chain as chains
from depthmask import presets
from depthmask.chain import MaskDepthChain
from depthmask.checkpoint import load_checkpoint, read_info
from depthmask.errors import UsageError
from depthmask.export.from_pt2 import ExportedStage, read_program
from depthmask.export.onnx_stage import OnnxStage, Role
from depthmask.frames import Resolution
from depthmask.presets import (
    DEFAULT_PRESET,
    ChainSpec,
    StageInput,
    StageSpec,
    shipped_checkpoint,
)


def open_chain(
    preset: str | None = None,
    *,
    checkpoint: Path | None = None,
    init: int | None = None,
    mask: str | None = None,
    depth: str | None = None,
    mask_activation: Literal["none", "sigmoid"] = "none",
    mask_onnx: Path | None = None,
    depth_onnx: Path | None = None,
    mask_input: StageInput | None = None,
    depth_input: StageInput | None = None,
) -> tuple[MaskDepthChain, dict[str, Any]]:
    """Build a chain with its weights; by default the trained `lite` that ships with depthmask.

    Args:
        preset: a preset's name.
        checkpoint: a checkpoint folder.
        init: a seed for untrained weights.
        mask: `pkg.mod:factory` of a mask network that brings its own weights, or a torch.export program
            (.pt2); a stage that is not given is lite's.
        depth: likewise.
        mask_activation: what that mask network lacks to end in [0, 1].
        mask_onnx: an ONNX file in its place.
        depth_onnx: likewise.
        mask_input: what the mask network takes, where that is not the preset's normalised image; of an
            ONNX file by default RGB in 0..1.
        depth_input: likewise.

    Returns:
        The chain, and the record of its weights for a manifest.

    Raises:
        UsageError: the options exclude each other, or leave the weights open.
        InputError: the checkpoint or file is missing, damaged or of another architecture.
    """
    for role, factory, onnx, given in (
        ("mask", mask, mask_onnx, mask_input),
        ("depth", depth, depth_onnx, depth_input),
    ):
        if factory is not None and onnx is not None:
            raise UsageError(f"--{role} and --{role}-onnx exclude each other, but both were given")
        if given is not None and factory is None and onnx is None:
            raise UsageError(
                f"what a {role} network takes can be said of your own only, but neither --{role} nor"
                f" --{role}-onnx was given"
            )
    if checkpoint is not None and init is not None:
        raise UsageError("weights come from --checkpoint or from --init, but both were given")
    mask_file, mask = (Path(mask), None) if _is_program(mask) else (mask_onnx, mask)
    depth_file, depth = (Path(depth), None) if _is_program(depth) else (depth_onnx, depth)
    own = mask is not None or depth is not None
    spec = presets.preset(preset or DEFAULT_PRESET)
    if own:
        spec = _with_own(spec, mask, depth, mask_activation)
    if mask_file or depth_file or mask_input or depth_input:
        if init is not None or checkpoint is not None or preset is not None:
            raise UsageError(
                "files and networks with an input of their own bring their weights, so --preset,"
                " --init and --checkpoint cannot be given with them"
            )
        spec = _with_files(spec, mask_file, depth_file, mask_activation)
        spec = _with_inputs(spec, mask_input, depth_input)
        return _mixed_chain(spec, mask_file, depth_file)
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


def _is_program(network: str | None) -> TypeGuard[str]:
    return network is not None and network.endswith(".pt2")


def _name(path: Path) -> str:
    return f"{'pt2' if _is_program(path.name) else 'onnx'}:{path.name}"


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


def _with_files(
    spec: ChainSpec,
    mask: Path | None,
    depth: Path | None,
    mask_activation: Literal["none", "sigmoid"],
) -> ChainSpec:
    return msgspec.structs.replace(
        spec,
        preset="custom",
        mask=StageSpec(network=_name(mask), activation=mask_activation) if mask else spec.mask,
        depth=StageSpec(network=_name(depth)) if depth else spec.depth,
        depth_unit="relative" if depth else spec.depth_unit,
    )


def _with_inputs(spec: ChainSpec, mask: StageInput | None, depth: StageInput | None) -> ChainSpec:
    """The chain's image becomes plain RGB in 0..1, and each stage says what it makes of that."""
    own = StageInput(mean=spec.mean, std=spec.std)

    def stage(old: StageSpec, given: StageInput | None) -> StageSpec:
        default = StageInput() if old.network.startswith(("onnx:", "pt2:")) else own
        return msgspec.structs.replace(old, input=given or default)

    return msgspec.structs.replace(
        spec,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        mask=stage(spec.mask, mask),
        depth=stage(spec.depth, depth),
    )


def _mixed_chain(
    spec: ChainSpec, mask: Path | None, depth: Path | None
) -> tuple[MaskDepthChain, dict[str, Any]]:
    """Each stage from its file, its factory, or lite."""
    stages: dict[str, nn.Module] = {}
    weights: dict[str, Any] = {}
    parts: tuple[tuple[Role, StageSpec, Path | None], ...] = (
        ("mask", spec.mask, mask),
        ("depth", spec.depth, depth),
    )
    for role, stage, path in parts:
        if path is not None:
            assert stage.input is not None
            if _is_program(path.name):
                stages[role] = read_program(path)
            else:
                stages[role] = OnnxStage(path, role, stage.input.layout)
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            weights[role] = {"file": path.name, "sha256": sha256}
        elif stage.is_foreign:
            stages[role] = chains.build_stage(stage)
            weights[role] = {"factory": stage.network}
        else:
            folder = shipped_checkpoint(DEFAULT_PRESET)
            assert folder is not None
            stages[role] = getattr(load_checkpoint(folder), role)
            weights[role] = {"shipped": DEFAULT_PRESET, "sha256": read_info(folder).weights_sha256}
    return MaskDepthChain(stages["mask"], stages["depth"], spec).eval(), {"stages": weights}


def fixed_resolution(chain: MaskDepthChain) -> Resolution | None:
    """What the chain's files take, where one takes one size only: the depth's before the mask's."""
    for stage in (chain.depth, chain.mask):
        if isinstance(stage, (OnnxStage, ExportedStage)) and stage.fixed_size:
            return Resolution(*stage.fixed_size)
    return None
