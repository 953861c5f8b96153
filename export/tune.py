"""Which form of a rewrite is fastest on this machine: every site cut out, every form timed, in turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx_ir as ir

from depthmask import runtimes
from depthmask.export.graph_edit import static_shape
from depthmask.export.onnx_files import is_large, save_models, to_bytes
from depthmask.export.sessions import GraphSession
from depthmask.runtimes.onnxruntime_runtime import import_onnxruntime, session_options
from depthmask.runtimes.openvino_runtime import compile_for_cpu, core

_ROUNDS = 7
_TURN_SECONDS = 0.02
_TIMED_RUNTIMES = ("onnxruntime", "openvino")

Call = Callable[[], object]


def cut_out(nodes: Sequence[ir.Node]) -> ir.Model:
    """A model of nodes alone, with their weights.

    Its input is what the first reads, its outputs what none of the nodes reads.
    """
    source = nodes[0].inputs[0]
    assert source is not None
    read = {value for node in nodes for value in node.inputs}
    values: dict[ir.Value, ir.Value] = {}

    def twin(value: ir.Value) -> ir.Value:
        if value not in values:
            values[value] = ir.Value(
                name=value.name, shape=value.shape, type=value.type, const_value=value.const_value
            )
        return values[value]

    twins = [
        ir.node(
            node.op_type,
            [None if value is None else twin(value) for value in node.inputs],
            attributes=dict(node.attributes),
            outputs=[twin(value) for value in node.outputs],
            name=node.name,
        )
        for node in nodes
    ]
    graph = ir.Graph(
        [twin(source)],
        [twin(value) for node in nodes for value in node.outputs if value not in read],
        nodes=twins,
        initializers=[v for v in values.values() if v.const_value is not None],
        opset_imports={"": 18},
        name="site",
    )
    return ir.Model(graph, ir_version=10)


def fastest_ms(
    models: Mapping[str, ir.Model],
    threads: int | None = None,
    seed: int = 0,
    data: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Median milliseconds by runtime and by name, of models that take the same single input.

    Those runtimes are timed that are installed; models take turns in an order drawn anew each time.
    The input is `data`, or random of the shape that the models name.
    """
    generator = np.random.default_rng(seed)
    if data is None:
        (shape,) = {static_shape(model.graph.inputs[0]) for model in models.values()}
        assert shape is not None
        data = generator.standard_normal(shape).astype(np.float32)
    found = {}
    for runtime in _TIMED_RUNTIMES:
        if runtime not in runtimes.installed():
            continue
        opener = {"onnxruntime": _onnxruntime_call, "openvino": _openvino_call}[runtime]
        calls = {name: opener(model, data, threads) for name, model in models.items()}
        found[runtime] = _in_turns(calls, generator)
    return found


def _in_turns(calls: Mapping[str, Call], generator: np.random.Generator) -> dict[str, float]:
    names: Sequence[str] = list(calls)
    times_ms: dict[str, list[float]] = {name: [] for name in names}
    for call in calls.values():
        call()
    for _ in range(_ROUNDS):
        for index in generator.permutation(len(names)):
            name = names[index]
            calls[name]()
            end = time.perf_counter() + _TURN_SECONDS
            while True:
                started = time.perf_counter()
                calls[name]()
                now = time.perf_counter()
                times_ms[name].append(1000 * (now - started))
                if now >= end:
                    break
    return {name: median(times) for name, times in times_ms.items()}


def _onnxruntime_call(model: ir.Model, data: np.ndarray, threads: int | None) -> Call:
    options = session_options(import_onnxruntime(), threads)
    # Sessions wait their turn: one that spins meanwhile takes the cores of the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = GraphSession(model, options)
    (name,) = session.inputs
    inputs = {name: data}
    return lambda: session.run(None, inputs)


def _openvino_call(model: ir.Model, data: np.ndarray, threads: int | None) -> Call:
    compiled = _compiled(model, threads)
    request = compiled.create_infer_request()
    return lambda: request.infer([data], share_inputs=True)


def _compiled(model: ir.Model, threads: int | None) -> Any:  # noqa: ANN401
    if not is_large(model):
        return compile_for_cpu(core().read_model(to_bytes(model)), threads)
    with tempfile.TemporaryDirectory(prefix="depthmask-tune-") as folder:
        save_models({"model.onnx": model}, Path(folder))
        return compile_for_cpu(core().read_model(Path(folder) / "model.onnx"), threads)
