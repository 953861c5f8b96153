"""Published .pth files: read without running what is in them, and made into a checkpoint.

A .pth file is a pickle, and a pickle is a program. Here it is read by torch's unpickler for weights
only, which builds tensors and containers and nothing else; there is no fallback.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from depthmask import models
from depthmask.atomic import check_target
from depthmask.chain import MaskDepthChain, build
from depthmask.checkpoint import load_weights, save_checkpoint
from depthmask.errors import InputError, UsageError
from depthmask.presets import StageSpec, preset

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
"""Under which of its keys a file may hold the weights, the first one found."""

_RESIZING_NETWORKS = ("hu_resnet50", "drn22_autoencoder")
_PREFIX = "module."  # of what nn.DataParallel saves
_SAFETENSORS_HEADER = re.compile(rb"[\x00-\xff]{8}\{\s*\"")


def read_pth(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth file by name, on the CPU; `module.` and a wrapper are taken off.

    Files of Python 2, of torch before 1.6 and with bytes for names are read, too; other entries
    than the weights (an epoch, an optimiser's state) are left out.

    Raises:
        InputError: it is missing, empty, cut short, not a .pth file, without weights, or it holds
            anything else than tensors and plain values, which could only be read by running it.

    """
    _check_looks(path)
    state = _unwrap(_load(path), path)
    tensors = {}
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{path} must hold tensors by name, but {key} is of type {type(value).__name__}"
            )
        tensors[key.removeprefix(_PREFIX)] = value.detach()
    if not tensors:
        raise InputError(f"{path} must hold tensors by name, but it holds none")
    return tensors


def load_network(name: str, path: Path) -> nn.Module:
    """One of our networks with the weights of a .pth file; every key must fit.

    Raises:
        UsageError: there is no network of that name.
        InputError: as `read_pth`; or keys are missing, unexpected or of another shape (it names
            them); or a weight is not finite.

    """
    network = models.build(name).eval()
    _fill(network, path)
    return network


def import_chain(
    name: str,
    mask: Path,
    depth: Path,
    out: Path,
    *,
    align_corners: bool = False,
    overwrite: bool = False,
) -> MaskDepthChain:
    """Make a checkpoint of a preset in the folder `out` from the .pth files of its two networks.

    Args:
        name: the preset's.
        mask: the mask network's file.
        depth: the depth network's file.
        out: the checkpoint's folder.
        align_corners: how the reference networks resize: the checkpoints of 2019 were trained with
            aligned corners, later ones without, and the files do not say.
        overwrite: replace a checkpoint that exists.

    Raises:
        UsageError: unknown preset, or `out` exists and `overwrite` is off.
        InputError: as `load_network`.
        OutputError: `out` cannot be written.

    """
    check_target(out, overwrite=overwrite)
    spec = preset(name)
    if align_corners:
        spec = msgspec.structs.replace(
            spec, mask=_aligned(spec.mask, name), depth=_aligned(spec.depth, name)
        )
    chain = build(spec)
    _fill(chain.mask, mask)
    _fill(chain.depth, depth)
    sources = {"mask": mask.name, "depth": depth.name}
    save_checkpoint(chain, out, training={"imported": sources}, overwrite=overwrite)
    return chain


def _aligned(stage: StageSpec, name: str) -> StageSpec:
    if stage.network not in _RESIZING_NETWORKS:
        raise UsageError(f"--align-corners is for the reference networks, but {name} has others")
    return msgspec.structs.replace(stage, options={**stage.options, "align_corners": True})


def _fill(network: nn.Module, path: Path) -> None:
    state = read_pth(path)
    load_weights(network, state, str(path))
    for key, tensor in state.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InputError(f"{path} must hold finite weights, but {key} has NaN or infinity")


def _check_looks(path: Path) -> None:
    """Name what is easily taken for a .pth file, before torch says something obscure."""
    if path.is_dir():
        raise InputError(f"{path} must be a .pth file, but it is a folder")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise InputError(f"{path} must be a .pth file, but it is empty. Try fetching it again")
    if head.lstrip()[:1] == b"<":
        raise InputError(
            f"{path} must be a .pth file, but it is an HTML or XML page. A download may have"
            " failed: try fetching it again"
        )
    if head.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path} must be a .pth file, but it is a Git LFS pointer. Try `git lfs pull`"
        )
    if _SAFETENSORS_HEADER.match(head):
        raise InputError(
            f"{path} must be a .pth file, but it looks like safetensors. Try --checkpoint FOLDER"
            " where it is part of a checkpoint"
        )


def _load(path: Path) -> Any:  # noqa: ANN401  (any plain value)
    try:
        try:
            return _load_weights_only(path, "utf-8")
        except UnicodeDecodeError:  # text of Python 2, in no particular encoding
            return _load_weights_only(path, "latin1")
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(path, str(error))) from error
    except Exception as error:
        if "TorchScript" in str(error) or "legacy .tar" in str(error):
            raise InputError(_refusal(path, str(error))) from error
        raise InputError(
            f"{path} must be a whole .pth file, but it cannot be read ({type(error).__name__}:"
            f" {_first_sentence(str(error))}). Try fetching it again"
        ) from error


def _load_weights_only(path: Path, encoding: str) -> Any:  # noqa: ANN401
    with warnings.catch_warnings():
        # It says that the encoding is ignored, which it is not.
        warnings.filterwarnings("ignore", message="pickle_load_args only works")
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True, encoding=encoding)


def _refusal(path: Path, message: str) -> str:
    """One line for what torch says in twenty."""
    named = re.search(r"GLOBAL ([\w.]+)", message)
    if named is not None or "TorchScript" in message:
        code = named[1] if named is not None else "a TorchScript program"
        return (
            f"{path} must hold tensors only, but it holds code to run ({code}); depthmask never"
            " runs code from a file. Try saving network.state_dict() alone"
        )
    reason = message.rpartition("WeightsUnpickler error:")[2]
    return (
        f"{path} must be a .pth file that torch reads as weights only, but got:"
        f" {_first_sentence(reason)}. Try saving network.state_dict() alone, with a recent torch"
    )


def _first_sentence(message: str) -> str:
    text = " ".join(message.split())
    return re.split(r"\. |\.$|, please| Please", text)[0][:160]


def _unwrap(loaded: Any, path: Path) -> dict[str, Any]:  # noqa: ANN401
    """The mapping of names to tensors, which may stand in another one."""
    if not isinstance(loaded, Mapping):
        raise InputError(
            f"{path} must hold tensors by name, but it holds an object of type"
            f" {type(loaded).__name__}"
        )
    named = {_text(key): value for key, value in loaded.items()}
    for wrapper in WRAPPERS:
        if isinstance(named.get(wrapper), Mapping):
            return _unwrap(named[wrapper], path)
    return named


def _text(key: object) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)
