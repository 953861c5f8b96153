"""Where a bundle's time goes: every node that a runtime executes, with its stage and site.

ONNX Runtime writes a trace when its profiling is on; OpenVINO counts per node. Both rename and fuse: a Conv
with its Clip may be called after the tensor that comes out, and a change of memory layout is in no graph.
Each executed node is brought back to a node of the bundle's graph, in this order: its own name; the names
that it was fused from; the longest name of a node within its own; the tensor that it is named after; else
it belongs to the node executed before it.

Both are measured on the CPU, with the options of the runtimes that `dmx` runs. Profiling itself takes time
at every node, so that a profiled run is slower than others: shares are what to read here.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from depthmask import runtimes
from depthmask.bench.graph import DEFAULT_FRAME_SIZE, STAGES, Graph, read_graph
from depthmask.bench.work import NodeWork, Work, count_work
from depthmask.bundle import Bundle
from depthmask.errors import InputError, UsageError
from depthmask.frames import Resolution, to_network
from depthmask.runtimes import Tensors
from depthmask.runtimes.onnxruntime_runtime import import_onnxruntime, session_options
from depthmask.runtimes.openvino_runtime import compile_for_cpu, import_openvino

RUNTIMES = ("onnxruntime", "openvino")
_KERNEL = "_kernel_time"
# What ONNX Runtime puts before a tensor's name where it computes an fp16 graph in fp32.
_INSERTED = re.compile(r"^Inserted[A-Za-z]*Cast_")
# Products as the runtimes call them; whatever else belongs to a convolution (a Reorder, say) is none.
_PRODUCTS = frozenset(
    """Conv ConvInteger ConvTranspose FusedConv NhwcFusedConv QLinearConv Gemm FusedGemm QGemm MatMul
    FusedMatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul QLinearMatMul
    Convolution GroupConvolution Deconvolution FullyConnected""".split()  # noqa: SIM905  (a page long else)
)


class NodeTime(msgspec.Struct, frozen=True, kw_only=True):
    """One node as the runtime executed it."""

    name: str
    """In the bundle's graph, where it is there; else the runtime's own."""
    op_type: str
    """As the runtime calls it."""
    stage: str
    site: str
    median_ms: float
    share: float
    """Of the sum over all nodes."""
    gmac: float | None
    """None where it computes no convolution or matrix product."""
    gflop_per_s: float | None


class StageTime(msgspec.Struct, frozen=True, kw_only=True):
    """The sum over the nodes of one stage."""

    stage: str
    sum_ms: float
    share: float
    gflop_per_s: float | None


class NodeTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Every executed node of one graph on one runtime, the slowest first."""

    runtime: str
    threads: int | None
    runs: int
    warmup_runs: int
    run_median_ms: float
    """A whole run, with profiling on."""
    sum_ms: float
    """Of the nodes' medians; what passes between the nodes is not in it."""
    stages: tuple[StageTime, ...]
    nodes: tuple[NodeTime, ...]

    def __repr__(self) -> str:
        return f"NodeTimes({len(self.nodes)} nodes, {self.sum_ms:.2f} ms, {self.runtime})"


@dataclass(frozen=True)
class Executed:
    """What a runtime says of one node that it executed."""

    name: str
    op_type: str
    samples_ms: tuple[float, ...]
    fused_from: tuple[str, ...] = ()
    """Names of the nodes that it stands for, where the runtime tells."""


def node_times(
    bundle: Bundle,
    resolution: Resolution | None = None,
    runtime: str = "onnxruntime",
    threads: int | None = None,
    *,
    runs: int = 20,
    warmup_runs: int = 3,
    frame_size: Resolution = DEFAULT_FRAME_SIZE,
) -> NodeTimes:
    """Profile one graph of a bundle on the CPU, on a frame of noise.

    Args:
        bundle: an opened bundle.
        resolution: of the graph; by default the largest.
        runtime: `onnxruntime` or `openvino`.
        threads: None for the runtime's choice.
        runs: how many count.
        warmup_runs: how many before them do not.
        frame_size: of the frame, in pixels.

    Raises:
        UsageError: another runtime, no runs, a bundle in bf16, or a resolution that it lacks.
        UnavailableError: the runtime's package, or onnx, is not installed.
        InputError: the graph cannot be loaded.
    """
    check_runtime(runtime)
    if runs < 1 or warmup_runs < 0:
        raise UsageError(
            f"runs must be 1 or more and warmup_runs 0 or more, but got {runs} and {warmup_runs}"
        )
    if bundle.manifest.precision == "bf16":
        raise UsageError(
            "nodes can be timed in fp32, fp16 and int8, but got a bundle in bf16. Try one in fp32"
        )
    bundle = bundle.as_run_by(runtime, "cpu")
    graph = read_graph(bundle, resolution, frame_size)
    profile = _profile_onnxruntime if runtime == "onnxruntime" else _profile_openvino
    inputs = _noise(bundle, resolution, frame_size)
    executed, run_ms = profile(bundle.model_path(resolution), inputs, threads, runs, warmup_runs)
    stages, nodes = attribute(executed, graph, count_work(graph))
    return NodeTimes(
        runtime=runtime,
        threads=threads,
        runs=runs,
        warmup_runs=warmup_runs,
        run_median_ms=statistics.median(run_ms),
        sum_ms=sum(node.median_ms for node in nodes),
        stages=stages,
        nodes=nodes,
    )


def check_runtime(name: str) -> None:
    """Check that a runtime can be profiled here.

    Raises:
        UsageError: it cannot be profiled.
        UnavailableError: its package is not installed.
    """
    if name not in RUNTIMES:
        raise UsageError(
            f"nodes can be timed on {' or '.join(RUNTIMES)}, but got {name!r}. Try --runtime {RUNTIMES[0]}"
        )
    runtimes.require(name)


def attribute(
    executed: Sequence[Executed], graph: Graph, work: Work
) -> tuple[tuple[StageTime, ...], tuple[NodeTime, ...]]:
    """Bring executed nodes, in the order of execution, back to the graph's; the slowest first."""
    names = _Names(graph, work)
    found = [names.find(node) for node in executed]
    first = next((nodes[0] for nodes in found if nodes), None)
    total_ms = sum(statistics.median(node.samples_ms) for node in executed)
    times = []
    before = first
    for node, stands_for in zip(executed, found, strict=True):
        home = max(stands_for, key=lambda work: work.mac) if stands_for else before
        before = home
        mac = sum(work.mac for work in stands_for) if node.op_type in _PRODUCTS else 0
        median_ms = statistics.median(node.samples_ms)
        times.append(
            NodeTime(
                name=home.name if home and stands_for else node.name,
                op_type=node.op_type,
                stage=home.stage if home else "chain",
                site=home.site if home else "chain",
                median_ms=median_ms,
                share=median_ms / total_ms if total_ms else 0.0,
                gmac=mac / 1e9 if mac else None,
                gflop_per_s=_gflop_per_s(mac, median_ms),
            )
        )
    times.sort(key=lambda time: -time.median_ms)
    return _by_stage(times, total_ms), tuple(times)


class _Names:
    """From a runtime's names to the graph's nodes."""

    def __init__(self, graph: Graph, work: Work) -> None:
        self._nodes = {node.name: node for node in work.nodes}
        self._makers = {name: self._nodes[node.name] for name, node in graph.producers().items()}

    def find(self, executed: Executed) -> tuple[NodeWork, ...]:
        """The nodes that it stands for, by the order at the top of this module; may be none."""
        names = dict.fromkeys((executed.name, *executed.fused_from))
        own = tuple(self._nodes[name] for name in names if name in self._nodes)
        if own:
            return own
        if inner := _longest(self._nodes, _within, executed.name):
            return (self._nodes[inner],)
        if tensor := _longest(self._makers, _begins, _INSERTED.sub("", executed.name)):
            maker = self._makers[tensor]
            # A fused convolution is named after what comes out of it, which the Clip made.
            fused = executed.op_type in _PRODUCTS
            return (self._nodes[maker.computed_by] if fused else maker,)
        return ()


def _longest(
    names: Mapping[str, object], fits: Callable[[str, str], bool], text: str
) -> str | None:
    return max((name for name in names if fits(name, text)), key=len, default=None)


def _within(name: str, text: str) -> bool:
    """Whether `text` holds a name, not as a part of a longer word."""
    return name in text and bool(re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", text))


def _begins(name: str, text: str) -> bool:
    return text.startswith(name) and _within(name, text)


def _gflop_per_s(mac: int, time_ms: float) -> float | None:
    return 2 * mac / 1e9 / (time_ms / 1e3) if mac and time_ms > 0 else None


def _by_stage(times: Sequence[NodeTime], total_ms: float) -> tuple[StageTime, ...]:
    sums_ms: dict[str, float] = defaultdict(float)
    gmacs: dict[str, float] = defaultdict(float)
    for time in times:
        sums_ms[time.stage] += time.median_ms
        gmacs[time.stage] += time.gmac or 0.0
    order = [*STAGES, *sorted(set(sums_ms).difference(STAGES))]
    return tuple(
        StageTime(
            stage=stage,
            sum_ms=sums_ms[stage],
            share=sums_ms[stage] / total_ms if total_ms else 0.0,
            gflop_per_s=_gflop_per_s(round(1e9 * gmacs[stage]), sums_ms[stage]),
        )
        for stage in order
        if stage in sums_ms
    )


def _profile_onnxruntime(
    path: Path, inputs: Tensors, threads: int | None, runs: int, warmup_runs: int
) -> tuple[list[Executed], list[float]]:
    """By the trace that ONNX Runtime writes; it is read and removed."""
    ort = import_onnxruntime()
    with tempfile.TemporaryDirectory(prefix="depthmask-profile-") as folder:
        options = session_options(ort, threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        try:
            session: Any = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise InputError(f"{path} cannot be loaded by ONNX Runtime: {error}") from error
        for _ in range(warmup_runs + runs):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_bytes())
    return read_trace(events, warmup_runs)


def read_trace(
    events: Sequence[dict[str, Any]], warmup_runs: int
) -> tuple[list[Executed], list[float]]:
    """The executed nodes in ONNX Runtime's trace, and every run's milliseconds; durations are in us.

    A run's nodes come before the event of the run itself; what comes before the first is the session's.
    """
    samples: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    current: dict[tuple[str, str, str], float] = {}
    run_ms: list[float] = []
    seen = 0
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            details = event["args"]
            key = (name.removesuffix(_KERNEL), details["op_name"], details.get("node_index", ""))
            current[key] = current.get(key, 0.0) + event["dur"] / 1e3
        elif name == "model_run":
            seen += 1
            if seen > warmup_runs:
                run_ms.append(event["dur"] / 1e3)
                for key, duration_ms in current.items():
                    samples[key].append(duration_ms)
            current = {}
    executed = [
        Executed(name, op_type, tuple(samples_ms))
        for (name, op_type, _), samples_ms in samples.items()
    ]
    return executed, run_ms


def _profile_openvino(
    path: Path, inputs: Tensors, threads: int | None, runs: int, warmup_runs: int
) -> tuple[list[Executed], list[float]]:
    """By OpenVINO's counters; what it fused a node from is in the compiled model."""
    openvino = import_openvino()

    try:
        compiled = compile_for_cpu(str(path), threads, PERF_COUNT=True)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be loaded by OpenVINO: {error}") from error
    fused_from = {
        node.get_friendly_name(): _original_names(node)
        for node in compiled.get_runtime_model().get_ops()
    }
    request = compiled.create_infer_request()
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    run_ms = []
    for run in range(warmup_runs + runs):
        request.infer(inputs)
        if run < warmup_runs:
            continue
        run_ms.append(request.latency)
        for node in request.get_profiling_info():
            if node.status == openvino.ProfilingInfo.Status.EXECUTED:
                key = (node.node_name, node.node_type)
                samples[key].append(1e3 * node.real_time.total_seconds())
    executed = [
        Executed(name, op_type, tuple(samples_ms), fused_from.get(name, ()))
        for (name, op_type), samples_ms in samples.items()
    ]
    return executed, run_ms


def _original_names(node: Any) -> tuple[str, ...]:  # noqa: ANN401  (openvino has no usable types)
    information = node.get_rt_info()
    if "originalLayersNames" not in information:
        return ()
    return tuple(information["originalLayersNames"].astype(str).split(","))


def _noise(bundle: Bundle, resolution: Resolution | None, frame_size: Resolution) -> Tensors:
    shape = (1, frame_size.height, frame_size.width, 3)
    frame_1HW3 = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if bundle.manifest.input == "frame":
        return {"frame": frame_1HW3}
    size = bundle.graph(resolution).resolution
    return {"image": to_network(frame_1HW3, size, bundle.manifest.normalisation)}
