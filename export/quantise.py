"""int8 by graph: QuantizeLinear and DequantizeLinear (QDQ) in front of convolutions.

Symmetric int8 throughout: the zero point is 0; a tensor of magnitude up to r has the scale r / 127, a weight
one scale per output channel (axis 0); the bias stays float32. TensorRT accepts nothing else. `unsigned`
spells the same for CPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from depthmask.export.graph_edit import constant_array, drop_unused_constants
from depthmask.export.to_onnx import stage_of

INT8_LARGEST = 127
"""-128 is not used for weights, so that their range is symmetric."""
_UINT8_LARGEST = 255
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
STAGES = ("mask", "depth")


@dataclass(frozen=True)
class Range:
    """What a tensor's rounded values must reach; beyond it they are cut off."""

    low: float
    high: float

    @property
    def magnitude(self) -> float:
        """The larger end."""
        return max(-self.low, self.high)


def sites(model: ir.Model, stage: str | None = None) -> tuple[str, ...]:
    """The names of what int8 can compute: the networks' convolutions with constant weights, in order.

    With a stage (`mask` or `depth`), only those in that network.
    """
    return tuple(
        node.name or ""
        for node in convolutions(model.graph)
        if stage is None or stage_of(node) == stage
    )


def input_tensors(model: ir.Model, stage: str) -> tuple[str, ...]:
    """The names of the tensors that the sites of a stage (`mask` or `depth`) take, in order."""
    taken = (_input(n) for n in convolutions(model.graph) if stage_of(n) == stage)
    return tuple(dict.fromkeys(value.name or "" for value in taken))


def site_macs(model: ir.Model) -> dict[str, int]:
    """The multiply-accumulates of one image, by site; sides that are open count as 1."""
    found = {}
    for node in convolutions(model.graph):
        weight, output = constant_array(node.inputs[1]), node.outputs[0]
        assert weight is not None
        sides = output.shape[2:] if output.shape is not None else ()
        pixels = np.prod([side if isinstance(side, int) else 1 for side in sides], dtype=int)
        found[node.name or ""] = int(weight.size * pixels)
    return found


def quantise(
    model: ir.Model, ranges: Mapping[str, Range], keep_fp32: frozenset[str] = frozenset()
) -> ir.Model:
    """A copy of the graph in which every site but those named takes int8.

    Postcondition: the same inputs and outputs, of the same types.

    Args:
        model: float32; not changed.
        ranges: of each of `input_tensors` that is quantised, by name.
        keep_fp32: names of `sites` that stay as they are.
    """
    quantised = model.clone()
    graph = quantised.graph
    rounded = [node for node in convolutions(graph) if node.name not in keep_fp32]
    pairs: dict[ir.Value, ir.Value] = {}
    for node in rounded:
        value = _input(node)
        if value not in pairs:
            pairs[value] = Pair(graph, node, value).of_int8(ranges[value.name or ""])
        node.replace_input_with(0, pairs[value])
    round_weights(graph, rounded)
    drop_unused_constants(graph)
    return quantised


def round_weights(graph: ir.Graph, nodes: Iterable[ir.Node]) -> None:
    """Let convolutions take int8 weights."""
    pairs: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        weight = node.inputs[1]
        assert weight is not None
        if weight not in pairs:
            pairs[weight] = Pair(graph, node, weight).of_weight()
        node.replace_input_with(1, pairs[weight])


def convolutions(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes that int8 can compute, in order."""
    return (
        node
        for node in graph
        if node.op_type == "Conv"
        and stage_of(node) in STAGES
        and constant_array(node.inputs[1]) is not None
    )


def _input(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


class Pair:
    """What rounds one tensor to eight bits and back, in front of the first node that takes it so."""

    def __init__(self, graph: ir.Graph, before: ir.Node, value: ir.Value) -> None:
        self._graph = graph
        self._before = before
        self._value = value

    def of_int8(self, span: Range) -> ir.Value:
        """Rounded at run time to [-128, 127] with zero point 0."""
        return self._of_activation(span.magnitude / INT8_LARGEST, np.int8(0), ir.DataType.INT8)

    def of_uint8(self, span: Range) -> ir.Value:
        """Rounded at run time to [0, 255]: the range is widened to hold 0, which stays exact."""
        low, high = min(span.low, 0.0), max(span.high, 0.0)
        scale = max((high - low) / _UINT8_LARGEST, _SMALLEST_SCALE)
        return self._of_activation(scale, np.uint8(round(-low / scale)), ir.DataType.UINT8)

    def _of_activation(
        self, scale: float, zero: np.int8 | np.uint8, dtype: ir.DataType
    ) -> ir.Value:
        constants = [
            self._constant("scale", np.float32(max(scale, _SMALLEST_SCALE))),
            self._constant("zero", zero),
        ]
        rounded = self._node("QuantizeLinear", [self._value, *constants], dtype)
        return self._node("DequantizeLinear", [rounded, *constants], ir.DataType.FLOAT)

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
