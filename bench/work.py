"""What a graph must compute and move, counted from its nodes, and how fast a machine can do that at best.

The roofline model: S. Williams, A. Waterman, D. Patterson, "Roofline: an insightful visual performance
model for multicore architectures", Communications of the ACM 52(4), 2009. A graph takes at least the time
that its arithmetic takes at the peak, and at least the time that its bytes take at the memory's bandwidth.

What counts, for one frame:

- FLOP: two per multiply-accumulate of convolutions and matrix products, nothing else; of the graph as it
  is, with its preprocessing. (The manifest's `gmac`, counted by PyTorch, is of the two networks as they
  were before any rewrite, and has no nodes.)
- Bytes: every constant read once, by its first reader; every tensor written once, by the node that makes
  it, and read once by each node that takes it. In the type that the graph stores it in.
- An elementwise node that alone reads what the node before it made is computed on the way: the tensor
  between them does not count, and the rest of its bytes counts at that node. (Conv, Add and Clip are one
  kernel on every runtime.) Of several such inputs one is spared, the one made last.
- Reshape and its like move nothing, and DequantizeLinear neither: who takes its output reads the integers.

Caches are not modelled. What they keep from one node, or one frame, to the next need not come from memory:
a small network may exceed this roofline where it is bound by memory.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import msgspec

from depthmask.bench.graph import STAGES, Graph, GraphNode
from depthmask.bench.peaks import Peaks
from depthmask.errors import UnavailableError, UsageError

# With the position of the weights among the inputs.
_CONVOLUTIONS = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = frozenset({"MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"})
_INTEGER = frozenset({"ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul"})
_VIEWS = frozenset({"DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_SIZES_ONLY = frozenset({"Shape", "Size"})
_ELEMENTWISE = frozenset(
    """Abs Add Cast Ceil Clip Div Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Max Min Mish
    Mul Neg PRelu Pow QuantizeLinear Reciprocal Relu Round Selu Sigmoid Sign Softplus Softsign Sqrt Sub
    Tanh Where""".split()  # noqa: SIM905  (a page long else)
)


class NodeWork(msgspec.Struct, frozen=True, kw_only=True):
    """What one node computes and moves for one frame."""

    name: str
    op_type: str
    stage: str
    site: str
    mac: int
    """Multiply-accumulates."""
    is_int8: bool
    """Whether they are of 8-bit integers."""
    moved_bytes: int
    """With what is computed on the way."""
    computed_by: str
    """The node that does it on the way; its own name where it is one of its own."""


class StageWork(msgspec.Struct, frozen=True, kw_only=True):
    """The sum over the nodes of one stage."""

    stage: str
    gmac: float
    moved_bytes: int


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a graph computes and moves for one frame."""

    gflop: float
    """2 x GMAC, integer products included."""
    int8_gop: float
    """The part of `gflop` that is of 8-bit integers."""
    moved_bytes: int
    intensity_flop_per_byte: float
    stages: tuple[StageWork, ...]
    nodes: tuple[NodeWork, ...]
    """In the order of execution."""

    def __repr__(self) -> str:
        return f"Work({self.gflop:.3f} GFLOP, {self.moved_bytes / 1e6:.2f} MB, {len(self.nodes)} nodes)"


class RooflineShare(msgspec.Struct, frozen=True, kw_only=True):
    """How near to the roofline a time is."""

    achieved_gflop_per_s: float
    attainable_gflop_per_s: float
    """min(peak, intensity x bandwidth); of a graph with integers, the peak is that of its mixture."""
    share: float
    """Above 1 where caches spare bytes, or a library computes faster than those of the peak did."""
    bound: Literal["compute", "memory"]


def count_work(graph: Graph) -> Work:
    """Count a graph's multiply-accumulates and bytes by the rules at the top of this module.

    Raises:
        InputError: the size of a tensor is not known.
    """
    moved = _MovedBytes(graph)
    producers = graph.producers()
    nodes = tuple(
        NodeWork(
            name=node.name,
            op_type=node.op_type,
            stage=node.stage,
            site=node.site,
            mac=_mac(graph, node),
            is_int8=_is_int8(node, producers),
            moved_bytes=moved.of(node),
            computed_by=moved.head(node).name,
        )
        for node in graph.nodes
    )
    mac = sum(node.mac for node in nodes)
    moved_bytes = sum(node.moved_bytes for node in nodes)
    return Work(
        gflop=2 * mac / 1e9,
        int8_gop=2 * sum(node.mac for node in nodes if node.is_int8) / 1e9,
        moved_bytes=moved_bytes,
        intensity_flop_per_byte=2 * mac / moved_bytes if moved_bytes else 0.0,
        stages=_by_stage(nodes),
        nodes=nodes,
    )


def share_of_roofline(work: Work, inference_ms: float, peaks: Peaks) -> RooflineShare:
    """How much of what the machine could attain at best was reached.

    Args:
        work: of one frame.
        inference_ms: what one frame took.
        peaks: of the machine, with as many threads.

    Raises:
        UsageError: there is no work, or no time.
        UnavailableError: the graph computes with integers, and the peaks have no figure for these.
    """
    if work.gflop <= 0 or work.moved_bytes <= 0 or not 0 < inference_ms < math.inf:
        raise UsageError(
            f"a share of the roofline needs work and a time above 0, but got {work.gflop} GFLOP,"
            f" {work.moved_bytes} bytes in {inference_ms} ms"
        )
    compute_s = 1e9 * (work.gflop - work.int8_gop) / peaks.fp32_flop_per_s.best
    if work.int8_gop:
        if peaks.int8_op_per_s is None:
            raise UnavailableError(
                "a graph with 8-bit integers needs their peak, but measuring it needs the packages"
                " onnx and onnxruntime. Try `pip install onnx onnxruntime`"
            )
        compute_s += 1e9 * work.int8_gop / peaks.int8_op_per_s.best
    memory_s = work.moved_bytes / peaks.memory_bytes_per_s.best
    least_s = max(compute_s, memory_s)
    return RooflineShare(
        achieved_gflop_per_s=work.gflop / (inference_ms / 1e3),
        attainable_gflop_per_s=work.gflop / least_s,
        share=1e3 * least_s / inference_ms,
        bound="compute" if compute_s >= memory_s else "memory",
    )


class _MovedBytes:
    """Who moves which tensor."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._heads: dict[str, GraphNode] = {}
        self._bytes: dict[str, int] = defaultdict(int)
        self._stored: dict[str, str] = {}
        """What each view is a view of."""
        for node in graph.nodes:
            if node.op_type in _VIEWS:
                self._stored[node.outputs[0]] = self._stored.get(node.inputs[0], node.inputs[0])
        self._spared = self._join()
        self._count()

    def of(self, node: GraphNode) -> int:
        return self._bytes[node.name]

    def head(self, node: GraphNode) -> GraphNode:
        return self._heads.get(node.name, node)

    def _reads(self, node: GraphNode) -> tuple[str, ...]:
        """The stored tensors that a node reads, each once."""
        if node.op_type in _VIEWS or node.op_type in _SIZES_ONLY:
            return ()
        return tuple(dict.fromkeys(self._stored.get(name, name) for name in node.inputs if name))

    def _join(self) -> set[str]:
        """Find what is computed on the way; gives the tensors that are never stored."""
        readers: dict[str, int] = defaultdict(int)
        for node in self._graph.nodes:
            for name in self._reads(node):
                readers[name] += 1
        for name in self._graph.outputs:
            readers[self._stored.get(name, name)] += 1
        order = {node.name: index for index, node in enumerate(self._graph.nodes)}
        producers = self._graph.producers()
        spared = set()
        for node in self._graph.nodes:
            made = [name for name in self._reads(node) if name in producers]
            if node.op_type not in _ELEMENTWISE or not made:
                continue
            last = max(made, key=lambda name: order[producers[name].name])
            if readers[last] == 1 and last not in self._graph.constants:
                self._heads[node.name] = self.head(producers[last])
                spared.add(last)
        return spared

    def _count(self) -> None:
        seen = set()
        for node in self._graph.nodes:
            if node.op_type in _VIEWS or node.op_type == "Constant":
                continue
            for name in (*self._reads(node), *filter(None, node.outputs)):
                if name in self._spared or name in seen:
                    continue
                if name in self._graph.constants:
                    seen.add(name)
                self._bytes[self.head(node).name] += self._graph.tensor(name).nbytes


def _mac(graph: Graph, node: GraphNode) -> int:
    """Multiply-accumulates of a convolution or matrix product; 0 of all else."""
    if node.op_type in _CONVOLUTIONS:
        per_position = math.prod(graph.tensor(node.inputs[_CONVOLUTIONS[node.op_type]]).shape[1:])
        # A transposed convolution spreads every input, the others gather for every output.
        transposed = node.op_type == "ConvTranspose"
        positions = graph.tensor(node.inputs[0] if transposed else node.outputs[0]).elements
        return positions * per_position
    if node.op_type == "Gemm":  # its first factor may be transposed
        return graph.tensor(node.inputs[0]).elements * graph.tensor(node.outputs[0]).shape[-1]
    if node.op_type in _PRODUCTS:
        return graph.tensor(node.outputs[0]).elements * graph.tensor(node.inputs[0]).shape[-1]
    return 0


def _is_int8(node: GraphNode, producers: dict[str, GraphNode]) -> bool:
    """Integer operators, and products of two dequantised factors, which runtimes compute as such."""
    if node.op_type in _INTEGER:
        return True
    if node.op_type not in _CONVOLUTIONS and node.op_type not in _PRODUCTS:
        return False
    factors = (producers.get(name) for name in node.inputs[:2])
    return all(made is not None and made.op_type == "DequantizeLinear" for made in factors)


def _by_stage(nodes: Sequence[NodeWork]) -> tuple[StageWork, ...]:
    present = {node.stage for node in nodes}
    names = [*(s for s in STAGES if s in present), *sorted(present.difference(STAGES))]
    return tuple(
        StageWork(
            stage=name,
            gmac=sum(node.mac for node in nodes if node.stage == name) / 1e9,
            moved_bytes=sum(node.moved_bytes for node in nodes if node.stage == name),
        )
        for name in names
    )
