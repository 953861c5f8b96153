"""Estimates from data sheets, against sums by hand."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from depthmask.bench.datasheets import DATASHEETS, datasheet
from depthmask.bench.estimate import estimate, estimate_layers
from depthmask.bench.graph import graph_of
from depthmask.bundle import open_bundle
from depthmask.errors import UsageError
from depthmask.frames import Resolution

ROUND = msgspec.structs.replace(
    datasheet("t4"),
    fp32_tflop_per_s=1.0,
    fp16_tflop_per_s=2.0,
    int8_top_per_s=4.0,
    memory_gb_per_s=1.0,
)
"""A GPU to calculate with."""


def layers_of(nodes, weights, kind=TensorProto.FLOAT):
    made = [helper.make_node(op, i, o, name=o[0], **a) for op, i, o, a in nodes]
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("image", kind, [1, 16, 8, 8])],
        [helper.make_tensor_value_info("out", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return estimate_layers(graph_of(model, {"image": (1, 16, 8, 8)}), ROUND)


CONV_RELU = [
    ("Conv", ["image", "w"], ["conv"], {"pads": [1] * 4}),
    ("Relu", ["conv"], ["out"], {}),
]


@pytest.mark.parametrize(
    ("kind", "dtype", "number_type", "tera", "item_bytes"),
    [
        (TensorProto.FLOAT, np.float32, "fp32", 1, 4),
        (TensorProto.FLOAT16, np.float16, "fp16", 2, 2),
    ],
)
def test_a_layer_takes_its_arithmetic_at_its_types_peak_or_its_bytes(
    kind, dtype, number_type, tera, item_bytes
):
    [layer] = layers_of(CONV_RELU, {"w": np.zeros((32, 16, 3, 3), dtype)}, kind)
    mac = 32 * 16 * 9 * 64
    moved = item_bytes * (16 * 64 + 32 * 16 * 9 + 32 * 64)  # the Relu is computed on the way
    assert (layer.number_type, layer.name, layer.op_type) == (number_type, "conv", "Conv")
    assert layer.gmac == pytest.approx(mac / 1e9)
    assert layer.compute_ms == pytest.approx(1e3 * 2 * mac / (tera * 1e12))
    assert layer.memory_ms == pytest.approx(1e3 * moved / 1e9)
    assert layer.roofline_ms == max(layer.compute_ms, layer.memory_ms)


def test_a_product_of_dequantised_factors_is_int8():
    nodes = [
        ("QuantizeLinear", ["image", "s", "p"], ["q"], {}),
        ("DequantizeLinear", ["q", "s", "p"], ["d"], {}),
        ("DequantizeLinear", ["wq", "s", "p"], ["w"], {}),
        ("Conv", ["d", "w"], ["out"], {"pads": [1] * 4}),
    ]
    weights = {
        "s": np.float32(0.1),
        "p": np.int8(0),
        "wq": np.zeros((32, 16, 3, 3), np.int8),
    }
    layers = {layer.name: layer for layer in layers_of(nodes, weights)}
    assert layers["out"].number_type == "int8"
    assert layers["out"].compute_ms == pytest.approx(1e3 * 2 * 32 * 16 * 9 * 64 / 4e12)


def test_a_graph_is_the_sum_of_its_layers_and_no_faster_than_its_arithmetic(tiny_bundle_path):
    bundle = open_bundle(tiny_bundle_path)
    for gpu in DATASHEETS.values():
        found = estimate(bundle, Resolution(32, 32), gpu)
        assert found.roofline_ms == pytest.approx(sum(one.roofline_ms for one in found.layers))
        assert 0 < found.least_ms <= found.roofline_ms
        assert 0 <= found.compute_bound_share <= 1
        assert found.kind == "estimate, not measured"


def test_a_larger_frame_and_a_slower_memory_take_longer(tiny_bundle_path):
    bundle = open_bundle(tiny_bundle_path)
    gpu = datasheet("l4")
    small = estimate(bundle, None, gpu)
    assert (
        estimate(bundle, None, gpu, frame_size=Resolution(1080, 1920)).roofline_ms
        > small.roofline_ms
    )
    slow = msgspec.structs.replace(gpu, memory_gb_per_s=gpu.memory_gb_per_s / 10)
    assert estimate(bundle, None, slow).roofline_ms > 2 * small.roofline_ms


@pytest.mark.parametrize("gpu", DATASHEETS.values(), ids=DATASHEETS)
def test_the_figures_of_a_data_sheet_fit_each_other(gpu):
    by_clock = 2 * gpu.cuda_cores * gpu.boost_mhz / 1e6
    assert gpu.fp32_tflop_per_s == pytest.approx(by_clock, rel=0.02)
    assert gpu.int8_top_per_s == pytest.approx(2 * gpu.fp16_tflop_per_s, rel=0.03)
    # Dense tensor cores: 4 to 16 times the CUDA cores' fp32. Twice that is a figure "with sparsity".
    assert 3.9 < gpu.fp16_tflop_per_s / gpu.fp32_tflop_per_s < 16.1
    assert gpu.source
    assert gpu.architecture.startswith("sm")


def test_an_unknown_gpu_is_refused_with_those_that_are_known():
    with pytest.raises(UsageError, match=r"one of orin-nano-15w, orin-nano, .*, or all, but got"):
        datasheet("voodoo2")


def test_the_command_says_that_it_is_an_estimate(dmx_inside, tiny_bundle_path):
    arguments = ("bench", tiny_bundle_path, "--estimate", "orin-nano,h100")
    code, out, error = dmx_inside(*arguments)
    assert code == 0, error
    text = " ".join(out.split())
    assert "fp32 at 32: ESTIMATED from data sheets, not measured" in text
    assert "fp32 at 48x64: ESTIMATED" in text
    assert "NVIDIA H100 Tensor Core GPU data sheet" in text
    code, out, _ = dmx_inside(*arguments, "--resolution", "32", "--json")
    found = json.loads(out)["estimates"]
    assert [(one["gpu"]["name"], one["height_px"]) for one in found] == [
        ("orin-nano", 32),
        ("h100", 32),
    ]
    assert {one["kind"] for one in found} == {"estimate, not measured"}
    assert found[0]["layers"]


@pytest.mark.parametrize("option", [("--out", "r.json"), ("--sweep",), ("--report", "r.html")])
def test_an_estimate_is_never_among_measurements(dmx_inside, option):
    code, _, error = dmx_inside("bench", "--estimate", "l4", *option)
    assert code == 2
    assert "it measures nothing" in error
    assert not Path(option[-1]).exists()
