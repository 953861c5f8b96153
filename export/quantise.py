"""int8 by graph: QuantizeLinear and DequantizeLinear (QDQ) in front of convolutions.

Symmetric int8 throughout: the zero point is 0; a tensor of magnitude up to r has the scale r / 127, a weight
one scale per output channel (axis 0); the bias stays float32. TensorRT accepts nothing else. OpenVINO makes
int8 kernels of it; more pairs (behind convolutions, around additions) made it no faster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from depthmask.export.graph_edit import constant_array, drop_unused_constants
from depthmask.export.to_onnx import stage_of

INT8_LARGEST = 127
"""-128 is not used for weights, so that their range is symmetric."""
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
_STAGES = ("mask", "depth")


def sites(model: ir.Model, stage: str | None = None) -> tuple[str, ...]:
    """The names of what int8 can compute: the networks' convolutions with constant weights, in order.

    With a stage (`mask` or `depth`), only those in that network.
    """
    return tuple(
        node.name or ""
        for node in _convolutions(model.graph)
        if stage is None or stage_of(node) == stage
    )


def input_tensors(model: ir.Model, stage: str) -> tuple[str, ...]:
    """The names of the tensors that the sites of a stage (`mask` or `depth`) take, in order."""
    taken = (_input(n) for n in _convolutions(model.graph) if stage_of(n) == stage)
    return tuple(dict.fromkeys(value.name or "" for value in taken))


def site_macs(model: ir.Model) -> dict[str, int]:
    """The multiply-accumulates of one image, by site; sides that are open count as 1."""
    found = {}
    for node in _convolutions(model.graph):
        weight, output = constant_array(node.inputs[1]), node.outputs[0]
        assert weight is not None
        sides = output.shape[2:] if output.shape is not None else ()
        pixels = np.prod([side if isinstance(side, int) else 1 for side in sides], dtype=int)
        found[node.name or ""] = int(weight.size * pixels)
    return found


def quantise(
    model: ir.Model, ranges: Mapping[str, float], keep_fp32: frozenset[str] = frozenset()
) -> ir.Model:
    """A copy of the graph in which every site but those named takes int8.

    Postcondition: the same inputs and outputs, of the same types.

    Args:
        model: float32; not changed.
        ranges: the largest magnitude of each of `input_tensors` that is quantised, by name.
        keep_fp32: names of `sites` that stay as they are.
    """
    quantised = model.clone()
    graph = quantised.graph
    pairs: dict[ir.Value, ir.Value] = {}
    for node in list(_convolutions(graph)):
        if node.name in keep_fp32:
            continue
        for index, value in ((0, _input(node)), (1, node.inputs[1])):
            assert value is not None
            if value not in pairs:
                pair = _Pair(graph, node, value)
                pairs[value] = pair.of_weight() if index else pair.of_activation(ranges)
            node.replace_input_with(index, pairs[value])
    drop_unused_constants(graph)
    return quantised


def _convolutions(graph: ir.Graph) -> Iterator[ir.Node]:
    return (
        node
        for node in graph
        if node.op_type == "Conv"
        and stage_of(node) in _STAGES
        and constant_array(node.inputs[1]) is not None
    )


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


class _Pair:
    """What rounds one tensor to int8 and back, in front of the first node that takes it so."""

    def __init__(self, graph: ir.Graph, before: ir.Node, value: ir.Value) -> None:
        self._graph = graph
        self._before = before
        self._value = value

    def of_activation(self, ranges: Mapping[str, float]) -> ir.Value:
        """Rounded at run time, with one scale."""
        largest = ranges[self._value.name or ""]
        scale = self._constant("scale", np.float32(max(largest / INT8_LARGEST, _SMALLEST_SCALE)))
        zero = self._constant("zero", np.int8(0))
        rounded = self._node("QuantizeLinear", [self._value, scale, zero], ir.DataType.INT8)
        return self._node("DequantizeLinear", [rounded, scale, zero], ir.DataType.FLOAT)

    def of_weight(self) -> ir.Value:
        """Rounded here, with a scale per output channel."""
        weight = constant_array(self._value)
        assert weight is not None
        scale_C = np.abs(weight).reshape(len(weight), -1).max(1) / INT8_LARGEST
        scale_C = np.maximum(scale_C, _SMALLEST_SCALE).astype(np.float32)
        steps = np.round(weight / scale_C.reshape(-1, *[1] * (weight.ndim - 1)))
        rounded = np.clip(steps, -INT8_LARGEST, INT8_LARGEST).astype(np.int8)
        inputs = [
            self._constant("int8", rounded),
            self._constant("scale", scale_C),
            self._constant("zero", np.zeros(len(weight), np.int8)),
        ]
        return self._node("DequantizeLinear", inputs, ir.DataType.FLOAT, {"axis": 0})

    def _constant(self, what: str, array: np.ndarray | np.generic) -> ir.Value:
        numbers = np.asarray(array)
        name = f"{self._value.name}/{what}"
        constant = ir.Value(
            name=name,
            shape=ir.Shape(numbers.shape),
            type=ir.TensorType(ir.DataType.from_numpy(numbers.dtype)),
            const_value=ir.tensor(numbers, name=name),
        )
        self._graph.register_initializer(constant)
        return constant

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        dtype: ir.DataType,
        attributes: dict[str, int] | None = None,
    ) -> ir.Value:
        name = f"{self._value.name}/{op_type}"
        output = ir.Value(name=name, shape=self._value.shape, type=ir.TensorType(dtype))
        node = ir.node(op_type, inputs, attributes=attributes, outputs=[output], name=name)
        node.metadata_props.update(self._before.metadata_props)
        self._graph.insert_before(self._before, node)
        return output
