"""TensorRT engines of a bundle: what they were built for, and whether they fit what is here.

An engine is one file, `*.engine`, as TensorRT wrote it (so that `trtexec --loadEngine` takes it too), with
its header beside it, `*.engine.json`. The manifest holds the headers again, under its digest.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

import msgspec

Flavour = Literal["tensorrt", "tensorrt-rtx"]
"""An engine of one cannot be loaded by the other."""
PRODUCTS: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
ENGINE_SUFFIX = ".engine"
HEADER_SUFFIX = ".engine.json"


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


class EngineHeader(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an engine is, and what it must find where it is loaded."""

    schema: Literal[1] = 1
    file: str
    flavour: Flavour
    version: str
    """Of TensorRT; an engine is loaded by this version only."""
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


def rebuild_command(bundle: Path, header: EngineHeader, architecture: str | None = None) -> str:
    """The command that builds an engine again from its bundle's ONNX, here or for `architecture`."""
    words = ["dmx", "export", "--rebuild", str(bundle), "--to", header.flavour]
    if header.flavour == "tensorrt-rtx":
        gpus = header.architectures if architecture is None else (architecture,)
        words += ["--gpu", ",".join(gpus)]
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
    if header.version != machine.version:
        return (
            f"{header.file} must be loaded by {product} {header.version}, but {product}"
            f" {machine.version} is installed"
        )
    if machine.architecture not in header.architectures:
        return (
            f"{header.file} must run on a GPU of {' or '.join(header.architectures)}, but this one is"
            f" {machine.architecture}"
        )
    return None
