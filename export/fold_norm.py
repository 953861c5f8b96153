"""Per-channel affine maps after a convolution, folded into its weights; and constants computed.

Theorem. Let y = W * x + b be a convolution (or a transposed one) and z[o] = a[o] y[o] + c[o] an affine map of
each output channel. Then z = W' * x + b' with W'[o] = a[o] W[o] and b'[o] = a[o] b[o] + c[o].

Proof. A convolution is linear in its weights, and each of its output channels hangs on that channel's
weights only; padding puts zeros in x, which W' meets as W does, so the borders hold, too.

A batch norm in inference is such a map, a = scale / sqrt(var + epsilon) and c = shift - a mean; so are Mul,
Div, Add and Sub with a constant of one number, or of one per channel. Weights are folded in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir

from depthmask.export.graph_edit import (
    Array,
    Site,
    constant_array,
    constant_weight,
    conv_bias,
    conv_weight,
    drop_unused_constants,
    int_attribute,
    remove,
    replace_output,
    site_name,
    static_shape,
)

FORMS = ("folded",)
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_LARGEST_FOLDED_BYTES = 1 << 20
"""Of a constant that is computed at export: a Range or an Expand may be far larger than its inputs."""


@dataclass(frozen=True)
class FoldNorm:
    """A convolution and the affine maps after it, each the only reader of the one before."""

    convolution: ir.Node
    maps: tuple[ir.Node, ...]
    scale_O: Array
    """a; float64."""
    shift_O: Array
    """c."""

    @property
    def name(self) -> str:
        """The site's: that of the convolution without its operator."""
        return site_name(self.convolution)

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """In order."""
        return (self.convolution, *self.maps)


def find(graph: ir.Graph) -> Iterator[FoldNorm]:
    """Convolutions with constant weights and bias, followed by affine maps, that stay finite."""
    for node in list(graph):
        site = _site(node) if node.op_type in _CONVOLUTIONS else None
        if site is not None:
            yield site


def apply(graph: ir.Graph, site: FoldNorm, form: str) -> None:
    """Put the folded convolution in the site's place; the last map's output keeps its name."""
    conv, last = site.convolution, site.maps[-1]
    weight, bias_O = _folded(conv, site.scale_O, site.shift_O)
    make = Site(graph, conv, f"{site.name}/{form}")
    inputs = [conv.inputs[0], make.constant(weight), make.constant(bias_O)]
    output = make.like(conv, inputs, static_shape(conv.outputs[0]))
    output.shape = last.outputs[0].shape
    replace_output(last, output)
    remove(graph, [*reversed(site.maps), conv])


def macs(site: FoldNorm, form: str | None) -> int:
    """Of the convolution; an affine map counts as none, as in the GMAC of a whole graph."""
    conv = site.convolution
    weight, taken, given = constant_array(conv.inputs[1]), *_shapes(conv)
    if weight is None or taken is None or given is None:
        return 0
    counted = taken if conv.op_type == "ConvTranspose" else given
    return int(np.prod(counted) * np.prod(weight.shape[1:]))


def moved_floats(site: FoldNorm, form: str | None) -> int:
    """What the maps write."""
    shape = static_shape(site.convolution.outputs[0])
    return 0 if form is not None or shape is None else len(site.maps) * int(np.prod(shape))


def fold_constants(graph: ir.Graph) -> int:
    """Compute in advance the nodes that read constants only; returns how many there were.

    Precondition: opset 13 or newer. Nodes with graphs inside, random ones, and ones whose result takes
    more than 1 MB stay.
    """
    count = 0
    for node in list(graph):
        arrays = [constant_array(value) for value in node.inputs if value is not None]
        if not arrays or any(array is None for array in arrays) or not _is_computable(node):
            continue
        results = _evaluate(node, graph.opset_imports.get("", 18))
        if sum(array.nbytes for array in results) > _LARGEST_FOLDED_BYTES:
            continue
        make = Site(graph, node, (node.name or node.op_type).rsplit("/", 1)[0] + "/folded")
        for old, array in zip(node.outputs, results, strict=True):
            old.replace_all_uses_with(make.constant(array))
        graph.remove(node, safe=True)
        count += 1
    drop_unused_constants(graph)
    return count


def _is_computable(node: ir.Node) -> bool:
    return (
        node.domain in ("", "ai.onnx")
        and not node.op_type.startswith("Random")
        and node.op_type not in ("Bernoulli", "Multinomial", "QuantizeLinear", "DequantizeLinear")
        and not any(value.is_graph_output() for value in node.outputs)
        and not any(
            a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for a in node.attributes.values()
        )
    )


def _evaluate(node: ir.Node, opset: int) -> list[Array]:
    given: dict[str, Any] = {
        str(value.name): constant_array(value) for value in node.inputs if value is not None
    }
    inputs = [onnx.helper.make_tensor_value_info(name, 0, None) for name in given]
    outputs = [
        onnx.helper.make_tensor_value_info(str(value.name), 0, None) for value in node.outputs
    ]
    graph = onnx.helper.make_graph([ir.to_proto(node)], "constant", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return [
        np.asarray(array) for array in onnx.reference.ReferenceEvaluator(model).run(None, given)
    ]


def _site(conv: ir.Node) -> FoldNorm | None:
    weight = constant_weight(conv)
    if weight is None:
        return None
    if conv.op_type == "Conv":
        channels = weight.shape[0]
    else:
        channels = weight.shape[1] * int_attribute(conv, "group", 1)
    scale_O, shift_O = np.ones(channels), np.zeros(channels)
    maps: list[ir.Node] = []
    output = conv.outputs[0]
    while not output.is_graph_output() and len(output.uses()) == 1:
        (use,) = output.uses()
        found = _affine(use.node, output, channels, weight.ndim)
        if found is None:
            break
        scale_O, shift_O = found[0] * scale_O, found[0] * shift_O + found[1]
        maps.append(use.node)
        output = use.node.outputs[0]
    if not maps:
        return None
    folded = _folded(conv, scale_O, shift_O)
    if not all(np.isfinite(array).all() for array in folded):
        return None
    return FoldNorm(conv, tuple(maps), scale_O, shift_O)


def _affine(
    node: ir.Node, source: ir.Value, channels: int, rank: int
) -> tuple[Array, Array] | None:
    """A and c of a node that reads a convolution's output; None where it is no such map."""
    if node.op_type == "BatchNormalization":
        arrays = [constant_array(value) for value in node.inputs[1:5]]
        scale, shift, mean, var = (None if a is None else a.astype(np.float64) for a in arrays)
        if scale is None or shift is None or mean is None or var is None:
            return None
        if int_attribute(node, "training_mode", 0) or len(node.outputs) != 1:
            return None
        found = node.attributes.get("epsilon")
        epsilon = 1e-5 if found is None else found.as_float()
        with np.errstate(all="ignore"):
            a = scale / np.sqrt(var + epsilon)
        return a, shift - a * mean
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    first = node.inputs[0] is source
    if not first and node.op_type == "Div":
        return None
    array = constant_array(node.inputs[1 if first else 0])
    if array is None or array.ndim > rank or array.dtype != np.float32:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if array.size != 1 and shape != (1, channels) + (1,) * (rank - 2):
        return None
    number = np.broadcast_to(array.astype(np.float64).reshape(-1), channels)
    one, nothing = np.ones(channels), np.zeros(channels)
    if node.op_type in ("Mul", "Div"):
        with np.errstate(all="ignore"):
            return (number if node.op_type == "Mul" else one / number), nothing
    if node.op_type == "Add":
        return one, number
    return (one, -number) if first else (-one, number)


def _folded(conv: ir.Node, scale_O: Array, shift_O: Array) -> tuple[Array, Array]:
    weight, old = conv_weight(conv), conv_bias(conv)
    bias_O = scale_O * (0 if old is None else old.astype(np.float64)) + shift_O
    taps = (1,) * (weight.ndim - 2)
    if conv.op_type == "Conv":
        scaled = weight * scale_O.reshape(-1, 1, *taps)
    else:  # (C_in, C_out / groups, ...): the groups lie along C_in
        groups = int_attribute(conv, "group", 1)
        by_group = weight.reshape(groups, -1, *weight.shape[1:])
        scaled = (by_group * scale_O.reshape(groups, 1, -1, *taps)).reshape(weight.shape)
    with np.errstate(over="ignore"):
        return scaled.astype(np.float32), bias_O.astype(np.float32)


def _shapes(conv: ir.Node) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    return static_shape(conv.inputs[0]), static_shape(conv.outputs[0])
