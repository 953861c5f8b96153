"""Every preset becomes an engine of TensorRT-RTX, in every precision, for one frame size and for many.

Tracing takes most of the time, of the two large presets the better part of a minute: these, and some
of lite-relevance's engines, are in `make test-slow`.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir
import pytest

from depthmask import chain
from depthmask.bundle import open_bundle
from depthmask.engine import ShapeRange
from depthmask.errors import CheckFailedError, InputError
from depthmask.export.onnx_files import to_bytes
from depthmask.export.pieces import load_graph
from depthmask.export.precision import to_fp16
from depthmask.export.quantise import Range, input_tensors, quantise
from depthmask.export.tensorrt_builder import Built, build
from depthmask.export.to_onnx import to_onnx
from depthmask.export.unsigned import held_tensors, quantise_unsigned
from depthmask.frames import Resolution

trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")

VGA = (1, 480, 640, 3)
PROFILES = {
    "static": ShapeRange(VGA, VGA, VGA),
    "dynamic": ShapeRange((1, 1, 1, 3), VGA, (1, 1080, 1920, 3)),
}
PRECISIONS = ("fp32", "fp16", "int8")
FAST = {("lite-relevance", "fp16", "dynamic"), ("lite-relevance", "int8", "static")}
CASES = [
    pytest.param(
        *case, marks=[] if preset == "lite" or case in FAST else pytest.mark.slow, id="-".join(case)
    )
    for preset in ("lite", "lite-relevance", "hu2019", "seed")
    for precision in PRECISIONS
    for shapes in PROFILES
    for case in [(preset, precision, shapes)]
]


@cache
def traced(preset: str) -> ir.Model:
    """Untrained; but for lite, which lies in a bundle, rewritten."""
    if preset == "lite":
        return load_graph(open_bundle(), Resolution(64, 64))
    return to_onnx(chain.build(preset, seed=0), Resolution(64, 64))


def ranges_of(model: ir.Model) -> dict[str, Range]:
    """Of what rounding takes; no calibration, for whether it builds hangs on no value."""
    return {
        name: Range(-4.0, 4.0)
        for stage in ("mask", "depth")
        for name in (*input_tensors(model, stage), *held_tensors(model, stage))
    }


def in_precision(preset: str, precision: str) -> ir.Model:
    model = traced(preset).clone()
    if precision == "fp16":
        return to_fp16(model)
    if precision == "int8":
        return quantise(model, ranges_of(model))
    return model


def build_model(folder, model: ir.Model, shapes: str = "static") -> Built:
    path = folder / "model.onnx"
    path.write_bytes(to_bytes(model))
    profile = PROFILES[shapes]
    return build(
        trt, path, lambda *_: profile, product="TensorRT-RTX", architectures=("sm86",), level=0
    )


@pytest.mark.parametrize(("preset", "precision", "shapes"), CASES)
def test_a_preset_is_built(preset, precision, shapes, tmp_path):
    built = build_model(tmp_path, in_precision(preset, precision), shapes)
    assert built.inputs["frame"] == PROFILES[shapes]
    convolutions = [layer for layer in built.layers if layer.kind == "CONVOLUTION"]
    assert len(convolutions) > 20
    kinds = {precision for layer in convolutions for precision in layer.precisions}
    assert kinds == {"HALF" if precision == "fp16" else "FLOAT"}
    rounded = [layer for layer in built.layers if layer.precisions == ("INT8",)]
    assert (len(rounded) >= len(convolutions)) == (precision == "int8")


def test_the_spelling_with_uint8_is_for_others(tmp_path):
    model = traced("lite").clone()
    spelled = quantise_unsigned(model, ranges_of(model))
    with pytest.raises((InputError, CheckFailedError), match=r"node \S+QuantizeLinear"):
        build_model(tmp_path, spelled)


def test_a_rounded_bias_is_refused_by_its_node(tmp_path):
    # What ONNX Runtime's own quantiser writes where it is not told otherwise.
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[1,3,8,8] x, float[4,3,3,3] w, int32[4] b, float s) => (float[1,4,6,6] y) {
            bias = DequantizeLinear(b, s)
            y = Conv(x, w, bias) }"""
    )
    values = {
        "w": np.zeros((4, 3, 3, 3), np.float32),
        "b": np.zeros(4, np.int32),
        "s": np.float32(0.1),
    }
    for value in [value for value in model.graph.inputs if value.name in values]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(values[value.name], name=value.name)
        model.graph.register_initializer(value)
    for node in model.graph:
        node.name = f"{node.outputs[0].name}/{node.op_type}"
    with pytest.raises((InputError, CheckFailedError), match="bias/DequantizeLinear"):
        build_model(tmp_path, model)
