"""Somebody else's depth network end to end, made with what FastDepth is made of: opset 7 with weights as
inputs, depthwise 5x5 convolutions, batch norm beside each convolution, Upsample, skip connections added.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from depthmask.bench.foreign_speed import depth_part, measure_foreign, table
from depthmask.export import export_chain, verify_bundle
from depthmask.export.onnx_files import to_bytes
from depthmask.export.pieces import load_graph
from depthmask.export.source import open_chain
from depthmask.frames import Resolution

SMALL = Resolution(32, 32)


class Builder:
    """Nodes and weights, one block after the other."""

    def __init__(self):
        self.random = np.random.default_rng(0)
        self.nodes, self.weights = [], []

    def node(self, kind, inputs, **attributes):
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def block(self, value, channels_in, channels_out, taps, stride=1, group=1):
        fan = channels_in // group * taps**2
        shape = (channels_out, channels_in // group, taps, taps)
        kernel = self.weight(self.random.normal(0, (2 / fan) ** 0.5, shape))
        pads = [taps // 2] * 4
        value = self.node("Conv", [value, kernel], pads=pads, strides=[stride] * 2, group=group)
        norm = [
            self.weight(self.random.uniform(low, high, channels_out))
            for low, high in ((0.8, 1.2), (0, 0.2), (-0.1, 0.1), (0.8, 1.2))
        ]
        value = self.node("BatchNormalization", [value, *norm], epsilon=1e-5)
        return self.node("Relu", [value])

    def separable(self, value, channels_in, channels_out, taps, stride=1):
        value = self.block(value, channels_in, channels_in, taps, stride, group=channels_in)
        return self.block(value, channels_in, channels_out, 1)


def fastdepth_like(path):
    make = Builder()
    half = make.block("image", 3, 16, 3, stride=2)
    quarter = make.separable(half, 16, 24, 3, stride=2)
    value = make.separable(quarter, 24, 32, 3, stride=2)
    for channels, skip in ((24, quarter), (16, half), (16, None)):
        value = make.separable(value, 32 if channels == 24 else 24 if skip else 16, channels, 5)
        value = make.node("Upsample", [value], scales=[1.0, 1.0, 2.0, 2.0], mode="nearest")
        if skip:
            value = make.node("Add", [value, skip])
    make.block(value, 16, 1, 1)
    make.nodes[-1].output[0] = "map"
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])]
    inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in make.weights]
    output = helper.make_tensor_value_info("map", TensorProto.FLOAT, [1, 1, 32, 32])
    graph = helper.make_graph(make.nodes, "fastdepth", inputs, [output], make.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)])
    model.ir_version = 3
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    path = fastdepth_like(tmp_path_factory.mktemp("foreign") / "depth.onnx")
    return open_chain(mask="tiny_networks:TinyMask", depth_onnx=path)


@pytest.fixture(scope="module")
def bundle(chain, trace, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundles") / "fp32"
    return export_chain(
        chain[0], out, resolution=SMALL, input="image", weights=chain[1], trace=trace
    )


def test_it_is_rewritten_exactly(chain, bundle):
    assert verify_bundle(bundle)
    made = [(one.rewrite, one.form) for one in bundle.manifest.graphs[0].rewrites if one.form]
    assert made.count(("fold-norm", "folded")) == 12
    assert made.count(("nearest-polyphase", "swap")) == 1
    assert made.count(("plain-nearest", "plain")) == 2
    graph = onnx.load(bundle.model_path()).graph
    assert {node.op_type for node in graph.node if node.name.startswith("depth.")} == {
        "Conv", "Relu", "Resize", "Add"
    }  # fmt: skip
    image = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    part = depth_part(load_graph(bundle, SMALL))
    session = onnxruntime.InferenceSession(to_bytes(part), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: image})
    expected = chain[0].depth.run(image)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.ptp(expected))


def test_it_goes_through_int8(chain, trace, tmp_path):
    bundle = export_chain(
        chain[0],
        tmp_path / "b",
        resolution=SMALL,
        precision="int8",
        input="image",
        weights=chain[1],
        trace=trace,
    )
    assert verify_bundle(bundle)
    model = ir.load(bundle.model_path())
    rounded = [
        node
        for node in model.graph
        if node.op_type == "Conv"
        and node.name.startswith("depth")
        and node.inputs[0].producer().op_type == "DequantizeLinear"
    ]
    assert len(rounded) >= 3
    part = depth_part(model)
    (source,) = part.graph.inputs
    assert source.dtype == ir.DataType.FLOAT  # the rounding of its input is in the part


def test_both_take_turns_on_both_runtimes(chain, bundle):
    folder = bundle.path.parent
    result = measure_foreign(
        chain[0].depth.network.path,
        folder,
        mask="tiny_networks:TinyMask",
        precisions=("fp32",),
        rounds=5,
        turn_seconds=0.005,
    )
    assert [(row.runtime, row.what) for row in result.rows] == [
        ("onnxruntime", "as it came"),
        ("onnxruntime", "fp32"),
        ("openvino", "as it came"),
        ("openvino", "fp32"),
    ]
    for row in result.rows:
        assert row.largest_difference < 1e-5
        assert row.interval[0] <= row.times_faster <= row.interval[1]
        assert sorted(set(row.rounds)) == [0, 1, 2, 3, 4]
    assert result.rows[0].times_faster == 1
    assert "| onnxruntime | fp32 |" in table(result)
