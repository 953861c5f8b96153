"""Small steps in which rewrites change an onnx-ir graph: constants, nodes of a site, loose ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

Array = npt.NDArray[Any]


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """A tensor's shape; None where a side is open or not known."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(side) for side in value.shape.numpy())


def constant_array(value: ir.Value | None) -> Array | None:
    """What a weight or a constant holds; None of a tensor that is computed."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def known_shape(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of a tensor of a site, all of whose sides are known."""
    shape = static_shape(value)
    assert shape is not None
    return shape


def site_name(node: ir.Node) -> str:
    """What people call a node's place: its name without the operator."""
    return (node.name or "").rsplit("/", 1)[0]


def constant_weight(conv: ir.Node) -> Array | None:
    """A convolution's weight, where it and the bias, if there is one, are constants; else None."""
    biased = len(conv.inputs) > 2 and conv.inputs[2] is not None
    if biased and constant_array(conv.inputs[2]) is None:
        return None
    return constant_array(conv.inputs[1])


def conv_weight(conv: ir.Node) -> Array:
    """The weight of a site's convolution."""
    weight = constant_weight(conv)
    assert weight is not None
    return weight


def conv_bias(conv: ir.Node) -> Array | None:
    """The bias of a site's convolution; None where it has none."""
    return constant_array(conv.inputs[2]) if len(conv.inputs) > 2 else None


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """A whole number of a node's."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def ints_attribute(node: ir.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    """Several."""
    found = node.attributes.get(name)
    return tuple(default if found is None else found.as_ints())


def string_attribute(node: ir.Node, name: str, default: str) -> str:
    """A word of a node's."""
    found = node.attributes.get(name)
    return default if found is None else found.as_string()


@dataclass(frozen=True)
class ConvGeometry:
    """What a Conv of two dimensions is, defaults filled in."""

    weight_OCKL: Array
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    """Top, left, bottom, right."""
    group: int

    def offsets(self, axis: int) -> tuple[int, ...]:
        """How far from the output's row (axis 0) or column (1) each tap reads; for strides of 1."""
        taps = range(self.weight_OCKL.shape[2 + axis])
        return tuple(self.dilations[axis] * tap - self.pads[axis] for tap in taps)


def conv_geometry(node: ir.Node) -> ConvGeometry | None:
    """Of a two-dimensional Conv with constant weights and bias, and pads in numbers; else None."""
    weight = constant_weight(node) if node.op_type == "Conv" else None
    if (
        weight is None
        or weight.ndim != 4
        or node.inputs[0] is node.inputs[1]
        or string_attribute(node, "auto_pad", "NOTSET") != "NOTSET"
    ):
        return None
    stride_y, stride_x = ints_attribute(node, "strides", (1, 1))
    dilation_y, dilation_x = ints_attribute(node, "dilations", (1, 1))
    top, left, bottom, right = ints_attribute(node, "pads", (0, 0, 0, 0))
    return ConvGeometry(
        weight_OCKL=weight,
        strides=(stride_y, stride_x),
        dilations=(dilation_y, dilation_x),
        pads=(top, left, bottom, right),
        group=int_attribute(node, "group", 1),
    )


class Site:
    """Adds nodes in front of a node, named after it and with its stage."""

    def __init__(self, graph: ir.Graph, before: ir.Node, name: str) -> None:
        self._graph = graph
        self._before = before
        self._name = name
        self._count = 0

    def constant(self, array: Array) -> ir.Value:
        """A new initializer."""
        name = self._next("constant")
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.tensor(array, name=name),
        )
        self._graph.register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        shape: Sequence[int],
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """A new node with one float32 output of this shape."""
        (output,) = self.nodes(op_type, inputs, [shape], attributes)
        return output

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        shapes: Sequence[Sequence[int]],
        attributes: Mapping[str, Any] | None = None,
    ) -> list[ir.Value]:
        """A new node with several."""
        name = self._next(op_type)
        outputs = [
            ir.Value(
                name=name if len(shapes) == 1 else f"{name}_{index}",
                shape=ir.Shape(list(shape)),
                type=ir.TensorType(ir.DataType.FLOAT),
            )
            for index, shape in enumerate(shapes)
        ]
        node = ir.node(op_type, list(inputs), attributes=attributes, outputs=outputs, name=name)
        node.metadata_props.update(self._before.metadata_props)
        self._graph.insert_before(self._before, node)
        return outputs

    def like(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], shape: Sequence[int] | None
    ) -> ir.Value:
        """A new node with the operator and the attributes of another."""
        name = self._next(node.op_type)
        output = ir.Value(
            name=name,
            shape=None if shape is None else ir.Shape(list(shape)),
            type=ir.TensorType(ir.DataType.FLOAT),
        )
        attributes = list(node.attributes.values())
        new = ir.Node(node.domain, node.op_type, inputs, attributes, outputs=[output], name=name)
        new.metadata_props.update(self._before.metadata_props)
        self._graph.insert_before(self._before, new)
        return output

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """A Reshape to sides that are all known."""
        return self.node("Reshape", [value, self.constant(np.array(shape, np.int64))], shape)

    def transpose(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """A Transpose of sides that are all known."""
        shape = static_shape(value) or ()
        return self.node(
            "Transpose", [value], [shape[axis] for axis in order], {"perm": list(order)}
        )

    def _next(self, what: str) -> str:
        self._count += 1
        return f"{self._name}/{what}_{self._count}"


def replace_output(node: ir.Node, value: ir.Value) -> None:
    """Let `value` take the place, the name and the users of a node's only output."""
    (old,) = node.outputs
    name = old.name
    old.name = f"{name}/before"
    value.name = name
    old.replace_all_uses_with(value, replace_graph_outputs=True)


def remove(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    """Remove nodes whose outputs nobody uses any more, and constants that nobody uses then."""
    graph.remove(list(nodes), safe=True)
    drop_unused_constants(graph)


def drop_unused_constants(graph: ir.Graph) -> None:
    """Remove initializers that no node uses."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in graph.outputs:
            del graph.initializers[name]
