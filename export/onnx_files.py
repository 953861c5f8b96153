"""Saving graphs: one file each, or several that share their weights on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from depthmask.bundle import WEIGHTS_FILE

_SHARED_FROM_BYTES = 1024
_ALIGNMENT_BYTES = 4096
LARGEST_FILE_BYTES = 2**31 - 2**24
"""Of weights in one file: a protobuf ends at 2 GiB, and the graph itself needs room."""


def to_bytes(model: ir.Model) -> bytes:
    """The graph as one ONNX protobuf, weights inside."""
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def is_large(model: ir.Model) -> bool:
    """Whether a graph's weights are more than one protobuf can hold."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None) > LARGEST_FILE_BYTES


def save_models(models: Mapping[str, ir.Model], folder: Path) -> None:
    """Write graphs by file name; more than one, or a large one, keep their weights in `weights.bin`.

    Equal weights are there once: the same chain at several resolutions has the same convolutions, so a
    bundle of three is hardly larger than a bundle of one. The graphs themselves stay as they are, weights
    inside.
    """
    if len(models) <= 1 and not any(map(is_large, models.values())):
        for name, model in models.items():
            (folder / name).write_bytes(to_bytes(model))
        return
    models = {name: model.clone() for name, model in models.items()}
    offsets: dict[tuple[bytes, ir.DataType], int] = {}
    with (folder / WEIGHTS_FILE).open("wb") as file:
        for model in models.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _SHARED_FROM_BYTES:
                    continue
                data = tensor.tobytes()
                key = (hashlib.sha256(data).digest(), tensor.dtype)
                if key not in offsets:
                    file.seek(-(-file.tell() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)
                    offsets[key] = file.tell()
                    file.write(data)
                value.const_value = ir.ExternalTensor(
                    WEIGHTS_FILE,
                    offsets[key],
                    len(data),
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=value.name or "",
                    base_dir=folder,
                )
    for name, model in models.items():
        (folder / name).write_bytes(to_bytes(model))
