"""What a graph would take at least on a GPU that is not here, by its data sheet. An estimate, no measurement.

The roofline model of `bench.work`, layer by layer: each takes at least the time of its arithmetic at the peak
of its number type, and at least that of its bytes at the memory's bandwidth.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Literal

import msgspec

from depthmask.bench.datasheets import Datasheet
from depthmask.bench.graph import DEFAULT_FRAME_SIZE, Graph, read_graph
from depthmask.bench.work import NodeWork, count_work
from depthmask.bundle import Bundle, Precision
from depthmask.frames import Resolution

NumberType = Literal["fp32", "fp16", "int8"]


class LayerEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """A node and what is computed on its way."""

    name: str
    op_type: str
    stage: str
    number_type: NumberType
    gmac: float
    moved_bytes: int
    compute_ms: float
    memory_ms: float

    @property
    def roofline_ms(self) -> float:
        """The larger of the two."""
        return max(self.compute_ms, self.memory_ms)


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """One graph on one GPU, for one frame that is there already."""

    schema: Literal[1] = 1
    kind: Literal["estimate, not measured"] = "estimate, not measured"
    bundle: str
    precision: Precision
    height_px: int
    width_px: int
    frame_height_px: int
    frame_width_px: int
    gpu: Datasheet
    least_ms: float
    """What the arithmetic alone takes: no run of this graph is faster at these peaks."""
    roofline_ms: float
    """The sum of the layers, with every tensor between them going through the GPU's memory. Caches may spare
    some of that; starting kernels, which is not counted, costs a small network more."""
    compute_bound_share: float
    """Of `roofline_ms`, in layers that arithmetic bounds."""
    layers: tuple[LayerEstimate, ...]

    @property
    def resolution(self) -> Resolution:
        """Of the graph."""
        return Resolution(self.height_px, self.width_px)


def estimate(
    bundle: Bundle,
    resolution: Resolution | None,
    gpu: Datasheet,
    *,
    frame_size: Resolution = DEFAULT_FRAME_SIZE,
) -> Estimate:
    """Set a bundle's graph against a GPU's data sheet.

    Raises:
        UsageError: the bundle has no graph of that resolution.
        UnavailableError: the package onnx is not installed.
        InputError: the graph is damaged.
    """
    size = bundle.graph(resolution).resolution
    layers = estimate_layers(read_graph(bundle, size, frame_size), gpu)
    roofline_ms = sum(layer.roofline_ms for layer in layers)
    bound_ms = sum(layer.roofline_ms for layer in layers if layer.compute_ms >= layer.memory_ms)
    return Estimate(
        bundle=bundle.path.resolve().name,
        precision=bundle.manifest.precision,
        height_px=size.height,
        width_px=size.width,
        frame_height_px=frame_size.height,
        frame_width_px=frame_size.width,
        gpu=gpu,
        least_ms=sum(layer.compute_ms for layer in layers),
        roofline_ms=roofline_ms,
        compute_bound_share=bound_ms / roofline_ms if roofline_ms else 0.0,
        layers=layers,
    )


def estimate_layers(graph: Graph, gpu: Datasheet) -> tuple[LayerEstimate, ...]:
    """Those that compute or move anything, in the order of execution."""
    on_the_way: dict[str, list[NodeWork]] = defaultdict(list)
    for node in count_work(graph).nodes:
        on_the_way[node.computed_by].append(node)
    outputs = {node.name: node.outputs[0] for node in graph.nodes}
    layers = []
    for name, nodes in on_the_way.items():
        number_type = _number_type(graph, nodes[0], outputs[name])
        mac, moved_bytes = sum(node.mac for node in nodes), sum(node.moved_bytes for node in nodes)
        if not mac and not moved_bytes:
            continue
        layers.append(
            LayerEstimate(
                name=name,
                op_type=nodes[0].op_type,
                stage=nodes[0].stage,
                number_type=number_type,
                gmac=mac / 1e9,
                moved_bytes=moved_bytes,
                compute_ms=1e3 * 2 * mac / (1e12 * _peak(gpu, number_type)),
                memory_ms=1e3 * moved_bytes / (1e9 * gpu.memory_gb_per_s),
            )
        )
    return tuple(layers)


def _number_type(graph: Graph, head: NodeWork, output: str) -> NumberType:
    """What the head of a layer computes in; the rest has no products."""
    if head.is_int8:
        return "int8"
    return "fp16" if graph.tensor(output).item_bytes == 2 else "fp32"


def _peak(gpu: Datasheet, number_type: NumberType) -> float:
    return {
        "fp32": gpu.fp32_tflop_per_s,
        "fp16": gpu.fp16_tflop_per_s,
        "int8": gpu.int8_top_per_s,
    }[number_type]
