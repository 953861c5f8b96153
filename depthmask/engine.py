"""TensorRT engines of a bundle: what they were built for, and whether they fit what is here.

An engine is one file, `*.engine`, as TensorRT wrote it (so that `trtexec --loadEngine` takes it too), with
its header beside it, `*.engine.json`, and the layers of the network that it was built from,
`*.engine.layers.json`. Where it was built on its GPU, `*.engine.inspector.json` is what TensorRT's inspector
says of it. The manifest holds the headers again, under its digest.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from depthmask.errors import InputError

Flavour = Literal["tensorrt", "tensorrt-rtx"]
"""An engine of one cannot be loaded by the other."""
PRODUCTS: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
Compatibility = Literal["none", "same-compute-capability", "ampere-plus"]
"""The GPUs that an engine of TensorRT runs on beside the model that it was built on: none for sure, those of
its architecture, or all of sm80 and newer."""
ENGINE_SUFFIX = ".engine"
HEADER_SUFFIX = ".engine.json"
LAYERS_SUFFIX = ".engine.layers.json"
INSPECTOR_SUFFIX = ".engine.inspector.json"
OWN_SUFFIXES = (ENGINE_SUFFIX, HEADER_SUFFIX, LAYERS_SUFFIX, INSPECTOR_SUFFIX)
TRUST_VARIABLE = "DEPTHMASK_TRUST_ENGINES"
_AMPERE = 80


class ShapeRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shapes of an input that an engine takes, and the one that it is fastest for."""

    smallest: tuple[int, ...]
    best: tuple[int, ...]
    largest: tuple[int, ...]

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether a shape lies within."""
        return len(shape) == len(self.smallest) and all(
            low <= side <= high
            for low, side, high in zip(self.smallest, shape, self.largest, strict=True)
        )


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of the network that an engine was built from; the builder fuses them, and keeps the types."""

    name: str
    """Of the ONNX node that it comes from."""
    kind: str
    """As TensorRT calls it, such as CONVOLUTION."""
    precisions: tuple[str, ...]
    """The type of each output, such as HALF."""


class EngineHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine is, and what it must find where it is loaded."""

    schema: Literal[1] = 1
    file: str
    flavour: Flavour
    version: str
    """Of TensorRT; an engine is loaded by this version only, unless it is `version_compatible`."""
    architectures: tuple[str, ...]
    """GPU architectures, as `sm89`; it is loaded on these only."""
    precision: str
    """Of the ONNX graph, which is strongly typed: the engine computes in it."""
    graph: str
    """The ONNX file that it was built from."""
    onnx: dict[str, str]
    """sha256 of that file, and of the file of its weights where they are apart."""
    inputs: dict[str, ShapeRange]
    workspace_mib: int | None
    """None: as much as the GPU has."""
    builder_level: int
    hardware_compatibility: Compatibility = "none"
    version_compatible: bool = False
    """Newer versions load it too, by code of TensorRT's own inside the engine, which runs on the CPU."""
    stripped: bool = False
    """Its weights are left out, and come from the ONNX when it is loaded."""
    size_bytes: int
    build_s: float
    verified: bool = False
    """Whether it was run where it was built, and agreed with PyTorch; never so without the GPU."""
    warnings: tuple[str, ...] = ()
    """What the builder warned of."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine finds where it is loaded."""

    version: str
    architecture: str


def read_layers(bundle: Path, header: EngineHeader) -> tuple[LayerRecord, ...]:
    """The layers of the network that an engine was built from.

    Raises:
        InputError: the bundle has no list of them, or a damaged one.
    """
    path = (bundle / header.file).with_suffix(LAYERS_SUFFIX)
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[LayerRecord, ...])
    except (OSError, msgspec.DecodeError) as error:
        command = rebuild_command(bundle, header)
        raise InputError(
            f"{path} must list the engine's layers, but {error}. Try `{command}`"
        ) from error


def rebuild_command(bundle: Path, header: EngineHeader, architecture: str | None = None) -> str:
    """The command that builds an engine again from its bundle's ONNX, here or for `architecture`."""
    words = ["dmx", "export", "--rebuild", str(bundle), "--to", header.flavour]
    if header.flavour == "tensorrt-rtx":
        gpus = header.architectures if architecture is None else (architecture,)
        words += ["--gpu", ",".join(gpus)]
    if header.hardware_compatibility != "none":
        words += ["--hardware-compatible", header.hardware_compatibility]
    if header.version_compatible:
        words.append("--version-compatible")
    if header.stripped:
        words.append("--strip-weights")
    return shlex.join(words)


def graph_mismatch(header: EngineHeader, sha256: dict[str, str]) -> str | None:
    """Where the bundle's ONNX is not what an engine was built from, in words; None: it is."""
    for name, expected in header.onnx.items():
        found = sha256.get(name)
        if found != expected:
            state = f"has sha256 {found[:12]}..." if found else "is not in the bundle"
            return f"{header.file} must belong to {name} of sha256 {expected[:12]}..., but {name} {state}"
    return None


def machine_mismatch(header: EngineHeader, machine: Machine) -> str | None:
    """What of a machine is not what an engine was built for, in words; None: it fits."""
    product = PRODUCTS[header.flavour]
    if not _loads(header, machine.version):
        return (
            f"{header.file} must be loaded by {product} {header.version}, but {product}"
            f" {machine.version} is installed"
        )
    if not _runs_on(header, machine.architecture):
        newer = " or newer" if header.hardware_compatibility == "ampere-plus" else ""
        return (
            f"{header.file} must run on a GPU of {' or '.join(header.architectures)}{newer}, but this one is"
            f" {machine.architecture}"
        )
    return None


def host_code_problem(header: EngineHeader) -> str | None:
    """Why the CPU code inside an engine may not be run, in words; None: there is none, or it may."""
    if not header.version_compatible or os.environ.get(TRUST_VARIABLE) == "1":
        return None
    return (
        f"{header.file} is version-compatible, so it brings code of its own for the CPU, which a bundle"
        f" may run only where you trust it. Try {TRUST_VARIABLE}=1 if you do"
    )


@contextmanager
def trusted() -> Iterator[None]:
    """Let engines run code of their own for the CPU: those that were built a moment ago, here."""
    before = os.environ.get(TRUST_VARIABLE)
    os.environ[TRUST_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[TRUST_VARIABLE]
        else:
            os.environ[TRUST_VARIABLE] = before


def _loads(header: EngineHeader, version: str) -> bool:
    """By its own version; a version-compatible one by newer ones of the same major version too."""
    if not header.version_compatible:
        return header.version == version
    built, found = (
        [int(part) for part in re.findall(r"\d+", text)] for text in (header.version, version)
    )
    return built[0] == found[0] and built <= found


def _runs_on(header: EngineHeader, architecture: str) -> bool:
    if header.hardware_compatibility != "ampere-plus":
        return architecture in header.architectures
    return int(architecture.removeprefix("sm")) >= _AMPERE
