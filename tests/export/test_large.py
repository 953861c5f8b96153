"""Graphs whose weights are more than one protobuf holds; here that is a few kilobytes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from depthmask.bundle import WEIGHTS_FILE, open_bundle
from depthmask.errors import InputError
from depthmask.export import export_chain, onnx_files, verify_bundle
from depthmask.export.onnx_files import to_bytes
from depthmask.export.sessions import GraphSession, without_weights
from depthmask.export.source import open_chain
from depthmask.export.tune import fastest_ms
from depthmask.frames import Resolution
from depthmask.pipeline import Pipeline

SMALL = Resolution(32, 32)
LIMIT_BYTES = 4000


@pytest.fixture
def small_limit(monkeypatch):
    """What is written or serialised beyond it fails, as beyond 2 GiB."""
    monkeypatch.setattr(onnx_files, "LARGEST_FILE_BYTES", LIMIT_BYTES)


def depth_file(path):
    """Opset 9, 37 kB of weights beside the graph: larger than what converters may copy here."""
    random = np.random.default_rng(0)
    arrays = {
        "w1": random.normal(0, 0.1, (64, 3, 3, 3)),
        "w2": random.normal(0, 0.1, (64, 64, 3, 3)),
        "w3": random.normal(0, 0.1, (1, 64, 1, 1)),
    }
    weights = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()]
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "w3"], ["map"]),
    ]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, 32, 32])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)])
    model.ir_version = 8
    onnx.save(model, path, save_as_external_data=True, location="weights.data", size_threshold=100)
    return path


def test_a_large_graph_is_exported_verified_and_loaded(small_limit, tmp_path, frame_HW3):
    chain, weights = open_chain(
        mask="tiny_networks:TinyMask", depth_onnx=depth_file(tmp_path / "d.onnx")
    )
    bundle = export_chain(chain, tmp_path / "b", resolution=SMALL, weights=weights)
    assert bundle.model_path().stat().st_size < 20_000
    assert (bundle.path / WEIGHTS_FILE).stat().st_size > 148_000
    assert WEIGHTS_FILE in open_bundle(bundle.path).manifest.files
    assert verify_bundle(bundle)
    with Pipeline.open(bundle.path) as a, Pipeline.open(bundle.path, "openvino") as b:
        np.testing.assert_allclose(a(frame_HW3).depth_HW, b(frame_HW3).depth_HW, atol=1e-4)
    damaged = bytearray((bundle.path / WEIGHTS_FILE).read_bytes())
    damaged[5000] ^= 1
    (bundle.path / WEIGHTS_FILE).write_bytes(damaged)
    with pytest.raises(InputError, match=r"weights\.bin must be what was exported"):
        open_bundle(bundle.path)


def test_both_spellings_of_a_large_int8_graph_share_one_weights_file(
    small_limit, tiny_chain, trace, tmp_path, monkeypatch
):
    monkeypatch.setattr(onnx_files, "LARGEST_FILE_BYTES", 500)
    bundle = export_chain(
        tiny_chain, tmp_path / "b", resolution=SMALL, precision="int8", trace=trace
    )
    assert verify_bundle(bundle)
    files = {file for graph in bundle.manifest.graphs for file in graph.files}
    assert len(files) == 2
    assert WEIGHTS_FILE in bundle.manifest.files


def test_a_session_takes_weights_from_memory_as_from_a_protobuf(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = ir.load(depth_file(tmp_path / "d.onnx"))
    inner = ir.external_data.load_to_model(model)
    graph, weights = without_weights(inner)
    assert len(graph) < 2000
    assert {name: array.nbytes for name, array in weights.items()} == {"w1": 6912, "w2": 147456}
    image = np.random.default_rng(1).random((1, 3, 32, 32), np.float32)
    whole = onnxruntime.InferenceSession(to_bytes(inner), providers=["CPUExecutionProvider"])
    (expected,) = whole.run(None, {"image": image})
    (found,) = GraphSession(inner).run(["map"], {"image": image})
    np.testing.assert_array_equal(found, expected)
    assert inner.graph.initializers["w2"].const_value.nbytes == 147456  # the model is as it was


def test_a_large_graph_is_timed(small_limit, tmp_path):
    model = ir.external_data.load_to_model(ir.load(depth_file(tmp_path / "d.onnx")))
    found = fastest_ms({"it": model})
    assert all(ms["it"] > 0 for ms in found.values())
    assert {"onnxruntime", "openvino"} <= set(found)


def test_a_file_written_weight_by_weight_is_the_whole_model(tmp_path):
    inner = ir.external_data.load_to_model(ir.load(depth_file(tmp_path / "d.onnx")))
    onnx_files.save_models({"whole.onnx": inner}, tmp_path)
    written = onnx.load(tmp_path / "whole.onnx")
    expected = onnx.load_from_string(to_bytes(inner))
    onnx.checker.check_model(written, full_check=True)
    for model in (written, expected):  # the order of weights is free, and each has its own shape
        weights = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
        assert [tensor.name for tensor in weights] == ["w1", "w2", "w3"]
        del model.graph.value_info[:]
        del model.graph.initializer[:]
        model.graph.initializer.extend(weights)
    assert written == expected
