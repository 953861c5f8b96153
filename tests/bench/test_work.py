from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from depthmask.bench.graph import graph_of, read_graph
from depthmask.bench.peaks import Peaks, Rate
from depthmask.bench.work import count_work, share_of_roofline
from depthmask.bundle import STAGE_KEY, open_bundle
from depthmask.errors import InputError, UnavailableError, UsageError
from depthmask.frames import Resolution

FRAME = {"image": (1, 3, 8, 8)}


def model(nodes, weights, outputs=("out",), input_dims=(1, 3, "rows", "columns")):
    """A graph of float32 from `image`; nodes are (operator, name, inputs, outputs, attributes)."""
    made = []
    for op_type, name, inputs, node_outputs, attributes in nodes:
        node = helper.make_node(op_type, inputs, node_outputs, name=name, **attributes)
        node.metadata_props.add(key=STAGE_KEY, value=name.split("/")[0].split(".")[0])
        made.append(node)
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(input_dims))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made_model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    for output in made_model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return made_model


def by_name(work):
    return {node.name: node for node in work.nodes}


TWO_LAYERS = [
    (
        "Conv",
        "mask.first/Conv",
        ["image", "w", "b"],
        ["conv"],
        {"pads": [1] * 4, "strides": [2, 2]},
    ),
    ("Relu", "mask/Relu", ["conv"], ["relu"], {}),
    ("Reshape", "depth/Reshape", ["relu", "shape"], ["flat"], {}),
    ("MatMul", "depth.second/MatMul", ["flat", "v"], ["out"], {}),
]
WEIGHTS = {
    "w": np.zeros((4, 3, 3, 3), np.float32),
    "b": np.zeros(4, np.float32),
    "shape": np.array([4, 16]),
    "v": np.zeros((16, 5), np.float32),
}


def test_two_layers_counted_by_hand():
    work = count_work(graph_of(model(TWO_LAYERS, WEIGHTS), FRAME))
    nodes = by_name(work)
    conv_mac = 4 * (4 * 4) * (3 * 3 * 3)  # channels, positions at stride 2, kernel
    matmul_mac = 4 * 5 * 16
    assert nodes["mask.first/Conv"].mac == conv_mac
    assert nodes["depth.second/MatMul"].mac == matmul_mac
    assert work.gflop == pytest.approx(2 * (conv_mac + matmul_mac) / 1e9)
    # Conv reads the image, weights and bias, and writes what Relu made of it on the way.
    conv_bytes = 4 * (3 * 8 * 8 + 4 * 27 + 4 + 4 * 4 * 4)
    matmul_bytes = 4 * (4 * 16 + 16 * 5 + 4 * 5)
    assert nodes["mask.first/Conv"].moved_bytes == conv_bytes
    assert nodes["mask/Relu"].moved_bytes == nodes["depth/Reshape"].moved_bytes == 0
    assert nodes["mask/Relu"].computed_by == "mask.first/Conv"
    assert nodes["depth.second/MatMul"].moved_bytes == matmul_bytes
    assert work.moved_bytes == conv_bytes + matmul_bytes
    assert work.intensity_flop_per_byte == pytest.approx(1e9 * work.gflop / work.moved_bytes)
    assert [(stage.stage, stage.moved_bytes) for stage in work.stages] == [
        ("mask", conv_bytes),
        ("depth", matmul_bytes),
    ]
    assert (nodes["mask.first/Conv"].stage, nodes["mask.first/Conv"].site) == ("mask", "mask.first")
    assert nodes["mask/Relu"].site == "mask"


def test_what_two_nodes_read_is_stored():
    skip = [
        ("Relu", "mask/Relu", ["image"], ["relu"], {}),
        ("Conv", "mask/Conv", ["relu", "w"], ["conv"], {}),
        ("Add", "mask/Add", ["relu", "conv"], ["out"], {}),
    ]
    weights = {"w": np.zeros((3, 3, 1, 1), np.float32)}
    nodes = by_name(count_work(graph_of(model(skip, weights), FRAME)))
    tensor = 4 * 3 * 8 * 8
    assert nodes["mask/Relu"].moved_bytes == 2 * tensor  # the image is the input: it was stored
    # Conv's own result goes into Add on the way; the other of Add's inputs is read again.
    assert nodes["mask/Conv"].moved_bytes == 3 * tensor + 4 * 9
    assert nodes["mask/Add"].computed_by == "mask/Conv"


def test_an_output_is_stored_and_a_shared_weight_counts_once():
    nodes = [
        ("Mul", "mask/Mul", ["image", "w"], ["out"], {}),
        ("Mul", "depth/Mul", ["out", "w"], ["second"], {}),
    ]
    weights = {"w": np.zeros((1, 3, 8, 8), np.float32)}
    found = by_name(count_work(graph_of(model(nodes, weights, ["out", "second"]), FRAME)))
    tensor = 4 * 3 * 8 * 8
    assert found["mask/Mul"].moved_bytes == 3 * tensor
    assert found["depth/Mul"].moved_bytes == 2 * tensor
    assert found["depth/Mul"].computed_by == "depth/Mul"


def test_quantised_tensors_count_as_bytes():
    scale, zero = np.array(0.1, np.float32), np.array(0, np.int8)
    nodes = [
        ("QuantizeLinear", "mask/Q", ["image", "scale", "zero"], ["q"], {}),
        ("DequantizeLinear", "mask/DQ", ["q", "scale", "zero"], ["dq"], {}),
        ("DequantizeLinear", "mask/WDQ", ["w", "scale", "zero"], ["dw"], {}),
        ("Conv", "mask/Conv", ["dq", "dw"], ["out"], {}),
    ]
    weights = {"scale": scale, "zero": zero, "w": np.zeros((2, 3, 1, 1), np.int8)}
    work = count_work(graph_of(model(nodes, weights), FRAME))
    found = by_name(work)
    assert found["mask/Conv"].is_int8
    assert work.int8_gop == work.gflop == pytest.approx(2 * 64 * 6 / 1e9)
    assert found["mask/Conv"].moved_bytes == 3 * 64 + 6 + 4 * 2 * 64
    assert found["mask/DQ"].moved_bytes == found["mask/WDQ"].moved_bytes == 0


@pytest.mark.parametrize(
    ("op_type", "weights", "attributes", "mac"),
    [
        ("Conv", (6, 1, 3, 3), {"group": 3, "pads": [1] * 4}, 6 * 64 * 9),
        ("ConvTranspose", (3, 2, 2, 2), {"strides": [2, 2]}, 3 * 64 * 2 * 4),
        ("MatMul", (8, 5), {}, 3 * 8 * 5 * 8),
    ],
)
def test_other_products(op_type, weights, attributes, mac):
    node = (op_type, "mask/Product", ["image", "w"], ["out"], attributes)
    work = count_work(graph_of(model([node], {"w": np.zeros(weights, np.float32)}), FRAME))
    assert by_name(work)["mask/Product"].mac == mac


def test_a_size_that_does_not_follow_is_refused():
    node = ("NonZero", "mask/NonZero", ["image"], ["places"], {})
    after = ("Cast", "mask/Cast", ["places"], ["out"], {"to": TensorProto.FLOAT})
    with pytest.raises(InputError, match="must follow from the graph, but that of 'out'"):
        count_work(graph_of(model([node, after], {}), FRAME))


def test_a_graph_that_contradicts_itself_is_refused():
    node = ("Conv", "mask/Conv", ["image", "w"], ["out"], {})
    broken = model([node], {"w": np.zeros((4, 5, 1, 1, 1), np.float32)})
    with pytest.raises(InputError, match="must pass ONNX shape inference"):
        graph_of(broken, FRAME)


def test_the_shipped_bundle_agrees_with_its_manifest():
    bundle = open_bundle()
    graph = read_graph(bundle, Resolution(64, 64), Resolution(48, 80))
    work = count_work(graph)
    stages = {stage.stage: stage for stage in work.stages}
    assert list(stages) == ["preprocess", "mask", "chain", "depth"]
    networks_gmac = stages["mask"].gmac + stages["depth"].gmac
    assert networks_gmac == pytest.approx(bundle.graph(Resolution(64, 64)).gmac, abs=1e-4)
    # Rows, then columns: (64,48) by (48, 80 x 3), and 3 x 64 rows of 80 by (80,64).
    assert stages["preprocess"].gmac == (64 * 48 * 80 * 3 + 3 * 64 * 80 * 64) / 1e9
    weights = sum(graph.tensor(name).nbytes for name in graph.constants)
    assert weights < work.moved_bytes < 4 * weights


def test_without_onnx_a_graph_cannot_be_read(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="needs the package onnx, which is not installed"):
        read_graph(open_bundle(check_files=False))


def test_a_damaged_graph_is_refused(tmp_path, fake_bundle):
    bundle = fake_bundle()
    bundle.path.mkdir()
    (bundle.path / "64.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(InputError, match="must be an ONNX graph, but it cannot be read"):
        read_graph(bundle, Resolution(64, 64))


def peaks(fp32, memory, int8=None):
    def rate(value):
        return Rate(best=value, median=value, worst=value, repeats=1, how="by hand")

    return Peaks(
        threads=1,
        fp32_flop_per_s=rate(fp32),
        int8_op_per_s=None if int8 is None else rate(int8),
        memory_bytes_per_s=rate(memory),
    )


def test_the_share_of_the_roofline():
    work = count_work(graph_of(model(TWO_LAYERS, WEIGHTS), FRAME))
    flop = 1e9 * work.gflop
    compute = share_of_roofline(work, 1e3 * flop / 50e9, peaks(100e9, 1e15))
    assert (compute.bound, compute.share) == ("compute", pytest.approx(0.5))
    assert compute.achieved_gflop_per_s == pytest.approx(50)
    assert compute.attainable_gflop_per_s == pytest.approx(100)
    memory = share_of_roofline(work, 1e3 * work.moved_bytes / 2e9, peaks(1e15, 10e9))
    assert (memory.bound, memory.share) == ("memory", pytest.approx(0.2))
    assert memory.attainable_gflop_per_s == pytest.approx(10 * work.intensity_flop_per_byte)


def test_the_peak_of_a_mixture():
    int8 = ("ConvInteger", "mask/Int", ["q", "w8"], ["i"], {})
    nodes = [
        ("Cast", "mask/ToInt", ["image"], ["q"], {"to": TensorProto.UINT8}),
        int8,
        ("Cast", "mask/ToFloat", ["i"], ["f"], {"to": TensorProto.FLOAT}),
        ("Conv", "mask/Conv", ["f", "w"], ["out"], {}),
    ]
    weights = {"w8": np.zeros((3, 3, 1, 1), np.int8), "w": np.zeros((3, 3, 1, 1), np.float32)}
    work = count_work(graph_of(model(nodes, weights), FRAME))
    assert work.int8_gop == pytest.approx(work.gflop / 2)
    reached = share_of_roofline(work, 1.0, peaks(100e9, 1e15, 300e9))
    assert reached.attainable_gflop_per_s == pytest.approx(150)  # half at 100, half at 300
    with pytest.raises(UnavailableError, match="needs their peak"):
        share_of_roofline(work, 1.0, peaks(100e9, 1e15))


def test_no_time_has_no_share():
    work = count_work(graph_of(model(TWO_LAYERS, WEIGHTS), FRAME))
    with pytest.raises(UsageError, match="needs work and a time above 0"):
        share_of_roofline(work, 0.0, peaks(1, 1))


def test_a_models_own_sizes_do_not_win():
    """The exporter notes the sizes of its example frame."""
    noted = model(TWO_LAYERS, WEIGHTS)
    noted.graph.value_info.append(
        helper.make_tensor_value_info("conv", TensorProto.FLOAT, [1, 4, "rows", "columns"])
    )
    assert isinstance(noted, onnx.ModelProto)
    assert graph_of(noted, FRAME).tensor("conv").shape == (1, 4, 4, 4)
