"""fp16 by graph: nodes compute in float16 unless their values could overflow it.

The precision lives in the ONNX graph, so that one file serves every runtime (a strongly typed TensorRT
network too). Inputs and outputs stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx_ir as ir

from depthmask.export.sessions import GraphSession
from depthmask.export.to_onnx import stage_of
from depthmask.runtimes import Tensors

FP16_LARGEST = float(np.finfo(np.float16).max)
# A few frames do not show the largest value there is, so a value may use a quarter of the range.
FP16_HEADROOM = 4.0
_RANGE_PREFIX = "range of "
# Operators whose floats are parameters of another kind: ONNX fixes their type, or fp16 cannot hold them.
_FP32_INPUTS = {"Resize": (1, 2)}
_MADE_FROM_NOTHING = frozenset({"Range", "ConstantOfShape", "RandomNormal", "RandomUniform"})


def node_ranges(model: ir.Model, batches: Iterable[Tensors]) -> dict[str, float]:
    """The largest magnitude that each node gave over the batches, by node name.

    Every activation is reduced inside the graph (Abs, ReduceMax), so the memory is the network's own.
    NaN and infinity count as infinity.
    """
    session = GraphSession(_with_range_outputs(model))
    names = [name for name in session.outputs if name.startswith(_RANGE_PREFIX)]
    largest = dict.fromkeys(names, 0.0)
    for inputs in batches:
        for name, value in zip(names, session.run(names, inputs), strict=True):
            magnitude = float(value)
            largest[name] = max(largest[name], magnitude if np.isfinite(magnitude) else np.inf)
    return {name.removeprefix(_RANGE_PREFIX): value for name, value in largest.items()}


def unfit_for_fp16(model: ir.Model, ranges: dict[str, float]) -> frozenset[str]:
    """The nodes that give or take a value which float16 cannot hold.

    Args:
        model: the float32 graph.
        ranges: of its nodes, by `node_ranges`.
    """
    limit = FP16_LARGEST / FP16_HEADROOM

    def fits(value: ir.Value | None) -> bool:
        if value is None or value.dtype != ir.DataType.FLOAT:
            return True
        producer = value.producer()
        if producer is not None:
            return ranges.get(producer.name or "", 0.0) <= limit
        return value.const_value is None or _constant_fits(value.const_value.numpy())

    return frozenset(
        node.name or ""
        for node in model.graph
        if not all(fits(value) for value in (*node.inputs, *node.outputs))
    )


def _constant_fits(numbers: np.ndarray) -> bool:
    """A weight tensor may lose its tiniest entries; a lone number (an epsilon, say) may not become 0."""
    largest = float(np.abs(numbers).max(initial=0))
    smallest = float(np.finfo(np.float16).smallest_subnormal)
    vanishes = numbers.size == 1 and 0 < largest < smallest
    return largest <= FP16_LARGEST and not vanishes


def needed_in_fp32(
    model: ir.Model, batches: Sequence[Tensors], unfit: frozenset[str], tolerance: float
) -> frozenset[str]:
    """The nodes to keep float32 so that every output stays within the tolerance of the float32 graph.

    Rounding near a network's input spreads through all that follows, so the first nodes of each network
    are kept: none if float16 holds as it is, else as few sixteenths as do, found by bisection.

    Args:
        model: the float32 graph.
        batches: inputs to compare on.
        unfit: nodes that cannot be float16 at all, by `unfit_for_fp16`.
        tolerance: of the largest difference, as a share of the output's range.
    """
    expected = _outputs(model, batches)
    stages: dict[str, list[str]] = {"mask": [], "depth": []}
    for node in model.graph:
        if stage_of(node) in stages:
            stages[stage_of(node)].append(node.name or "")

    def kept(sixteenths: int) -> frozenset[str]:
        first = (names[: len(names) * sixteenths // 16] for names in stages.values())
        return unfit.union(*first)

    def holds(sixteenths: int) -> bool:
        found = _outputs(to_fp16(model, kept(sixteenths)), batches)
        return all(
            _largest_difference(found[name], expected[name]) <= tolerance for name in expected
        )

    low, high = 0, 16  # the answer is in [low, high]; all of it in float32 holds
    if holds(0):
        return unfit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return kept(high)


def _outputs(model: ir.Model, batches: Sequence[Tensors]) -> dict[str, list[np.ndarray]]:
    session = GraphSession(model)
    names = session.outputs
    results = [session.run(names, inputs) for inputs in batches]
    return {name: [result[index] for result in results] for index, name in enumerate(names)}


def _largest_difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """As a share of the expected values' range; NaN is infinitely far."""
    span = max(float(e.max()) for e in expected) - min(float(e.min()) for e in expected)
    worst = max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True))
    return worst / span if span > 0 and np.isfinite(worst) else np.inf


def to_fp16(model: ir.Model, keep_fp32: frozenset[str] = frozenset()) -> ir.Model:
    """A copy of the graph in which every node but those named, and the preprocessing, is float16.

    Postcondition: the same inputs and outputs, of the same types; a Cast wherever the two meet.
    """
    half = model.clone()
    graph = half.graph
    converter = _Fp16(graph, lambda node: node.name in keep_fp32 or _must_stay_fp32(node))
    for node in list(graph):
        converter.convert(node)
    converter.restore_outputs()
    graph.sort()
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]  # its float16 copy took its place
    return half


def _must_stay_fp32(node: ir.Node) -> bool:
    # Frames hold positions up to thousands of pixels: their distances need float32.
    return stage_of(node) == "preprocess" or node.op_type in _MADE_FROM_NOTHING


class _Fp16:
    """Converts the nodes of one graph, in topological order."""

    def __init__(self, graph: ir.Graph, stays: Callable[[ir.Node], bool]) -> None:
        self.graph = graph
        self.stays = stays
        self.floats = {
            value
            for node in graph
            for value in (*node.inputs, *node.outputs)
            if value is not None and value.dtype == ir.DataType.FLOAT
        }
        self.as_type: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def convert(self, node: ir.Node) -> None:
        """Retype one node, with Casts for inputs that come in the other precision."""
        wanted = ir.DataType.FLOAT if self.stays(node) else ir.DataType.FLOAT16
        for index, value in enumerate(node.inputs):
            if value in self.floats and value is not None:
                fixed = index in _FP32_INPUTS.get(node.op_type, ())
                target = ir.DataType.FLOAT if fixed else wanted
                node.replace_input_with(index, self._typed(value, target, node))
        if wanted == ir.DataType.FLOAT16:
            self._retype_attributes(node)
            for value in node.outputs:
                if value in self.floats:
                    # A new type: clones share theirs.
                    value.type = ir.TensorType(ir.DataType.FLOAT16)

    def restore_outputs(self) -> None:
        """Give graph outputs their float32 back."""
        for index, value in enumerate(self.graph.outputs):
            producer = value.producer()
            if value.dtype != ir.DataType.FLOAT16 or producer is None:
                continue
            name = value.name
            value.name = f"{name}_fp16"
            output = self._cast(value, ir.DataType.FLOAT, producer)
            output.name = name
            self.graph.outputs[index] = output

    def _typed(self, value: ir.Value, target: ir.DataType, user: ir.Node) -> ir.Value:
        if value.dtype == target:
            return value
        key = (value, target)
        if key not in self.as_type:
            if value.const_value is not None and value.producer() is None:
                self.as_type[key] = self._constant(value, target)
            else:
                self.as_type[key] = self._cast(value, target, value.producer() or user)
        return self.as_type[key]

    def _constant(self, value: ir.Value, target: ir.DataType) -> ir.Value:
        assert value.const_value is not None
        numbers = value.const_value.numpy().astype(target.numpy())
        name = f"{value.name}_{target.name.lower()}"
        constant = ir.Value(
            name=name,
            shape=value.shape,
            type=ir.TensorType(target),
            const_value=ir.tensor(numbers, name=name),
        )
        self.graph.register_initializer(constant)
        return constant

    def _cast(self, value: ir.Value, target: ir.DataType, near: ir.Node) -> ir.Value:
        output = ir.Value(
            name=f"{value.name}_{target.name.lower()}",
            shape=value.shape,
            type=ir.TensorType(target),
        )
        node = ir.Node(
            "",
            "Cast",
            [value],
            [ir.AttrInt64("to", int(target))],
            outputs=[output],
            name=f"{near.name}/to_{target.name.lower()}",
        )
        node.metadata_props.update(near.metadata_props)
        self.graph.append(node)  # sorted at the end
        return output

    def _retype_attributes(self, node: ir.Node) -> None:
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
        if node.op_type == "Constant" and node.outputs[0] in self.floats:
            numbers = node.attributes["value"].as_tensor().numpy().astype(np.float16)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(numbers))


def _with_range_outputs(model: ir.Model) -> ir.Model:
    probed = model.clone()
    graph = probed.graph
    for node in list(graph):
        for value in node.outputs[:1]:
            if value.dtype != ir.DataType.FLOAT:
                continue
            magnitude = ir.node("Abs", [value])
            largest = ir.node("ReduceMax", [magnitude.outputs[0]], attributes={"keepdims": 0})
            largest.outputs[0].name = f"{_RANGE_PREFIX}{node.name}"
            largest.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            largest.outputs[0].shape = ir.Shape([])
            graph.extend([magnitude, largest])
            graph.outputs.append(largest.outputs[0])
    return probed
