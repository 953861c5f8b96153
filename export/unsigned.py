"""int8 as ONNX Runtime and OpenVINO run it fast on CPUs: activations stay uint8 from kernel to kernel.

The weights are those of `quantise`; activations are uint8 with a zero point (0 behind a ReLU), since x86's
products take one unsigned and one signed factor. Pairs stand behind convolutions too, and around what passes
eight bits on (additions, concatenations, resizes, maxima): ONNX Runtime makes an integer kernel only of a
node with a pair on either side. TensorRT takes no uint8: `model.onnx` stays as `quantise` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from depthmask.export.graph_edit import Site, drop_unused_constants
from depthmask.export.quantise import STAGES, Pair, Range, convolutions, round_weights
from depthmask.export.to_onnx import stage_of

UNSIGNED_RUNTIMES = ("onnxruntime", "openvino")
"""Those that run this spelling on the CPU."""
_ACTIVATIONS = ("Relu", "Clip")
"""Part of the kernel before it: what they cut off, the range cuts off."""
_SAME_SCALE = ("Resize", "MaxPool")
"""Their output is within the range of their first input, and is rounded as it is."""
_PASSED_ON = ("Add", "Concat", *_SAME_SCALE)


def held_tensors(model: ir.Model, stage: str) -> tuple[str, ...]:
    """The names of what `quantise_unsigned` rounds in a stage (`mask` or `depth`) when no site is kept."""
    held = _Held(model.graph, frozenset())
    return tuple(
        value.name or "" for value, node in held.holders.items() if stage_of(node) == stage
    )


def quantise_unsigned(
    model: ir.Model, ranges: Mapping[str, Range], keep_fp32: frozenset[str] = frozenset()
) -> ir.Model:
    """A copy of the graph in which every site but those named takes int8; see `quantise.quantise`.

    Postcondition: the same inputs and outputs, of the same types.

    Args:
        model: float32; not changed.
        ranges: of each of `held_tensors` that is rounded, by name.
        keep_fp32: names of `sites` that stay as they are.
    """
    quantised = model.clone()
    graph = quantised.graph
    held = _Held(graph, keep_fp32)
    place = {node: index for index, node in enumerate(graph)}
    # Found before anything changes, since then inputs are no longer those of the float32 graph.
    rounded = [
        (value, held.takers(value), ranges[held.scaled_as(value).name or ""])
        for value in held.holders
    ]
    for value, takers, span in rounded:
        first = min((node for node, _ in takers), key=place.__getitem__)
        pair = Pair(graph, first, value).of_uint8(span)
        for node, index in takers:
            if node.name in keep_fp32 and held.output(node) in held.holders:
                # ONNX Runtime makes an integer kernel of any convolution between pairs, unasked; it sees
                # no pair behind a Clip, even one that cuts nothing off.
                node.replace_input_with(index, _uncut(graph, node, pair, span))
            else:
                node.replace_input_with(index, pair)
    round_weights(graph, held.convolutions)
    drop_unused_constants(graph)
    return quantised


def _uncut(graph: ir.Graph, before: ir.Node, value: ir.Value, span: Range) -> ir.Value:
    site = Site(graph, before, f"{before.name}/unrounded")
    far = 2 * span.magnitude
    limits = [site.constant(np.array(limit, np.float32)) for limit in (-far, far)]
    uncut = site.node("Clip", [value, *limits], ())
    uncut.shape = value.shape
    return uncut


class _Held:
    """Which tensors stay in eight bits, and which nodes take and give them."""

    def __init__(self, graph: ir.Graph, keep_fp32: frozenset[str]) -> None:
        self.convolutions = [node for node in convolutions(graph) if node.name not in keep_fp32]
        self.holders: dict[ir.Value, ir.Node] = {}
        """Every such tensor, and the first node that wants it so."""
        self._integer: set[ir.Node] = set()
        """Nodes that become integer kernels."""
        for node in self.convolutions:
            self._hold(node)
        for node in graph:
            if _passes_on(node) and all(value in self.holders for value in _data_inputs(node)):
                self._hold(node)

    def takers(self, value: ir.Value) -> list[tuple[ir.Node, int]]:
        """What reads the rounded tensor: all, or the integer kernels of one that float32 computes."""
        uses = [(use.node, use.idx) for use in value.uses()]
        if value.producer() in self._integer:
            return uses
        return [(node, index) for node, index in uses if node in self._integer]

    def scaled_as(self, value: ir.Value) -> ir.Value:
        """The tensor whose range it takes: its own, or that of what it is picked from."""
        node = value.producer()
        while node in self._integer and node.op_type in _SAME_SCALE:
            (value,) = _data_inputs(node)
            node = value.producer()
        return value

    def _hold(self, node: ir.Node) -> None:
        self._integer.add(node)
        for value in _data_inputs(node):
            self.holders.setdefault(value, node)
        output = self.output(node)
        if output is not node.outputs[0]:
            self._integer.add(next(iter(node.outputs[0].uses())).node)
        if output.uses():
            self.holders.setdefault(output, node)

    @staticmethod
    def output(node: ir.Node) -> ir.Value:
        """What a kernel gives: the node's output, or that of the activation that alone reads it."""
        output = node.outputs[0]
        users = [use.node for use in output.uses()]
        fused = len(users) == 1 and users[0].op_type in _ACTIVATIONS
        return users[0].outputs[0] if fused and not output.is_graph_output() else output


def _passes_on(node: ir.Node) -> bool:
    mode = node.attributes.get("mode")
    overshoots = mode is not None and mode.as_string() == "cubic"
    return node.op_type in _PASSED_ON and stage_of(node) in STAGES and not overshoots


def _data_inputs(node: ir.Node) -> list[ir.Value]:
    """What a node computes with, without weights, bias and sizes."""
    count = len(node.inputs) if node.op_type in ("Add", "Concat") else 1
    return [value for value in node.inputs[:count] if value is not None]
