"""What a bundle's ONNX file would have a runtime do, read without a runtime: no package is needed.

A runtime opens whatever file a graph names for its weights, so the names are checked first, and so are
operators that are not standard ONNX. The walk is over the protobuf's own fields (onnx.proto, wire format:
https://protobuf.dev/programming-guides/encoding/); weights are stepped over, not read.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from depthmask.errors import InputError
from depthmask.untrusted import short

_DEEPEST = 32
"""Graphs within graphs."""
_Span = tuple[int, int]
_Field = tuple[int, _Span | None]
"""Its number, and where it is; None of a number's."""

# Which fields of a message hold messages that lead to a tensor or a node.
_INNER: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "tensor": {13: "external"},
}
_FUNCTIONS, _INPUT, _OP_TYPE, _DOMAIN = 25, 1, 4, 7
_KEY, _VALUE = 1, 2
_REQUIRED_INPUTS = {
    name: number
    for number, names in {
        0: """
            Constant Optional OptionalHasElement RandomNormal RandomUniform SequenceEmpty
        """,
        2: """
            Add And BitShift BitwiseAnd BitwiseOr BitwiseXor CastLike CenterCropPad Compress
            Conv ConvInteger ConvTranspose CumSum DequantizeLinear Div Equal Expand Gather
            GatherElements GatherND Gemm Greater GreaterOrEqual GridSample LayerNormalization
            Less LessOrEqual Loop MatMul MatMulInteger MaxRoiPool MaxUnpool Mod Mul
            NegativeLogLikelihoodLoss NonMaxSuppression Or PRelu Pad Pow QuantizeLinear Reshape
            ReverseSequence STFT SequenceAt SequenceInsert SoftmaxCrossEntropyLoss Sub Tile TopK
            Unsqueeze Upsample Xor
        """,
        3: """
            Col2Im GRU GroupNormalization InstanceNormalization LSTM OneHot RNN Range RoiAlign
            Scatter ScatterElements ScatterND Slice Where
        """,
        5: """
            BatchNormalization MelWeightMatrix
        """,
        8: """
            QLinearConv QLinearMatMul
        """,
    }.items()
    for name in names.split()
}
"""How many inputs an operator must have, where it is not one (opset 18). OpenVINO reads what is not there."""


def check_graph(file: IO[bytes], path: Path, name: str, sizes_bytes: Mapping[str, int]) -> None:
    """Check an ONNX file of a bundle.

    Args:
        file: opened for reading.
        path: the bundle's, for messages.
        name: the file's, within the bundle.
        sizes_bytes: of each file of the bundle, by its name.

    Raises:
        InputError: the file is damaged, keeps weights where the bundle has none, or uses an operator that
            is not standard ONNX.
    """
    where = path / name
    try:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Scan(data, where, PurePosixPath(name).parent, sizes_bytes).walk(
                "model", (0, len(data)), 0
            )
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where} must be an ONNX file, but {error}. Export again") from error


class _Scan:
    def __init__(
        self, data: mmap.mmap, where: Path, folder: PurePosixPath, sizes_bytes: Mapping[str, int]
    ) -> None:
        self._data = data
        self._where = where
        self._folder = folder
        self._sizes_bytes = sizes_bytes

    def walk(self, kind: str, span: _Span, depth: int) -> None:
        """Check a message and those within it."""
        if depth > _DEEPEST * 3:  # a graph within a graph is a node and an attribute deeper
            raise ValueError(f"its graphs are nested deeper than {_DEEPEST}")
        inner = _INNER[kind]
        texts: dict[int, str] = {}
        external: list[_Span] = []
        inputs: list[bool] = []
        for number, held in self._fields(span):
            if kind == "model" and number == _FUNCTIONS:
                raise InputError(f"{self._where} must not define functions of its own, but it does")
            if held is None:
                continue
            if kind == "node" and number in (_OP_TYPE, _DOMAIN):
                texts[number] = self._text(held)
            elif kind == "node" and number == _INPUT:
                inputs.append(held[0] < held[1])
            elif number in inner:
                if inner[number] == "external":
                    external.append(held)
                else:
                    self.walk(inner[number], held, depth + 1)
        if texts.get(_DOMAIN, "") not in ("", "ai.onnx"):
            raise InputError(
                f"{self._where} must use standard ONNX operators only, but it has"
                f" {short(texts.get(_OP_TYPE))} of the domain {short(texts[_DOMAIN])}"
            )
        if kind == "node":
            required = _REQUIRED_INPUTS.get(texts.get(_OP_TYPE, ""), 1)
            if sum(inputs[:required]) < required:
                raise ValueError(f"{short(texts.get(_OP_TYPE))} lacks an input")
        if external:
            self._check_external(external)

    def _check_external(self, entries: list[_Span]) -> None:
        """Any of several values of a key may be the one that a runtime takes: all are checked."""
        found: dict[str, list[str]] = {"location": [], "offset": ["0"], "length": ["0"]}
        for entry in entries:
            texts = {number: self._text(held) for number, held in self._fields(entry) if held}
            if texts.get(_KEY) in found:
                found[texts[_KEY]].append(texts.get(_VALUE, ""))
        for location in found["location"] or [""]:
            # As written: another way of writing a name may mean another file to a runtime.
            size_bytes = self._sizes_bytes.get(str(self._folder / location))
            if size_bytes is None or str(PurePosixPath(location)) != location:
                raise InputError(
                    f"{self._where} must keep its weights in a file of the bundle, but it names"
                    f" {short(location)}"
                )
            for offset in found["offset"]:
                for length in found["length"]:
                    if not _lies_within(offset, length, size_bytes):
                        raise InputError(
                            f"{self._where} keeps weights at {short(offset)} of length {short(length)}"
                            f" in {location}, which has {size_bytes} bytes"
                        )

    def _fields(self, span: _Span) -> Iterator[_Field]:
        position, end = span
        while position < end:
            tag, position = self._varint(position, end)
            wire = tag & 7
            held = None
            if wire == 0:
                _, position = self._varint(position, end)
            elif wire in (1, 5):
                position += 8 if wire == 1 else 4
            elif wire == 2:
                length, position = self._varint(position, end)
                held = (position, position + length)
                position += length
            else:
                raise ValueError("it is no protobuf")
            if position > end:
                raise ValueError("it is cut short")
            yield tag >> 3, held

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while position < end and shift < 70:
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
        raise ValueError("it is cut short")

    def _text(self, span: _Span) -> str:
        return self._data[slice(*span)].decode("utf-8", "surrogateescape")


def _lies_within(offset: str, length: str, size_bytes: int) -> bool:
    numbers = [int(text) if text.isascii() and text.isdigit() else -1 for text in (offset, length)]
    return min(numbers) >= 0 and sum(numbers) <= size_bytes
