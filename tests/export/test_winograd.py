from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from depthmask.export import winograd
from depthmask.export.onnx_files import to_bytes
from depthmask.export.rewrite import RewriteOptions, rewrite
from depthmask.export.winograd import transforms

FORMS = ("products", "strided")
CASES = {
    "whole tiles": ((1, 3, 8, 12), 4, (3, 3), {"pads": [1, 1, 1, 1]}),
    "incomplete tiles": ((1, 3, 7, 9), 4, (3, 3), {"pads": [1, 1, 1, 1]}),
    "five taps": ((1, 4, 11, 6), 3, (5, 5), {"pads": [2, 2, 2, 2]}),
    "even and unequal taps": ((1, 2, 9, 9), 3, (2, 5), {"pads": [1, 2, 0, 2]}),
    "no padding": ((1, 2, 9, 10), 3, (3, 3), {}),
    "uneven padding": ((1, 2, 6, 5), 3, (3, 3), {"pads": [0, 2, 1, 3]}),
    "dilated": ((1, 3, 28, 13), 5, (3, 3), {"pads": [4, 4, 4, 4], "dilations": [4, 4]}),
    "dilated unevenly": ((1, 3, 10, 13), 2, (3, 3), {"pads": [2, 3, 2, 3], "dilations": [2, 3]}),
    "a batch": ((3, 2, 6, 6), 4, (3, 3), {"pads": [1, 1, 1, 1]}),
    "one pixel": ((1, 2, 1, 1), 2, (3, 3), {"pads": [1, 1, 1, 1]}),
    "phases without outputs": (
        (1, 2, 3, 3),
        2,
        (3, 3),
        {"pads": [5, 5, 5, 5], "dilations": [5, 5]},
    ),
}


def model_of(shape, channels_out, taps, attributes, *, bias=True, seed=0):
    """x -> Conv with random weights -> y."""
    generator = np.random.default_rng(seed)

    def constant(name, *sides):
        array = generator.standard_normal(sides).astype(np.float32)
        return ir.Value(
            name=name,
            shape=ir.Shape(sides),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(array, name=name),
        )

    pads = attributes.get("pads", [0, 0, 0, 0])
    dilations = attributes.get("dilations", [1, 1])
    size = [
        shape[2 + axis] + pads[axis] + pads[2 + axis] - dilations[axis] * (taps[axis] - 1)
        for axis in (0, 1)
    ]
    x, y = (
        ir.Value(name=name, shape=ir.Shape(sides), type=ir.TensorType(ir.DataType.FLOAT))
        for name, sides in (("x", shape), ("y", (shape[0], channels_out, *size)))
    )
    constants = [constant("w", channels_out, shape[1] // attributes.get("group", 1), *taps)]
    if bias:
        constants.append(constant("b", channels_out))
    conv = ir.node("Conv", [x, *constants], attributes=attributes, outputs=[y], name="site/Conv")
    graph = ir.Graph(
        [x], [y], nodes=[conv], initializers=constants, opset_imports={"": 18}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def run(model, seed=1):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    x = np.random.default_rng(seed).standard_normal(source.shape).astype(np.float32)
    return session.run(["y"], {"x": x})[0]


def rewritten(model, form):
    found = model.clone()
    (site,) = winograd.find(found.graph)
    assert (form in winograd.forms(site)) == (form == "products" or site.dilations == (1, 1))
    winograd.apply(found.graph, site, form)
    assert all(node.name != "site/Conv" for node in found.graph)
    return found


@pytest.mark.parametrize("taps", [2, 3, 4, 5])
def test_the_theorem_holds_without_rounding(taps):
    outer_mt, filter_tr, inner_tt = transforms(taps)
    generator = np.random.default_rng(taps)
    signal, kernel = generator.standard_normal(3 + taps), generator.standard_normal(taps)
    found = outer_mt @ ((filter_tr @ kernel) * (inner_tt @ signal))
    np.testing.assert_allclose(found, np.correlate(signal, kernel, "valid"), atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("case", "form"),
    [
        (case, form)
        for case, (*_, attributes) in CASES.items()
        for form in FORMS
        if form == "products" or "dilations" not in attributes
    ],
)
def test_the_rewritten_graph_gives_the_same(case, bias, form):
    model = model_of(*CASES[case], bias=bias)
    expected, found = run(model), run(rewritten(model, form))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(20))
def test_random_graphs(seed, form):
    generator = np.random.default_rng(seed)
    taps = generator.integers(2, 6, 2)
    dilations = np.ones(2, int) if form == "strided" else generator.integers(1, 4, 2)
    pads = generator.integers(0, 5, 4)
    sides = dilations * (taps - 1) + generator.integers(1, 20, 2)
    shape = (*generator.integers(1, 4, 2).tolist(), *sides.tolist())
    attributes = {"pads": pads.tolist(), "dilations": dilations.tolist()}
    model = model_of(shape, int(generator.integers(1, 6)), taps.tolist(), attributes, seed=seed)
    expected, found = run(model), run(rewritten(model, form))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("taps", [3, 5])
def test_many_channels_round_little(taps, form):
    model = model_of((1, 256, 14, 14), 64, (taps, taps), {"pads": [taps // 2] * 4})
    expected, found = run(model), run(rewritten(model, form))
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


@pytest.mark.parametrize(
    ("taps", "attributes"),
    [
        ((1, 5), {}),
        ((7, 7), {}),
        ((3, 3), {"strides": [2, 2]}),
        ((3, 3), {"group": 2}),
        ((3, 3), {"auto_pad": "SAME_UPPER"}),
    ],
)
def test_what_the_theorem_does_not_cover_is_left(taps, attributes):
    assert not list(winograd.find(model_of((1, 4, 9, 9), 4, taps, attributes).graph))


def test_the_cost_model_takes_what_was_measured_to_pay():
    for channels, side, taps, wanted in (
        (512, 28, 3, ["products"]),
        (128, 112, 5, ["strided"]),
        (64, 224, 3, []),
    ):
        padded = {"pads": [taps // 2] * 4}
        model = model_of((1, channels, side, side), channels, (taps, taps), padded)
        _, records = rewrite(model)
        assert [record.form for record in records] == wanted


def test_the_filters_stay_as_they_are_in_the_file():
    model = model_of(*CASES["whole tiles"])
    for form in FORMS:
        assert "w" in rewritten(model, form).graph.initializers


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_coarser_types_do_without(precision):
    model = model_of((1, 512, 28, 28), 512, (3, 3), {"pads": [1, 1, 1, 1]})
    found, records = rewrite(model, RewriteOptions(names="winograd"), precision=precision)
    assert records == ()
    assert [node.op_type for node in found.graph] == ["Conv"]
