"""Checkpoints: `weights.safetensors` + `checkpoint.json` in a folder. Never a pickle."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from depthmask.atomic import new_folder
from depthmask.chain import MaskDepthChain, build
from depthmask.errors import InputError
from depthmask.presets import ChainSpec, refuse_foreign

WEIGHTS_FILE = "weights.safetensors"
SPEC_FILE = "checkpoint.json"


class CheckpointInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What checkpoint.json holds."""

    schema: Literal[1] = 1
    chain: ChainSpec
    weights_sha256: str
    training: dict[str, Any] = {}


def save_checkpoint(
    chain: MaskDepthChain,
    folder: Path,
    *,
    training: dict[str, Any] | None = None,
    half: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint folder, atomically.

    `half` stores float16, but keeps float32 where a value is too large for it. Loading always gives
    float32.

    Raises:
        UsageError: the folder exists and `overwrite` is off.
        OutputError: it cannot be written.

    """
    import torch
    from safetensors.torch import save

    tensors = {}
    for key, tensor in chain.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        stored = tensor.half() if half and tensor.dtype == torch.float32 else tensor
        if not torch.equal(stored.isfinite(), tensor.isfinite()):
            stored = tensor
        tensors[key] = stored.contiguous()
    data = save(tensors)
    info = CheckpointInfo(
        chain=chain.spec, weights_sha256=hashlib.sha256(data).hexdigest(), training=training or {}
    )
    with new_folder(folder, overwrite=overwrite) as temporary:
        (temporary / WEIGHTS_FILE).write_bytes(data)
        document = msgspec.json.format(msgspec.json.encode(info), indent=2)
        (temporary / SPEC_FILE).write_bytes(document + b"\n")


def read_info(folder: Path) -> CheckpointInfo:
    """Read a checkpoint's description, without its weights.

    Raises:
        InputError: it is not a checkpoint, or its description is damaged.

    """
    try:
        document = (folder / SPEC_FILE).read_bytes()
    except OSError as error:
        raise InputError(
            f"{folder} must be a checkpoint folder with {SPEC_FILE} and {WEIGHTS_FILE}, but"
            f" {SPEC_FILE} cannot be read: {error.strerror}. Try `dmx import` for a .pth file"
        ) from error
    try:
        return msgspec.json.decode(document, type=CheckpointInfo)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{folder / SPEC_FILE} must describe a checkpoint of a version that this one knows, but"
            f" got: {error}"
        ) from error


def load_checkpoint(folder: Path, like: ChainSpec | None = None) -> MaskDepthChain:
    """Build the chain that a checkpoint describes and load its weights; evaluation mode, float32.

    A network that is not ours is code, and a checkpoint never names code to run: such a checkpoint
    is loaded only if the caller names the same networks (`like`). Their options and the chain's
    normalisation are always the checkpoint's.

    Raises:
        InputError: not a checkpoint, damaged, or of another architecture than `like`.
        UsageError: it holds weights of a network that is not ours, and `like` is not given.

    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    info = read_info(folder)
    spec = info.chain
    if like is None:
        refuse_foreign(spec, str(folder))
    elif (like.mask.network, like.depth.network) != (spec.mask.network, spec.depth.network):
        raise InputError(
            f"{folder} must hold weights of {like.mask.network} and {like.depth.network}, but it holds"
            f" those of {spec.mask.network} and {spec.depth.network}. Leave --preset out, or name the"
            " right one"
        )
    try:
        data = (folder / WEIGHTS_FILE).read_bytes()
    except OSError as error:
        raise InputError(f"{folder / WEIGHTS_FILE} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != info.weights_sha256:
        raise InputError(
            f"{folder / WEIGHTS_FILE} must have the sha256 that {SPEC_FILE} records, but it has"
            " not: the file is damaged or was replaced"
        )
    try:
        state = load(data)
    except SafetensorError as error:
        raise InputError(f"{folder / WEIGHTS_FILE} must be a safetensors file: {error}") from error
    chain = build(spec)
    load_weights(chain, {key: value.float() for key, value in state.items()}, str(folder))
    return chain


def load_weights(module: Any, state: dict[str, Any], source: str) -> None:  # noqa: ANN401
    """Load a state dict into a module; every key must fit (`num_batches_tracked` may be absent).

    Raises:
        InputError: keys are missing, unexpected or of another shape; names them.

    """
    wanted = {k: v for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    found = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    faults = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": [
            f"{key} {tuple(found[key].shape)} for {tuple(wanted[key].shape)}"
            for key in wanted
            if key in found and found[key].shape != wanted[key].shape
        ],
    }
    listed = [
        f"{len(names)} {fault} ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
        for fault, names in faults.items()
        if names
    ]
    if listed:
        raise InputError(
            f"{source} must hold the weights of {type(module).__name__}"
            f" ({len(wanted)} tensors), but got {'; '.join(listed)}"
        )
    module.load_state_dict(found, strict=False)
