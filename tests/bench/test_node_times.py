from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace

import pytest

from depthmask.bench.graph import read_graph
from depthmask.bench.node_times import Executed, attribute, node_times, read_trace
from depthmask.bench.work import count_work
from depthmask.bundle import open_bundle
from depthmask.errors import InputError, UnavailableError, UsageError
from depthmask.frames import Resolution

SMALLEST = Resolution(64, 64)
FRAME = Resolution(48, 64)


@pytest.fixture(scope="module")
def bundle():
    return open_bundle(check_files=False)


@pytest.fixture(scope="module")
def graph(bundle):
    return read_graph(bundle, SMALLEST, FRAME)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_stage_and_every_product_is_found(
    bundle, graph, runtime, tmp_path_factory, monkeypatch
):
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(folder)
    times = node_times(bundle, SMALLEST, runtime, 1, runs=2, warmup_runs=1, frame_size=FRAME)
    assert list(folder.iterdir()) == []  # the trace is gone
    assert {stage.stage for stage in times.stages} >= {"preprocess", "mask", "depth"}
    assert times.sum_ms > 0
    assert sum(stage.sum_ms for stage in times.stages) == pytest.approx(times.sum_ms)
    assert sum(node.share for node in times.nodes) == pytest.approx(1)
    assert sum(stage.share for stage in times.stages) == pytest.approx(1)
    assert [node.median_ms for node in times.nodes] == sorted(
        (node.median_ms for node in times.nodes), reverse=True
    )
    # Every convolution and product of the graph is in exactly one executed node.
    work = count_work(graph)
    products = {node.name: node.mac / 1e9 for node in work.nodes if node.mac}
    assert {node.name: node.gmac for node in times.nodes if node.gmac} == pytest.approx(products)
    assert all(node.site.split(".")[0] == node.stage for node in times.nodes)


def test_renamed_and_fused_nodes_are_brought_back(graph):
    stem = "mask.trunk.encoder.stem.bn/Conv"
    after = next(node for node in graph.nodes if node.op_type == "Clip")
    executed = [
        Executed("Reorder_1", "Reorder", (1.0,)),
        Executed(f"{after.outputs[0]}_nchwc", "Conv", (4.0, 2.0, 3.0)),
        Executed("ReorderOutput_token_7", "ReorderOutput", (2.0,)),
        Executed(f"InsertedPrecisionFreeCast_{after.outputs[0]}", "Cast", (0.125,)),
        Executed("preprocess/MatMul_1/MatmulTransposeFusion/", "FusedMatMul", (1.5,)),
        Executed(f"{stem}/WithoutBiases", "Convolution", (0.5,)),
        Executed("Subgraph_9", "Subgraph", (0.25,), ("Multiply_3", "depth/Exp")),
    ]
    stages, times = attribute(executed, graph, count_work(graph))
    found = {node.op_type: node for node in times}
    conv = found["Conv"]
    assert (conv.name, conv.stage, conv.median_ms) == (stem, "mask", 3.0)
    assert conv.gflop_per_s == pytest.approx(2 * conv.gmac / 3e-3)
    assert found["Cast"].name == after.name
    # What no graph knows belongs to what ran before it, or to the first that is known.
    for reorder in ("Reorder", "ReorderOutput"):
        assert (found[reorder].site, found[reorder].gmac) == ("mask.trunk.encoder.stem.bn", None)
    assert found["FusedMatMul"].name == "preprocess/MatMul_1"
    assert found["Convolution"].name == stem
    assert found["Subgraph"].name == "depth/Exp"
    assert [(stage.stage, stage.sum_ms) for stage in stages] == [
        ("preprocess", 1.5),
        ("mask", 6.625),
        ("depth", 0.25),
    ]


def test_a_trace_is_cut_into_runs():
    def node(name, dur):
        details = {"op_name": "Conv", "node_index": "0"}
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": dur, "args": details}

    def run(dur):
        return {"cat": "Session", "name": "model_run", "dur": dur, "args": {}}

    start = {"cat": "Session", "name": "session_initialization", "dur": 1, "args": {}}
    events = [
        start,
        node("a", 9000),
        run(9999),
        node("a", 1000),
        run(1500),
        node("a", 3000),
        run(3500),
    ]
    executed, run_ms = read_trace(events, warmup_runs=1)
    assert [(node.name, node.samples_ms) for node in executed] == [("a", (1.0, 3.0))]
    assert run_ms == [1.5, 3.5]


def test_a_runtime_that_is_missing(bundle, monkeypatch):
    monkeypatch.setattr("depthmask.runtimes.is_installed", lambda name: False)
    with pytest.raises(UnavailableError, match="openvino, which is not installed"):
        node_times(bundle, SMALLEST, "openvino")


def test_unusable_settings_are_refused(bundle):
    with pytest.raises(UsageError, match="onnxruntime or openvino, but got 'torch'"):
        node_times(bundle, SMALLEST, "torch")
    with pytest.raises(UsageError, match="runs must be 1 or more"):
        node_times(bundle, SMALLEST, runs=0)
    with pytest.raises(UsageError, match="must be one that"):
        node_times(bundle, Resolution(96, 96))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_graph_without_its_weights_is_refused(bundle, runtime, tmp_path):
    shutil.copy(bundle.model_path(SMALLEST), tmp_path)
    with pytest.raises(InputError, match="cannot be loaded by"):
        node_times(replace(bundle, path=tmp_path), SMALLEST, runtime, frame_size=FRAME)
