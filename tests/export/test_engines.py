"""Bundles with engines of TensorRT-RTX, from the export to what stands in the manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import pytest

from depthmask.bundle import open_bundle, record_files, write_manifest
from depthmask.engine import TRUST_VARIABLE, EngineHeader, rebuild_command
from depthmask.errors import (
    CheckFailedError,
    InputError,
    OutputError,
    UnavailableError,
    UsageError,
)
from depthmask.export import engines, export_chain, verify_bundle
from depthmask.export.engines import EngineOptions
from depthmask.export.targets import rebuild
from depthmask.export.tensorrt_builder import BuildFlags, Built
from depthmask.frames import Resolution

SMALL = Resolution(32, 32)


def for_gpus(*architectures, **options):
    return EngineOptions(flavour="tensorrt-rtx", architectures=architectures, **options)


@pytest.fixture(scope="module", autouse=True)
def tensorrt_rtx():
    return pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")


@pytest.fixture(scope="module")
def engine_bundle(tiny_chain, trace, tmp_path_factory):
    """Of two resolutions; read-only by agreement."""
    return export_chain(
        tiny_chain,
        tmp_path_factory.mktemp("engines") / "b",
        resolution=(SMALL, Resolution(48, 64)),
        precision="fp16",
        target=for_gpus("sm86", "sm89"),
        trace=trace,
    )


@pytest.fixture
def copied(engine_bundle, tmp_path):
    return shutil.copytree(engine_bundle.path, tmp_path / "b")


def test_every_graph_has_an_engine_and_says_what_it_is_for(engine_bundle, tensorrt_rtx):
    headers = engine_bundle.manifest.engines
    assert [header.file for header in headers] == ["model-32.engine", "model.engine"]
    for header, graph in zip(headers, engine_bundle.manifest.graphs, strict=True):
        assert header.flavour == "tensorrt-rtx"
        assert header.version == tensorrt_rtx.__version__
        assert header.architectures == ("sm86", "sm89")
        assert header.precision == "fp16"
        assert not header.verified
        for name, sha256 in header.onnx.items():
            content = (engine_bundle.path / name).read_bytes()
            assert sha256 == hashlib.sha256(content).hexdigest()
        assert set(header.onnx) == {graph.file, "weights.bin"}
        assert (engine_bundle.path / header.file).stat().st_size == header.size_bytes


def test_the_header_beside_an_engine_is_the_manifests(engine_bundle):
    import msgspec

    for header in engine_bundle.manifest.engines:
        beside = (engine_bundle.path / header.file).with_suffix(".engine.json").read_bytes()
        assert msgspec.json.decode(beside, type=EngineHeader) == header


def test_a_bundle_with_engines_is_checked_whole(copied):
    assert open_bundle(copied).manifest.engines
    content = bytearray((copied / "model.engine").read_bytes())
    content[len(content) // 2] ^= 1
    (copied / "model.engine").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.engine must be what was exported"):
        open_bundle(copied)


def test_the_onnx_of_a_bundle_with_engines_still_runs(engine_bundle):
    assert verify_bundle(engine_bundle, runtime="onnxruntime")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_open_sides_are_a_profile(tiny_chain, trace, tmp_path, precision):
    bundle = export_chain(
        tiny_chain,
        tmp_path / "b",
        resolution=SMALL,
        precision=precision,
        dynamic_batch=True,
        target=for_gpus("sm89", largest_batch=4, largest=Resolution(1080, 1920)),
        trace=trace,
    )
    frame = bundle.manifest.engines[0].inputs["frame"]
    assert frame.smallest == (1, 1, 1, 3)
    assert frame.best == (1, 480, 640, 3)
    assert frame.largest == (4, 1080, 1920, 3)


def test_a_dynamic_resolution_is_a_profile(tiny_chain, trace, tmp_path):
    bundle = export_chain(
        tiny_chain,
        tmp_path / "b",
        resolution=Resolution(64, 96),
        input="image",
        dynamic_resolution=True,
        target=for_gpus("sm120", largest=Resolution(256, 512)),
        trace=trace,
    )
    image = bundle.manifest.engines[0].inputs["image"]
    assert image.smallest == (1, 3, 64, 64)
    assert image.best == (1, 3, 64, 96)
    assert image.largest == (1, 3, 256, 512)


def test_rebuilding_replaces_the_engines_and_nothing_else(copied, engine_bundle):
    bundle = rebuild(copied, for_gpus("sm120"))
    before, after = engine_bundle.manifest, open_bundle(copied).manifest
    assert {header.architectures for header in after.engines} == {("sm120",)}
    assert after.graphs == before.graphs
    kept = {name for name in before.files if ".engine" not in name}
    assert {name: after.files[name] for name in kept} == {name: before.files[name] for name in kept}
    assert set(after.files) == set(before.files)
    assert bundle.manifest == after


def test_engines_are_not_built_for_a_precision_that_they_do_not_compute_in(
    copied, tiny_chain, tmp_path
):
    manifest = msgspec.structs.replace(open_bundle(copied).manifest, precision="bf16")
    write_manifest(copied, manifest)
    with pytest.raises(UsageError, match=r"in bf16 is for openvino, .* but got --to tensorrt-rtx"):
        rebuild(copied, for_gpus("sm120"))
    with pytest.raises(UsageError, match=r"in bf16 is for openvino, .* but got --to tensorrt-rtx"):
        export_chain(
            tiny_chain,
            tmp_path / "new",
            resolution=Resolution(32, 32),
            precision="bf16",
            target=for_gpus("sm120"),
        )


def test_a_failed_rebuild_leaves_the_bundle_as_it_was(copied, monkeypatch):
    def fail(*arguments, **options):
        raise CheckFailedError("cannot build")

    before = {path.name: path.read_bytes() for path in copied.iterdir()}
    monkeypatch.setattr(engines, "build", fail)
    with pytest.raises(CheckFailedError, match="cannot build"):
        rebuild(copied, for_gpus("sm120"))
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == before
    assert [path.name for path in copied.parent.iterdir()] == ["b"]


def test_what_cannot_be_built_here_is_said_before_any_work(tiny_chain, tmp_path, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("work was done")

    monkeypatch.setattr(engines, "cuda_problem", lambda: "there is no NVIDIA driver")
    for options, error, words in [
        (for_gpus(), UsageError, "needs --gpu with one or more of sm75,"),
        (for_gpus("sm1"), UsageError, "but got 'sm1'"),
    ]:
        with pytest.raises(error, match=words):
            export_chain(tiny_chain, tmp_path / "b", target=options, trace=never)
    monkeypatch.setattr(engines, "require", lambda name: None)
    target = EngineOptions(flavour="tensorrt")
    with pytest.raises(
        UnavailableError, match=r"there is no NVIDIA driver\. Try --to tensorrt-rtx"
    ):
        export_chain(tiny_chain, tmp_path / "b", target=target, trace=never)
    assert not (tmp_path / "b").exists()


def test_tensorrt_takes_no_architectures():
    with pytest.raises(UsageError, match="builds for the GPU of the machine"):
        EngineOptions(flavour="tensorrt", architectures=("sm86",))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--timing-cache", "t"), "times no kernels when it builds"),
        (("--hardware-compatible", "ampere-plus"), "every architecture that --gpu names"),
        (("--version-compatible",), "comes without the lean runtime"),
        (("--strip-weights",), "strips weights only on a GPU"),
    ],
)
def test_what_only_tensorrt_has_is_refused_by_rtx_in_a_line(dmx_inside, arguments, words):
    code, _, error = dmx_inside("export", "--to", "tensorrt-rtx", "--gpu", "sm89", *arguments)
    assert (code, error.count("\n")) == (2, 1)
    assert words in error
    assert "Try --to tensorrt" in error


def test_flags_are_in_the_header_and_in_the_command_that_builds_again(copied, monkeypatch):
    asked = []

    def build(trt, model, range_of, *, flags, **options):
        asked.append(flags)
        return Built(memoryview(b"plan"), {}, (), 0.1, ())

    monkeypatch.setattr(engines, "build", build)
    monkeypatch.setattr(engines, "require", lambda name: None)
    monkeypatch.setattr(engines, "cuda_problem", lambda: None)
    monkeypatch.setattr(engines, "cuda_architecture", lambda: "sm86")
    monkeypatch.setattr(engines, "import_tensorrt", lambda _: SimpleNamespace(__version__="11.4.0"))
    trusting = []
    monkeypatch.setattr(
        engines, "verify_bundle", lambda *_, **__: trusting.append(os.environ.get(TRUST_VARIABLE))
    )
    flags = BuildFlags(
        timing_cache=copied.parent / "t.cache",
        version_compatible=True,
        hardware_compatibility="ampere-plus",
        strip_weights=True,
    )
    with pytest.raises(AttributeError):  # None is no report
        rebuild(copied, EngineOptions(flavour="tensorrt", flags=flags))
    monkeypatch.setattr(engines, "verify_bundle", lambda *_, **__: True)
    monkeypatch.setattr(engines, "inspect_engine", lambda trt, plan, product: "{}")
    rebuild(copied, EngineOptions(flavour="tensorrt", flags=flags))
    assert set(asked) == {flags}
    assert (trusting, os.environ.get(TRUST_VARIABLE)) == (["1"], None)
    header = open_bundle(copied).manifest.engines[0]
    assert (header.hardware_compatibility, header.version_compatible) == ("ampere-plus", True)
    assert header.stripped
    assert rebuild_command(copied, header).endswith(
        "--to tensorrt --hardware-compatible ampere-plus --version-compatible --strip-weights"
    )
    missing = BuildFlags(timing_cache=copied / "no" / "t.cache")
    with pytest.raises(OutputError, match=r"t\.cache cannot be written"):
        rebuild(copied, EngineOptions(flavour="tensorrt", flags=missing))


def test_engines_are_verified_where_their_gpu_is(copied, monkeypatch):
    asked = []

    def verified(bundle, **options):
        asked.append((bundle.manifest.engines[0].architectures, options["runtime"]))
        return True

    monkeypatch.setattr(engines, "cuda_problem", lambda: None)
    monkeypatch.setattr(engines, "cuda_architecture", lambda: "sm89")
    monkeypatch.setattr(engines, "verify_bundle", verified)
    monkeypatch.setattr(engines, "inspect_engine", lambda trt, plan, product: '{"Layers": []}')
    bundle = rebuild(copied, for_gpus("sm86"))
    assert not bundle.manifest.engines[0].verified
    bundle = rebuild(copied, for_gpus("sm86", "sm89"))
    assert all(header.verified for header in bundle.manifest.engines)
    assert json.loads((copied / "model.engine.json").read_text())["verified"]
    assert asked == [(("sm86", "sm89"), "tensorrt-rtx")]
    assert json.loads((copied / "model.engine.inspector.json").read_text()) == {"Layers": []}


def test_the_command_rebuilds_and_prints(copied, dmx_inside):
    code, out, error = dmx_inside(
        "export", "--rebuild", copied, "--to", "tensorrt-rtx", "--gpu", "sm80,sm121", "--json"
    )
    assert (code, json.loads(out)["engines"][0]["architectures"]) == (0, ["sm80", "sm121"]), error
    code, out, error = dmx_inside("inspect", copied)
    assert code == 0
    assert "TensorRT-RTX" in out
    assert "sm80, sm121" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--gpu", "sm86"), "--gpu is of engines, but --to is onnx"),
        (("--largest", "64"), "--largest is of --dynamic-resolution"),
        (("--rebuild", "b"), "--rebuild needs --to tensorrt, tensorrt-rtx, web or triton"),
        (("--rebuild", "b", "--to", "tensorrt-rtx", "--fp16"), "but got --fp16"),
        (("--to", "tensorrt", "--gpu", "sm86"), "builds for the GPU of the machine"),
    ],
)
def test_options_that_would_not_be_heeded_are_refused(dmx_inside, arguments, words):
    code, _, error = dmx_inside("export", *arguments)
    assert code == 2
    assert words in error


def test_inspect_tells_the_layers_and_their_precision_without_a_gpu(engine_bundle, dmx_inside):
    code, out, error = dmx_inside("inspect", engine_bundle.path, "--layers", "--json")
    assert code == 0, error
    layers = json.loads(out)["layers"]["model.engine"]
    convolutions = [layer for layer in layers if layer["kind"] == "CONVOLUTION"]
    assert convolutions
    assert all(layer["precisions"] == ["HALF"] for layer in convolutions)
    code, out, _ = dmx_inside("inspect", engine_bundle.path)
    assert f"model.engine: {len(layers)} layers before fusion, on the GPU but for sizes:" in out
    assert "CONVOLUTION" not in out


def test_inspect_has_no_layers_of_a_bundle_without_engines(dmx_inside, tiny_bundle_path, copied):
    code, _, error = dmx_inside("inspect", tiny_bundle_path, "--layers")
    assert code == 2
    assert "has none" in error
    manifest = open_bundle(copied).manifest
    (copied / "model.engine.layers.json").write_text("[1]")
    write_manifest(copied, msgspec.structs.replace(manifest, files=record_files(copied)))
    code, _, error = dmx_inside("inspect", copied)
    assert code == 3
    assert "must list the engine's layers" in error


WITHOUT_TORCH = """
import sys
sys.modules |= dict.fromkeys(["torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime"])
from depthmask.cli import main
main(sys.argv[1:])
"""


def test_rebuilding_needs_no_torch_and_no_onnx(copied):
    command = ["export", "--rebuild", str(copied), "--to", "tensorrt-rtx", "--gpu", "sm89"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {header.architectures for header in open_bundle(copied).manifest.engines} == {("sm89",)}
