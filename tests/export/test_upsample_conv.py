from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from depthmask.export import upsample_conv
from depthmask.export.onnx_files import to_bytes
from depthmask.export.resize_matrix import TRANSFORMATIONS, resize_matrix, shifted
from depthmask.export.upsample_conv import FORMS

CASES = {
    "scale 2": ((2, 3, 6, 5), (12, 10), [4], (5, 5)),
    "scale 16": ((1, 8, 2, 3), (32, 48), [2], (5, 5)),
    "odd sizes": ((1, 3, 7, 5), (15, 11), [2], (3, 3)),
    "no whole scale": ((1, 2, 5, 8), (13, 11), [3], (5, 3)),
    "smaller": ((1, 2, 9, 8), (5, 6), [3], (3, 3)),
    "same size": ((1, 2, 4, 4), (4, 4), [3], (3, 3)),
    "from one pixel": ((1, 2, 1, 1), (4, 6), [3], (5, 5)),
    "to one pixel": ((1, 2, 3, 4), (1, 1), [3], (3, 3)),
    "kernel larger than the map": ((1, 2, 1, 2), (2, 4), [3], (7, 7)),
    "two readers": ((2, 4, 6, 6), (12, 12), [3, 5], (5, 5)),
    "in blocks": ((1, 2, 61, 4), (122, 8), [2], (5, 5)),
    "in blocks both ways": ((1, 2, 45, 50), (90, 75), [2], (5, 3)),
    "in groups": ((1, 2, 41, 41), (82, 82), [30, 7], (5, 5)),
    "in blocks, batch 2": ((2, 2, 57, 3), (171, 5), [1, 2], (3, 3)),
}


def model_of(shape, size_out, channels_out, kernel, mode="half_pixel", *, seed=0, **settings):
    """x -> Resize -> as many convolutions as `channels_out` has numbers, with random weights."""
    generator = np.random.default_rng(seed)
    batch, channels, _, _ = shape
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    constants = []

    def constant(name, array):
        value = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            const_value=ir.tensor(array, name=name),
        )
        constants.append(value)
        return value

    def output(name, channels):
        return ir.Value(
            name=name,
            shape=ir.Shape((batch, channels, *size_out)),
            type=ir.TensorType(ir.DataType.FLOAT),
        )

    sizes = constant("sizes", np.array([batch, channels, *size_out], np.int64))
    resize = ir.node(
        "Resize",
        [x, None, None, sizes],
        attributes={"mode": "linear", "coordinate_transformation_mode": mode},
        outputs=[output("resized", channels)],
        name="up/Resize",
    )
    nodes, outputs = [resize], []
    rows, columns = kernel
    attributes = {"pads": [rows // 2, columns // 2] * 2, "kernel_shape": list(kernel), **settings}
    for number, count in enumerate(channels_out):
        weight = generator.standard_normal((count, channels, *kernel)).astype(np.float32)
        bias = generator.standard_normal(count).astype(np.float32)
        inputs = [resize.outputs[0], constant(f"w{number}", weight), constant(f"b{number}", bias)]
        outputs.append(output(f"y{number}", count))
        nodes.append(
            ir.node(
                "Conv", inputs, attributes=attributes, outputs=[outputs[-1]], name=f"up/{number}"
            )
        )
    graph = ir.Graph(
        [x], outputs, nodes=nodes, initializers=constants, opset_imports={"": 18}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def run(model, x):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(to_bytes(model), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x}), strict=True))


def rewritten(model, form):
    found = model.clone()
    (site,) = upsample_conv.find(found.graph)
    upsample_conv.apply(found.graph, site, form)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mode", ["half_pixel", "align_corners"])
@pytest.mark.parametrize("case", CASES)
def test_the_rewritten_graph_gives_the_same(case, mode, form):
    model = model_of(*CASES[case], mode)
    x = np.random.default_rng(1).standard_normal(CASES[case][0]).astype(np.float32)
    expected, found = run(model, x), run(rewritten(model, form), x)
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape
        assert np.abs(found[name] - values).max() <= 2e-6 * np.ptp(values)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("seed", range(12))
def test_random_graphs(seed, form):
    generator = np.random.default_rng(seed)
    h, w = generator.integers(1, 12, 2)
    shape = (int(generator.integers(1, 3)), int(generator.integers(1, 5)), int(h), int(w))
    size_out = tuple(int(side) for side in generator.integers(1, 40, 2))
    kernel = tuple(int(side) for side in generator.choice([1, 3, 5, 7], 2))
    mode = str(
        generator.choice(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
    )
    channels = [int(count) for count in generator.integers(1, 5, generator.integers(1, 3))]
    model = model_of(shape, size_out, channels, kernel, mode, seed=seed)
    x = generator.standard_normal(shape).astype(np.float32)
    expected, found = run(model, x), run(rewritten(model, form), x)
    for name, values in expected.items():
        assert np.abs(found[name] - values).max() <= 3e-6 * max(np.ptp(values), 1.0)


@pytest.mark.parametrize("form", FORMS)
def test_dilated_taps(form):
    model = model_of((1, 2, 5, 5), (10, 10), [3], (3, 3), dilations=[2, 2], pads=[2, 2, 2, 2])
    x = np.random.default_rng(1).standard_normal((1, 2, 5, 5)).astype(np.float32)
    expected, found = run(model, x), run(rewritten(model, form), x)
    assert np.abs(found["y0"] - expected["y0"]).max() <= 2e-6 * np.ptp(expected["y0"])


@pytest.mark.parametrize(
    "settings",
    [
        {"strides": [2, 2]},
        {"pads": [0, 0, 0, 0]},
        {"group": 2},
        {"mode": "tf_crop_and_resize"},
    ],
)
def test_what_the_theorem_does_not_cover_is_left_alone(settings):
    kernel, mode = (3, 3), settings.pop("mode", "half_pixel")
    model = model_of((1, 2, 4, 4), (8, 8), [2], kernel, mode, **settings)
    if "strides" in settings or "pads" in settings:
        model.graph.outputs[0].shape = ir.Shape((1, 2, 4 if "strides" in settings else 6, 4))
    assert not list(upsample_conv.find(model.graph))


def test_another_reader_of_the_resized_map_leaves_it_alone():
    model = model_of((1, 2, 4, 4), (8, 8), [2], (3, 3))
    (resize, *_) = model.graph
    model.graph.outputs.append(resize.outputs[0])
    assert not list(upsample_conv.find(model.graph))


def test_the_forms_do_less():
    model = model_of((1, 256, 7, 7), (112, 112), [16, 16], (5, 5))
    (site,) = upsample_conv.find(model.graph)
    assert site.name == "up"
    as_exported = upsample_conv.macs(site, None)
    assert as_exported == 112 * 112 * 25 * 256 * 32
    assert upsample_conv.macs(site, "matrix") < upsample_conv.macs(site, "half") < as_exported / 10
    assert upsample_conv.moved_floats(site, "matrix") < 112 * 112 * 256


@pytest.mark.parametrize("mode", TRANSFORMATIONS)
@pytest.mark.parametrize(("size_in", "size_out"), [(1, 4), (5, 13), (7, 14), (9, 4), (4, 1)])
def test_resize_matrices_are_weights(mode, size_in, size_out):
    matrix = resize_matrix(size_in, size_out, mode)
    assert matrix.shape == (size_out, size_in)
    assert np.allclose(matrix.sum(1), 1)
    assert (matrix >= 0).all()
    assert (np.count_nonzero(matrix, axis=1) <= 2).all()


def test_shifting_fills_with_zeros():
    matrix = np.arange(1.0, 7).reshape(3, 2)
    assert (shifted(matrix, 1) == [[3, 4], [5, 6], [0, 0]]).all()
    assert (shifted(matrix, -2) == [[0, 0], [0, 0], [1, 2]]).all()
    assert not shifted(matrix, 5).any()
