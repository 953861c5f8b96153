"""Saving graphs: one file each, or several that share their weights on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
            _write(model, folder / name)
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


def _write(model: ir.Model, path: Path) -> None:
    """What `to_bytes` gives, to a file, with one of the larger weights in memory at a time.

    A field of a protobuf is its number, its length and its content, in any order. So the graph (field 7 of a
    model) is written without those weights, and they follow as its field 5.
    """
    model = model.clone()
    weights = {}
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is not None and value.const_value.nbytes >= _SHARED_FROM_BYTES:
            weights[name] = value.const_value
            del model.graph.initializers[name]
    proto = ir.to_proto(model)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    sizes = {name: _tensor(name, weight).ByteSize() for name, weight in weights.items()}
    fields = sum(len(_field(5, size)) + size for size in sizes.values())
    with path.open("wb") as file:
        file.write(proto.SerializeToString())
        file.write(_field(7, len(graph) + fields) + graph)
        for name, weight in weights.items():
            file.write(_field(5, sizes[name]))
            file.write(_tensor(name, weight).SerializeToString())


def _tensor(name: str, weight: ir.TensorProtocol) -> Any:  # noqa: ANN401  (protobuf has no types)
    found = ir.to_proto(weight)
    if found.name == name:
        return found
    renamed = type(found)()
    renamed.CopyFrom(found)
    renamed.name = name
    return renamed


def _field(number: int, length: int) -> bytes:
    """What stands before a field with a length: its number and kind, and that length in sevens of bits."""
    head = [number << 3 | 2]
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*head, length])
