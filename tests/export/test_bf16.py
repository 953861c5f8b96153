from __future__ import annotations

import shutil

import msgspec
import numpy as np
import onnx
import pytest

from depthmask import Pipeline
from depthmask.bundle import Bundle, open_bundle, record_files
from depthmask.errors import UnavailableError
from depthmask.export import export_chain, verify_bundle
from depthmask.export.reference import Reference
from depthmask.frames import Resolution
from depthmask.runtimes import for_precision, openvino_runtime

SMALL = Resolution(32, 48)
NETWORKS = ("--mask", "tiny_networks:TinyMask", "--depth", "tiny_networks:TinyDepth", "--init", 0)


pytest.importorskip("openvino", reason="needs the extra openvino")


def bf16_problem():
    try:
        openvino_runtime.require_bf16()
    except UnavailableError as error:
        return str(error)
    return None


needs_bf16 = pytest.mark.skipif(bf16_problem() is not None, reason=f"no bf16: {bf16_problem()}")


@pytest.fixture(scope="module", params=["frame", "image"])
def bf16_bundle(request, tiny_chain, trace, tmp_path_factory):
    out = tmp_path_factory.mktemp("bf16") / request.param
    return export_chain(
        tiny_chain, out, resolution=SMALL, precision="bf16", input=request.param, trace=trace
    )


@needs_bf16
def test_the_networks_are_computed_in_bf16_and_the_preprocessing_is_not(bf16_bundle):
    with Pipeline.open(bf16_bundle.path) as pipeline:
        assert pipeline.runtime.name == "openvino"
        assert pipeline.runtime.precisions["bf16"] >= 4  # the convolutions
        reference = Reference.load(bf16_bundle.path / "reference.npz", [SMALL])
        found = [pipeline.runtime.run(_inputs(pipeline, frame)) for frame in reference.frames]
    in_fp32 = Bundle(
        bf16_bundle.path, msgspec.structs.replace(bf16_bundle.manifest, precision="fp32")
    )
    as_fp32 = openvino_runtime.open_runtime(in_fp32, SMALL, "cpu", None)
    assert not as_fp32.precisions["bf16"]
    for outputs, frame in zip(found, reference.frames, strict=True):
        exact = as_fp32.run(_inputs(pipeline, frame))
        for name in ("mask", "depth"):
            span = np.ptp(exact[name]) or 1.0
            difference = np.abs(outputs[name] - exact[name]).max() / span
            if frame.min() < frame.max():
                assert difference > 1e-5
            # 8 bits: a step is 2**-8 of a value; positions in bf16 would be off by whole pixels.
            assert np.abs(outputs[name] - exact[name]).max() < 0.05 * np.abs(exact[name]).max()


def _inputs(pipeline, frame):
    from depthmask.frames import to_network

    if pipeline.manifest.input == "frame":
        return {"frame": frame[None]}
    return {"image": to_network(frame[None], SMALL, pipeline.manifest.normalisation)}


@needs_bf16
def test_a_bf16_bundle_holds_an_fp32_graph_and_is_judged_by_its_mean_difference(bf16_bundle):
    graph = onnx.load(bf16_bundle.model_path()).graph
    types = {item.data_type for item in graph.initializer}
    assert onnx.TensorProto.BFLOAT16 not in types
    assert bf16_bundle.manifest.precision == "bf16"
    assert bf16_bundle.manifest.graphs[0].parity["runtime"] == "openvino"
    assert verify_bundle(bf16_bundle)


@needs_bf16
def test_a_wrong_bf16_bundle_is_found_and_blamed(bf16_bundle, tiny_chain, tmp_path):
    shutil.copytree(bf16_bundle.path, tmp_path / "b")
    path = tmp_path / "b" / "model.onnx"
    model = onnx.load(path)
    convolution = [n for n in model.graph.node if n.op_type == "Conv"][-1]
    (weight,) = [i for i in model.graph.initializer if i.name == convolution.input[1]]
    array = onnx.numpy_helper.to_array(weight) * 4
    weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, path)
    manifest = msgspec.structs.replace(bf16_bundle.manifest, files=record_files(tmp_path / "b"))
    report = verify_bundle(Bundle(tmp_path / "b", manifest), chain=tiny_chain)
    assert not report
    assert "depth_abs_rel" in report.failures()[-1]
    assert report.parities[0].blame.stage == "depth"
    assert report.parities[0].blame.node == convolution.name


@needs_bf16
def test_onnxruntime_refuses_the_bundle(bf16_bundle):
    with pytest.raises(UnavailableError, match=r"onnxruntime cannot\. Try --runtime openvino"):
        Pipeline.open(bf16_bundle.path, "onnxruntime")


def test_a_cpu_without_bf16_is_refused_before_anything_is_done(dmx_inside, tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_runtime, "_cpu_flags", lambda: frozenset({"avx512f"}))
    code, _, err = dmx_inside("export", *NETWORKS, "--bf16", "--out", tmp_path / "b")
    assert (code, err.count("\n")) == (4, 1)
    assert "avx512_bf16 or amx_bf16" in err
    assert not (tmp_path / "b").exists()


@needs_bf16
def test_a_bundle_taken_to_a_cpu_without_bf16_is_refused(bf16_bundle, dmx_inside, monkeypatch):
    monkeypatch.setattr(openvino_runtime, "_cpu_flags", frozenset)
    code, _, err = dmx_inside("verify", bf16_bundle.path)
    assert (code, "avx512_bf16" in err) == (4, True)


@needs_bf16
def test_an_openvino_that_computes_nothing_in_bf16_is_refused(bf16_bundle, monkeypatch):
    compile_for_cpu = openvino_runtime.compile_for_cpu
    monkeypatch.setattr(
        openvino_runtime,
        "compile_for_cpu",
        lambda model, threads, **_: compile_for_cpu(model, threads),
    )
    with pytest.raises(UnavailableError, match="must be computed in it"):
        Pipeline.open(bf16_bundle.path)


@needs_bf16
def test_dmx_export_bf16_and_what_knows_the_bundle(dmx_inside, tmp_path):
    options = ("--resolution", "32x48", "--bf16", "--out", tmp_path / "b")
    code, _, err = dmx_inside("export", *NETWORKS, *options)
    assert code == 0, err
    assert open_bundle(tmp_path / "b").manifest.precision == "bf16"
    _, out, _ = dmx_inside("inspect", tmp_path / "b")
    assert "bf16" in out
    code, out, err = dmx_inside(
        "bench", tmp_path / "b", "--precisions", "bf16", "--seconds", 0.01, "--limit", 1, "--json",
        "--out", tmp_path / "bench.json",
    )  # fmt: skip
    assert code == 0, err
    cells = msgspec.json.decode((tmp_path / "bench.json").read_bytes())["cells"]
    assert {(cell["precision"], cell["runtime"]) for cell in cells} == {("bf16", "openvino")}


def test_one_precision_at_a_time(dmx_inside):
    code, _, err = dmx_inside("export", "--fp16", "--bf16")
    assert (code, "--fp16 and --bf16" in err) == (2, True)


def test_which_runtimes_compute_in_bf16():
    assert for_precision("bf16") == ("openvino", "torch")
    assert "onnxruntime" in for_precision("int8")
