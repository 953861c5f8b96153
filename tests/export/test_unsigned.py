from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from depthmask.bundle import STAGE_KEY
from depthmask.export.calibration import calibrate
from depthmask.export.onnx_files import to_bytes
from depthmask.export.quantise import Range, quantise, sites
from depthmask.export.unsigned import held_tensors, quantise_unsigned

WEIGHTS = {
    "stem": (8, 3, 3, 3),
    "deep": (8, 1, 3, 3),
    "point": (8, 8, 1, 1),
    "small": (8, 8, 3, 3),
    "last": (2, 8, 1, 1),
}


@pytest.fixture
def residual() -> ir.Model:
    """A mask network with what `lite` is made of: a block with a sum, an upsampled map added, an output."""
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 18]>
        chain (float[1,3,16,16] image, float[8,3,3,3] stem, float[8,1,3,3] deep, float[8,8,1,1] point,
               float[8,8,3,3] small, float[2,8,1,1] last)
            => (float[1,2,16,16] mask) <
                float[1,8,16,16] raw, float[1,8,16,16] first, float[1,8,16,16] raw_deep,
                float[1,8,16,16] second, float[1,8,16,16] third, float[1,8,16,16] block,
                float[1,8,8,8] below, float[1,8,16,16] above, float[1,8,16,16] both,
                float[1,8,16,16] positive, float[1,2,16,16] logits
            > {
            low = Constant<value_float: float = 0.0>()
            high = Constant<value_float: float = 6.0>()
            scales = Constant<value: tensor = float[4] {1, 1, 2, 2}>()
            raw = Conv<pads = [1,1,1,1]>(image, stem)
            first = Clip(raw, low, high)
            raw_deep = Conv<pads = [1,1,1,1], group = 8>(first, deep)
            second = Relu(raw_deep)
            third = Conv(second, point)
            block = Add(first, third)
            below = Conv<pads = [1,1,1,1], strides = [2,2]>(block, small)
            above = Resize<mode = "linear">(below, , scales)
            both = Add(above, block)
            positive = Relu(both)
            logits = Conv(positive, last)
            mask = Sigmoid(logits)
        }"""
    )
    rng = np.random.default_rng(0)
    for value in [value for value in model.graph.inputs if value.name in WEIGHTS]:
        model.graph.inputs.remove(value)
        shape = WEIGHTS[value.name]
        weight = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        value.const_value = ir.tensor(weight.astype(np.float32), name=value.name)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = f"{node.outputs[0].name}/{node.op_type}"
        node.metadata_props[STAGE_KEY] = "mask"
    return model


def images(count: int = 6) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    return [{"image": rng.standard_normal((1, 3, 16, 16)).astype(np.float32)} for _ in range(count)]


def run(model: ir.Model, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"])
    return session.run(["mask"], inputs)[0]


def optimised(model: ir.Model, folder) -> ir.Graph:
    """What ONNX Runtime makes of a graph."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    return ir.load(folder / "optimised.onnx").graph


def test_onnxruntime_makes_an_integer_kernel_of_every_convolution_and_sum(residual, tmp_path):
    ranges = calibrate(residual, images(), "minmax")
    found = Counter(n.op_type for n in optimised(quantise_unsigned(residual, ranges), tmp_path))
    assert found["QLinearConv"] == 5
    assert found["QLinearAdd"] == 2
    # The image, the logits, and around the Resize, which ONNX Runtime computes in float32.
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 2
    assert not {"Conv", "FusedConv", "Add", "Relu", "Clip"} & set(found)
    symmetric = Counter(n.op_type for n in optimised(quantise(residual, ranges), tmp_path))
    assert symmetric["QLinearConv"] == 0


def test_it_gives_what_the_symmetric_spelling_gives(residual):
    """Each rounds to steps of a few thousandths of the logits' range, in different places."""
    ranges = calibrate(residual, images(), "minmax")
    unsigned, symmetric = quantise_unsigned(residual, ranges), quantise(residual, ranges)
    for inputs in images():
        exact = run(residual, inputs)
        assert np.abs(run(unsigned, inputs) - exact).mean() < 0.01
        assert np.abs(run(unsigned, inputs) - run(symmetric, inputs)).max() < 0.05
        assert np.abs(run(unsigned, inputs) - exact).max() > 0


def test_zero_is_exact_and_what_is_picked_keeps_its_scale(residual):
    ranges = {
        name: Range(0.0, 6.0) if name in ("first", "second", "positive") else Range(-3.0, 5.0)
        for name in held_tensors(residual, "mask")
    }
    ranges["below"] = Range(-2.0, 2.0)
    stored = {
        name: value.const_value.numpy()
        for name, value in quantise_unsigned(residual, ranges).graph.initializers.items()
    }
    zeros = {
        name.removesuffix("/zero"): int(a)
        for name, a in stored.items()
        if not a.ndim and name.endswith("/zero")
    }
    assert zeros["first"] == zeros["second"] == zeros["positive"] == 0
    assert zeros["third"] == round(3 / 8 * 255)
    assert zeros["above"] == zeros["below"] == 128
    assert stored["above/scale"] == stored["below/scale"] == np.float32(4 / 255)
    assert "raw/scale" not in stored  # the Clip behind it is part of its kernel


def test_kept_sites_are_float32_and_their_neighbours_still_integer(residual, tmp_path):
    ranges = calibrate(residual, images(), "minmax")
    kept = frozenset({"raw_deep/Conv"})
    found = optimised(quantise_unsigned(residual, ranges, kept), tmp_path)
    assert Counter(n.op_type for n in found)["QLinearConv"] == 4
    everything = quantise_unsigned(residual, {}, frozenset(sites(residual)))
    assert [n.op_type for n in everything.graph] == [n.op_type for n in residual.graph]
    (inputs,) = images(1)
    np.testing.assert_array_equal(run(everything, inputs), run(residual, inputs))
