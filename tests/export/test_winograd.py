from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from depthmask.errors import UsageError
from depthmask.export import winograd
from depthmask.export.onnx_files import to_bytes
from depthmask.export.rewrite import RewriteOptions, rewrite

CASES = {
    "whole tiles": ((1, 3, 8, 12), 4, 5, [2, 2, 2, 2]),
    "tiles over the edge": ((1, 3, 7, 5), 4, 5, [2, 2, 2, 2]),
    "3x3": ((1, 5, 9, 10), 6, 3, [1, 1, 1, 1]),
    "batch 3": ((3, 2, 6, 7), 3, 3, [1, 1, 1, 1]),
    "no padding": ((2, 2, 9, 8), 3, 5, [0, 0, 0, 0]),
    "padding on one side": ((1, 2, 6, 6), 3, 3, [2, 0, 0, 1]),
    "more padding than taps": ((1, 2, 3, 4), 2, 3, [3, 4, 5, 3]),
    "one pixel": ((1, 2, 1, 1), 2, 5, [2, 2, 2, 2]),
    "many channels": ((1, 96, 13, 17), 80, 5, [2, 2, 2, 2]),
}


def model_of(shape, channels_out, taps, pads, *, bias=True, group=1, seed=0, **settings):
    generator = np.random.default_rng(seed)
    size = [
        (side + before + after - settings.get("dilations", [1])[0] * (taps - 1) - 1)
        // settings.get("strides", [1])[0]
        + 1
        for side, before, after in zip(shape[2:], pads[:2], pads[2:], strict=True)
    ]

    def value(name, shape, array=None):
        return ir.Value(
            name=name,
            shape=ir.Shape(shape),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=None if array is None else ir.tensor(array, name=name),
        )

    weight = generator.standard_normal((channels_out, shape[1] // group, taps, taps))
    weight = (weight / np.sqrt(weight[0].size)).astype(np.float32)
    constants = [value("w", weight.shape, weight)]
    if bias:
        numbers = generator.standard_normal(channels_out).astype(np.float32)
        constants.append(value("b", numbers.shape, numbers))
    x, y = value("x", shape), value("y", [shape[0], channels_out, *size])
    attributes = {"pads": pads, "kernel_shape": [taps, taps], "group": group, **settings}
    conv = ir.node("Conv", [x, *constants], attributes=attributes, outputs=[y], name="conv")
    graph = ir.Graph(
        [x], [y], nodes=[conv], initializers=constants, opset_imports={"": 18}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def run(model, data):
    session = ort.InferenceSession(to_bytes(model), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": data})
    return found


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_fast_form_equals_the_convolution(name, seed):
    shape, channels_out, taps, pads = CASES[name]
    model = model_of(shape, channels_out, taps, pads, bias=seed != 1, seed=seed)
    data = np.random.default_rng(seed + 9).standard_normal(shape).astype(np.float32)
    expected = run(model, data)
    (site,) = winograd.find(model.graph)
    winograd.apply(model.graph, site)
    assert [value.name for value in model.graph.outputs] == ["y"]
    found = run(model, data)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5 * max(1.0, np.ptp(expected))
    kernels = [
        node.attributes["kernel_shape"].as_ints() for node in model.graph if node.op_type == "Conv"
    ]
    assert kernels == [(taps + 3, taps + 3)]
    assert "w" not in model.graph.initializers


@pytest.mark.parametrize(("outputs", "taps"), [(4, 3), (4, 5), (2, 3), (2, 5), (3, 4)])
def test_the_theorem_holds_in_exact_arithmetic_for_random_filters(outputs, taps):
    inverse, filters, tiles = winograd.matrices(outputs, taps)
    generator = np.random.default_rng(outputs)
    for _ in range(20):
        g, d = generator.standard_normal(taps), generator.standard_normal(outputs + taps - 1)
        expected = [g @ d[i : i + taps] for i in range(outputs)]
        np.testing.assert_allclose(inverse @ ((filters @ g) * (tiles @ d)), expected, atol=1e-12)


@pytest.mark.parametrize(
    "change",
    [
        {"strides": [2, 2]},
        {"dilations": [2, 2]},
        {"group": 2},
        {"auto_pad": "VALID"},
        {"taps": 7},
        {"taps": 1},
    ],
)
def test_other_convolutions_are_left_alone(change):
    settings = {"taps": 3, **change}
    model = model_of((1, 4, 12, 12), 4, pads=[1, 1, 1, 1], **settings)
    assert not list(winograd.find(model.graph))


def test_sizes_that_are_open_are_left_alone():
    model = model_of((1, 4, 12, 12), 4, 3, [1, 1, 1, 1])
    model.graph.inputs[0].shape = ir.Shape(["batch", 4, 12, 12])
    assert not list(winograd.find(model.graph))


def test_weights_that_are_computed_are_left_alone():
    model = model_of((1, 4, 12, 12), 4, 3, [1, 1, 1, 1])
    model.graph.inputs.append(model.graph.initializers.pop("w"))
    model.graph.inputs[-1].const_value = None
    assert not list(winograd.find(model.graph))


def test_multiplications_are_counted():
    model = model_of((1, 8, 16, 16), 4, 5, [2, 2, 2, 2])
    (site,) = winograd.find(model.graph)
    assert winograd.macs(site, False) == 16 * 16 * 25 * 8 * 4
    # 16 tiles of 8x8 values: made from 8x8 inputs each, multiplied, and made into 4x4 outputs.
    assert winograd.macs(site, True) == 16 * (64 * 64 * 8 + 64 * 8 * 4 + 64 * 16 * 4)


def test_the_cost_model_takes_it_for_many_channels_and_not_for_few():
    many = model_of((1, 128, 28, 28), 128, 5, [2, 2, 2, 2])
    few = model_of((1, 4, 28, 28), 4, 3, [1, 1, 1, 1])
    _, (record,) = rewrite(many)
    assert (record.site, record.rewrite, record.form) == ("conv", "winograd", "F(4x4, 5x5)")
    assert record.gmac_after < record.gmac_before / 3
    assert record.predicted_gain > 1.2
    model, records = rewrite(few)
    assert records == ()
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert [r.form for r in rewrite(few, RewriteOptions("winograd"))[1]] == ["F(4x4, 3x3)"]
    assert rewrite(many, RewriteOptions("upsample-conv"))[1] == ()


@pytest.mark.parametrize(("ms", "form"), [(1.0, "F(4x4, 5x5)"), (3.0, None)])
def test_a_measurement_decides(ms, form):
    model = model_of((1, 128, 28, 28), 128, 5, [2, 2, 2, 2])

    def timings(models):
        return {"one": {name: 2.0 if name == "as exported" else ms for name in models}}

    found, (record,) = rewrite(model, RewriteOptions(tune=True), timings=timings)
    assert record.form == form
    assert record.measured_gain == (2.0 if form else 1.0)
    assert (len(list(found.graph)) > 1) == bool(form)


def test_it_is_made_in_float32_only():
    model = model_of((1, 128, 28, 28), 128, 5, [2, 2, 2, 2])
    assert rewrite(model, precision="int8")[1] == ()
    with pytest.raises(UsageError, match="winograd needs fp32, but got fp16"):
        rewrite(model, RewriteOptions("winograd"), precision="fp16")
