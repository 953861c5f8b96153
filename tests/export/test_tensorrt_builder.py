"""Real engines, built by TensorRT-RTX, which needs no GPU for that (nothing here runs one)."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from depthmask.bundle import open_bundle
from depthmask.engine import ShapeRange
from depthmask.errors import CheckFailedError, InputError, UsageError
from depthmask.export import tensorrt_builder
from depthmask.export.calibration import LEAST_IMAGES, calibrate
from depthmask.export.onnx_files import to_bytes
from depthmask.export.pieces import load_graph
from depthmask.export.precision import to_fp16
from depthmask.export.quantise import quantise
from depthmask.export.tensorrt_builder import BuildFlags, architecture_names, build
from depthmask.frames import Resolution, read_image
from depthmask.samples import shipped_photos

trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")

GPU = ("sm89",)


def fixed(name, shape):
    raise AssertionError(f"{name} {shape} has no open side")


def frames(name, shape):
    assert (name, shape) == ("frame", (1, -1, -1, 3))
    return ShapeRange((1, 1, 1, 3), (1, 480, 640, 3), (1, 2160, 3840, 3))


def build_model(folder, model, range_of=fixed, **options):
    path = folder / "model.onnx"
    path.write_bytes(to_bytes(model) if isinstance(model, ir.Model) else model)
    options = {"architectures": GPU, "product": "TensorRT-RTX", **options}
    return build(trt, path, range_of, **options)


def graph(text, **weights):
    model = ir.from_onnx_text(text)
    for node in model.graph:
        node.name = f"{node.outputs[0].name}/{node.op_type}"
    for value in [value for value in model.graph.inputs if value.name in weights]:
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(weights[value.name], name=value.name)
        model.graph.register_initializer(value)
    return model


@pytest.fixture(scope="module")
def lite():
    return load_graph(open_bundle(), Resolution(64, 64))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_lite_is_built_in_every_precision(lite, tmp_path, precision):
    model = lite.clone()
    if precision == "fp16":
        model = to_fp16(model)
    if precision == "int8":
        batches = [{"frame": read_image(path)[None]} for path in shipped_photos()[:LEAST_IMAGES]]
        model = quantise(model, calibrate(model, batches))
        assert any(node.op_type == "QuantizeLinear" for node in model.graph)
    built = build_model(tmp_path, model, frames)
    weights = sum(value.const_value.nbytes for value in lite.graph.initializers.values())
    # Of the fp32 weights; TensorRT-RTX keeps some weights of an int8 graph as float32.
    least, most = {"fp32": (0.9, 1.2), "fp16": (0.45, 0.7), "int8": (0.22, 0.85)}[precision]
    assert least < built.plan.nbytes / weights < most
    assert built.inputs["frame"].best == (1, 480, 640, 3)


def test_an_engine_for_more_architectures_is_another_one(lite, tmp_path):
    one = build_model(tmp_path, lite, frames, architectures=("sm86",))
    two = build_model(tmp_path, lite, frames, architectures=("sm86", "sm89"))
    assert bytes(one.plan) != bytes(two.plan)


def test_open_sides_without_a_usable_range_are_refused(lite, tmp_path):
    def upside_down(name, shape):
        return ShapeRange((1, 64, 64, 3), (1, 480, 640, 3), (1, 32, 32, 3))

    with pytest.raises(UsageError, match="the best shape of frame must lie within"):
        build_model(tmp_path, lite, upside_down)


def test_an_unknown_architecture_is_refused_with_those_that_are_known(lite, tmp_path):
    assert {"sm75", "sm86", "sm89", "sm120"} <= set(architecture_names(trt))
    with pytest.raises(UsageError, match=r"a GPU must be one of sm75, .*, but got 'sm10'"):
        build_model(tmp_path, lite, frames, architectures=("sm10",))


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"TensorRT-RTX cannot take model\.onnx"):
        build_model(tmp_path, b"not a graph")


def test_an_unknown_operator_is_refused_by_its_node(tmp_path):
    model = graph(
        """<ir_version: 10, opset_import: ["" : 18, "mine" : 1]>
        g (float[1,3,8,8] x) => (float[1,3,8,8] y) { h = Relu(x)
            y = mine.Strange(h) }"""
    )
    with pytest.raises(InputError, match=r"node y/Strange \(Strange\): ") as caught:
        build_model(tmp_path, model)
    assert "\n" not in str(caught.value)


def test_types_that_are_mixed_without_a_cast_are_refused_by_their_node(tmp_path):
    model = graph(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[1,3,8,8] x, float16[1,3,8,8] z) => (float[1,3,8,8] y) { h = Relu(x)
            y = Add(h, z) }"""
    )
    with pytest.raises((InputError, CheckFailedError), match="node y/Add"):
        build_model(tmp_path, model)


def test_zero_points_other_than_zero_are_refused_by_their_node(tmp_path):
    model = graph(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[1,3,8,8] x, float s, int8 p) => (float[1,3,8,8] y) {
            q = QuantizeLinear(x, s, p)
            y = DequantizeLinear(q, s, p) }""",
        s=np.float32(0.1),
        p=np.int8(3),
    )
    with pytest.raises((InputError, CheckFailedError), match="q/QuantizeLinear"):
        build_model(tmp_path, model)


def test_warnings_are_kept_once(tmp_path):
    weights = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    model = graph(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[1,4] x, float[4,4] w, int64[2] s) => (float[2,2] y) {
            m = MatMul(x, w)
            y = Reshape(m, s) }""",
        w=weights,
        s=np.array([2, 2], np.int64),
    )
    built = build_model(tmp_path, model)
    assert len(built.warnings) == len(set(built.warnings))


def test_progress_names_phases_and_stays_quiet_otherwise(lite, tmp_path, capfd):
    phases = []
    build_model(tmp_path, lite, frames, progress=phases.append)
    assert phases[0] == "Building engine"
    assert "Optimizing graph" in phases
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_stops_the_build_at_its_next_step(lite, tmp_path):
    seen = []

    def press(phase):
        seen.append(phase)
        if phase == "Optimizing graph":
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build_model(tmp_path, lite, frames, progress=press)
    assert seen[-1] == "Optimizing graph"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_builds_in_a_thread_which_has_no_signals(lite, tmp_path):
    built = []
    thread = threading.Thread(target=lambda: built.append(build_model(tmp_path, lite, frames)))
    thread.start()
    thread.join(60)
    assert built[0].plan.nbytes > 0


def test_the_workspace_is_a_limit_that_holds(lite, tmp_path):
    assert build_model(tmp_path, lite, frames, workspace_mib=1024, level=0).plan.nbytes > 0
    with pytest.raises(CheckFailedError, match="OutOfMemory"):  # the largest frame alone is larger
        build_model(tmp_path, lite, frames, workspace_mib=16)


def test_a_graph_without_open_sides_needs_no_range(tmp_path):
    model = graph(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }"""
    )
    onnx.checker.check_model(onnx.load_from_string(to_bytes(model)))
    built = build_model(tmp_path, model)
    assert built.inputs == {"x": ShapeRange((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8))}


def test_what_an_architecture_lacks_is_said_by_its_node(lite, tmp_path):
    # Turing has no float32 matrix product in TensorRT-RTX, and our resize is one.
    with pytest.raises(CheckFailedError, match=r"node preprocess/MatMul: .*SM75"):
        build_model(tmp_path, lite, frames, architectures=("sm75",))


# TensorRT-RTX has these too, though no use for them: our calls are real, and its answers show that they came
# to it.


def build_relu(folder, **flags):
    model = graph(
        """<ir_version: 10, opset_import: ["" : 18]>
        g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }"""
    )
    return build_model(folder, model, flags=BuildFlags(**flags))


@pytest.mark.filterwarnings("ignore:.*iming cache operations are no-ops:DeprecationWarning")
def test_a_timing_cache_is_made_and_read_again(tmp_path):
    file = tmp_path / "kernels.cache"
    build_relu(tmp_path, timing_cache=file)
    first = file.read_bytes()
    assert len(first) > 100
    build_relu(tmp_path, timing_cache=file)
    assert file.read_bytes() == first


def test_a_timing_cache_of_another_gpu_is_refused(tmp_path):
    file = tmp_path / "kernels.cache"
    file.write_bytes(b"of another")
    for cache, fits in ((None, True), ("a cache", False)):
        config = SimpleNamespace(
            create_timing_cache=lambda content, cache=cache: content == b"of another" and cache,
            set_timing_cache=lambda cache, ignore_mismatch, fits=fits: fits,
        )
        with pytest.raises(InputError, match=r"kernels\.cache must be a timing cache of this GPU"):
            tensorrt_builder._read_timing_cache(config, file, "TensorRT")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        tensorrt_builder._read_timing_cache(config, tmp_path, "TensorRT")


def test_hardware_compatibility_comes_to_the_builder(tmp_path):
    for level in ("same-compute-capability", "ampere-plus"):
        built = build_relu(tmp_path, hardware_compatibility=level)
        assert any("setHardwareCompatibilityLevel" in warning for warning in built.warnings)
    assert not build_relu(tmp_path).warnings


def test_version_compatibility_comes_to_the_builder(tmp_path):
    with pytest.raises(CheckFailedError, match="nvinfer_lean"):
        build_relu(tmp_path, version_compatible=True)


def test_a_compatibility_that_tensorrt_is_too_old_for_is_said():
    old = SimpleNamespace(__version__="10.8.0", HardwareCompatibilityLevel=SimpleNamespace())
    flags = BuildFlags(hardware_compatibility="same-compute-capability")
    with pytest.raises(UsageError, match=r"needs a newer TensorRT than 10\.8\.0"):
        tensorrt_builder._set_flags(old, SimpleNamespace(), flags)


def test_stripping_sets_its_flags():
    set_flags = []
    config = SimpleNamespace(set_flag=set_flags.append)
    tensorrt_builder._set_flags(trt, config, BuildFlags(strip_weights=True))
    assert set_flags == [trt.BuilderFlag.STRIP_PLAN, trt.BuilderFlag.REFIT_IDENTICAL]
