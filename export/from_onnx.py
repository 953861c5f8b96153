"""Reading somebody else's ONNX network, of any opset, without trusting it.

External data may not leave the model's folder, operators must be standard ONNX, and the graph is brought
to our opset (Upsample becomes Resize). Batch norms stay: folding them is a rewrite's job.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.version_converter
import onnx_ir as ir
from onnx_ir.passes.common import (
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedNodesPass,
)

from depthmask.errors import InputError, UsageError
from depthmask.untrusted import one_line, open_regular

OLDEST_OPSET = 7
_TAKEN_FROM_BYTES = 2**16
_ONNX_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxNetwork:
    """A checked graph with one image in and one map out."""

    path: Path
    model: ir.Model
    """As in the file, weights in memory."""
    input: str
    output: str
    input_shape: tuple[int | None, ...]
    """None where the file leaves a side open."""


def read_network(path: Path) -> OnnxNetwork:
    """Read and check an ONNX file.

    Raises:
        InputError: it is missing or damaged, its external data is not in its folder, it uses an operator
            that is not standard ONNX, or it does not take one image and give one map.
    """
    open_regular(path, "an ONNX file").close()
    try:
        model = ir.load(path)
        check_external_data(model, path)
        model = ir.external_data.load_to_model(model)
    except InputError:
        raise
    except Exception as error:  # protobuf and onnx-ir raise many kinds
        raise InputError(
            f"{path} must be an ONNX file, but it cannot be read: {one_line(error)}"
        ) from error
    _check_operators(model, path)
    weights = set(model.graph.initializers)
    inputs = [value for value in model.graph.inputs if value.name not in weights]
    outputs = list(model.graph.outputs)
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(
            f"{path} must take one image and give one map, but it takes"
            f" {', '.join(str(v.name) for v in inputs) or 'nothing'} and gives"
            f" {', '.join(str(v.name) for v in outputs)}"
        )
    shape = inputs[0].shape
    if shape is None or len(shape) != 4 or inputs[0].dtype != ir.DataType.FLOAT:
        raise InputError(
            f"{path} must take a float32 image of four dimensions, but its input {inputs[0].name} is"
            f" {inputs[0].dtype} {shape}"
        )
    sides = tuple(side if isinstance(side, int) else None for side in shape)
    return OnnxNetwork(path, model, str(inputs[0].name), str(outputs[0].name), sides)


def check_external_data(model: ir.Model, path: Path) -> None:
    """Refuse weights outside the model's folder, and ones that the file does not hold.

    Raises:
        InputError: names the tensor and where its data would be read.
    """
    folder = path.parent.resolve()
    for tensor in _external_tensors(model):
        where = Path(tensor.location)
        file = folder / where
        if where.is_absolute() or not file.resolve().is_relative_to(folder):
            raise InputError(
                f"{path} must keep its external data in its own folder, but {tensor.name} is in"
                f" {str(tensor.location)!r}. Put the data beside the model"
            )
        if file.is_file() and file.stat().st_nlink > 1:
            raise InputError(
                f"{path} must keep {tensor.name} in a file of its own, but {file} has another name elsewhere"
                " (a hard link). Copy it"
            )
        if not file.is_file():
            raise InputError(f"{path} keeps {tensor.name} in {file}, but there is no such file")
        offset, length = tensor.offset or 0, tensor.length
        end = offset + (tensor.nbytes if length is None else length)
        if offset < 0 or end < offset or end > file.stat().st_size or end - offset < tensor.nbytes:
            raise InputError(
                f"{path} keeps {tensor.name} at bytes {offset} to {end} of {file}, which holds"
                f" {file.stat().st_size}, and the tensor has {tensor.nbytes}"
            )


def to_opset(network: OnnxNetwork, opset: int) -> ir.Model:
    """The graph at our opset: weights no inputs, constants lifted, nodes named, shapes inferred.

    Raises:
        InputError: a node cannot be converted.
        UsageError: the file is newer than `opset`.
    """
    model = network.model.clone()
    found = model.opset_imports.get("", 1)
    if found > opset:
        raise UsageError(
            f"{network.path} is of opset {found}, which cannot be lowered to {opset}. Try --opset {found}"
        )
    if found < OLDEST_OPSET:
        raise InputError(
            f"{network.path} must be of opset {OLDEST_OPSET} or newer, but got {found}"
        )
    weights = _take_weights(model)
    proto = ir.to_proto(model)
    try:
        if found < opset:
            proto = onnx.version_converter.convert_version(proto, opset)
        proto = onnx.shape_inference.infer_shapes(proto)
    except Exception as error:  # the converter raises RuntimeError and others
        raise InputError(
            f"{network.path} cannot be brought from opset {found} to {opset}: {one_line(error)}"
        ) from error
    converted = ir.from_proto(proto)
    _put_weights(converted, weights)
    RemoveInitializersFromInputsPass()(converted)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(converted)
    RemoveUnusedNodesPass()(converted)
    return converted


def gmac(model: ir.Model) -> float:
    """Billions of multiply-accumulates of the convolutions and matrix products of a graph with shapes."""
    total = 0
    for node in model.graph:
        shapes = [None if v is None or v.shape is None else v.shape for v in node.inputs[:2]]
        output = node.outputs[0].shape
        if len(shapes) < 2 or shapes[0] is None or shapes[1] is None or output is None:
            continue
        weight = [side for side in shapes[1] if isinstance(side, int)]
        counted = shapes[0] if node.op_type == "ConvTranspose" else output
        positions = math.prod(side for side in counted if isinstance(side, int))
        if node.op_type in ("Conv", "ConvTranspose"):
            total += positions * math.prod(weight[1:])
        elif node.op_type in ("MatMul", "Gemm"):
            inner = shapes[0][-1]
            total += positions * (inner if isinstance(inner, int) else 1)
    return total / 1e9


def _take_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """Make inputs of the larger weights: converting copies what is inside, and ends at 2 GiB.

    What a converter must know of a constant (sizes, scales, axes) is smaller.
    """
    taken = {}
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _TAKEN_FROM_BYTES:
            continue
        taken[name] = tensor
        value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        if value not in model.graph.inputs:
            model.graph.inputs.append(value)
        value.const_value = None
        del model.graph.initializers[name]
    return taken


def _put_weights(model: ir.Model, weights: dict[str, ir.TensorProtocol]) -> None:
    for value in model.graph.inputs:
        if value.name in weights:
            value.const_value = weights[value.name]
            model.graph.register_initializer(value)


def _external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                held = (
                    attribute.value
                    if isinstance(attribute.value, (list, tuple))
                    else [attribute.value]
                )
                yield from (tensor for tensor in held if isinstance(tensor, ir.ExternalTensor))


def _is_known(node: ir.Node, opset: int) -> bool:
    if node.domain not in _ONNX_DOMAINS or not isinstance(node.op_type, str):  # bytes: not UTF-8
        return False
    return bool(onnx.defs.has(node.op_type, max_inclusive_version=opset))


def _check_operators(model: ir.Model, path: Path) -> None:
    opset = model.opset_imports.get("", 1)
    if model.functions:
        raise InputError(
            f"{path} must use standard ONNX operators only, but it defines {len(model.functions)} functions"
            " of its own. Try inlining them with onnx.inliner"
        )
    for graph in model.graphs():
        for node in graph:
            if not _is_known(node, opset):
                domain = f"{node.domain}::" if node.domain else ""
                label = node.name or ", ".join(str(value.name) for value in node.outputs)
                raise InputError(
                    f"{path} must use standard ONNX operators only, but its node {label!r} is"
                    f" {domain}{node.op_type}, which opset {opset} does not have"
                )
