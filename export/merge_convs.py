"""Convolutions of the same kind that read the same tensor, made one: exact.

Theorem. Let y_k = W_k * x + b_k be convolutions in one group with the same taps, strides, dilations and
padding. With W and b their weights and biases one above the other, the channels of W * x + b are those of
the y_k, one above the other.

Proof. An output channel of a convolution hangs on its own weights only.

It saves reading x (and arranging it for the product) again, and makes one larger matrix product of small
ones; the Split copies the outputs, and functions that runtimes fuse into a convolution stand alone after
it. So it pays where the inputs are more than the outputs: the cost model weighs that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from depthmask.export.graph_edit import (
    Site,
    constant_weight,
    conv_bias,
    conv_weight,
    int_attribute,
    ints_attribute,
    known_shape,
    remove,
    replace_output,
    site_name,
    static_shape,
    string_attribute,
)

FORMS = ("merged",)


@dataclass(frozen=True)
class MergeConvs:
    """Convolutions of one kind that read one tensor, in the graph's order."""

    convolutions: tuple[ir.Node, ...]

    @property
    def name(self) -> str:
        """The site's: that of the first convolution without its operator."""
        return site_name(self.convolutions[0])

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """In order."""
        return self.convolutions


def find(graph: ir.Graph) -> Iterator[MergeConvs]:
    """Sets of two and more Convs in one group, with constant weights and sizes that are known."""
    groups: dict[tuple[object, ...], list[ir.Node]] = {}
    for node in graph:
        kind = _kind(node)
        if kind is not None:
            groups.setdefault(kind, []).append(node)
    for convolutions in groups.values():
        if len(convolutions) > 1:
            yield MergeConvs(tuple(convolutions))


def apply(graph: ir.Graph, site: MergeConvs, form: str) -> None:
    """Put one convolution and a Split in the site's place; the outputs keep their names."""
    first = site.convolutions[0]
    make = Site(graph, first, f"{site.name}/{form}")
    inputs = [
        first.inputs[0],
        make.constant(np.concatenate([conv_weight(c) for c in site.convolutions])),
    ]
    biases = [conv_bias(conv) for conv in site.convolutions]
    if any(bias is not None for bias in biases):
        filled = [
            np.zeros(len(conv_weight(conv)), np.float32) if bias is None else bias
            for conv, bias in zip(site.convolutions, biases, strict=True)
        ]
        inputs.append(make.constant(np.concatenate(filled)))
    shapes = [known_shape(conv.outputs[0]) for conv in site.convolutions]
    channels = [shape[1] for shape in shapes]
    merged = make.like(first, inputs, (shapes[0][0], sum(channels), *shapes[0][2:]))
    sizes = make.constant(np.array(channels, np.int64))
    outputs = make.nodes("Split", [merged, sizes], shapes, {"axis": 1})
    for conv, output in zip(site.convolutions, outputs, strict=True):
        replace_output(conv, output)
    remove(graph, site.convolutions)


def macs(site: MergeConvs, form: str | None) -> int:
    """Of the convolutions; merging leaves none out."""
    return sum(
        int(np.prod(known_shape(conv.outputs[0])) * np.prod(conv_weight(conv).shape[1:]))
        for conv in site.convolutions
    )


def moved_floats(site: MergeConvs, form: str | None) -> int:
    """As exported, the input again for each further convolution; merged, what the Split copies."""
    if form is None:
        return (len(site.convolutions) - 1) * int(
            np.prod(known_shape(site.convolutions[0].inputs[0]))
        )
    return sum(int(np.prod(known_shape(conv.outputs[0]))) for conv in site.convolutions)


def _kind(node: ir.Node) -> tuple[object, ...] | None:
    if node.op_type != "Conv" or int_attribute(node, "group", 1) != 1:
        return None
    weight = constant_weight(node)
    if (
        weight is None
        or static_shape(node.inputs[0]) is None
        or static_shape(node.outputs[0]) is None
    ):
        return None
    rank = weight.ndim - 2
    return (
        node.inputs[0],
        weight.shape[2:],
        ints_attribute(node, "strides", (1,) * rank),
        ints_attribute(node, "dilations", (1,) * rank),
        ints_attribute(node, "pads", (0,) * 2 * rank),
        string_attribute(node, "auto_pad", "NOTSET"),
    )
