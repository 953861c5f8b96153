"""Where ONNX Runtime computes what, by real sessions, and its TensorRT provider up to what needs a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import msgspec
import numpy as np
import onnxruntime
import pytest

from depthmask import Pipeline, runtimes
from depthmask.bundle import Bundle, open_bundle
from depthmask.devices import cuda_problem
from depthmask.errors import UnavailableError, UsageError
from depthmask.frames import Resolution
from depthmask.runtimes import onnxruntime_tensorrt_runtime as provider
from depthmask.runtimes.graph_assignment import (
    RECORD_ENTRY,
    AssignedNode,
    assignment,
    elsewhere,
    in_words,
)
from depthmask.runtimes.onnxruntime_runtime import OnnxRuntimeOnDevice
from depthmask.runtimes.provider_libraries import linked_libraries, missing_libraries, package_for

SIZE = Resolution(48, 64)
# Of onnxruntime-gpu 1.31.1: what stands in its libonnxruntime_providers_tensorrt.so.
LIBRARIES_OF_1_31 = (
    "libcublas.so.13",
    "libcudart.so.13",
    "libcudnn.so.9",
    "libnvinfer.so.10",
    "libnvinfer_plugin.so.10",
    "libnvonnxparser.so.10",
)
OPTIONS_OF_1_31 = frozenset(
    """trt_auxiliary_streams trt_bf16_enable trt_build_heuristics_enable trt_builder_optimization_level
    trt_context_memory_sharing_enable trt_cuda_graph_enable trt_detailed_build_log trt_engine_cache_enable
    trt_engine_cache_path trt_engine_cache_prefix trt_engine_hw_compatible trt_fp16_enable trt_int8_enable
    trt_layer_norm_fp32_fallback trt_max_partition_iterations trt_max_workspace_size trt_min_subgraph_size
    trt_op_types_to_exclude trt_profile_max_shapes trt_profile_min_shapes trt_profile_opt_shapes
    trt_sparsity_enable trt_tactic_sources trt_timing_cache_enable trt_timing_cache_path
    trt_weight_stripped_engine_enable""".split()  # noqa: SIM905  (a page long else)
)


def cpu_session(path, *entries):
    options = onnxruntime.SessionOptions()
    for entry in entries:
        options.add_session_config_entry(*entry)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def nodes(tiny_bundle_path):
    path = open_bundle(tiny_bundle_path).model_path(SIZE)
    return assignment(cpu_session(path, RECORD_ENTRY))


def test_a_session_tells_which_provider_computes_each_node(nodes):
    assert {node.provider for node in nodes} == {"CPUExecutionProvider"}
    assert {"Conv", "Shape", "Sigmoid"} <= {node.op_type for node in nodes}
    assert len({node.name for node in nodes}) == len(nodes)


def test_what_is_on_another_provider_is_found_but_for_the_arithmetic_of_sizes(nodes):
    assert elsewhere(nodes, "CPUExecutionProvider") == ()
    strange = elsewhere(nodes, "CUDAExecutionProvider")
    assert {"Conv", "Sigmoid"} <= {node.op_type for node in strange}
    assert "Shape" not in {node.op_type for node in strange}
    moved = AssignedNode("a", "Shape", "CUDAExecutionProvider")
    assert elsewhere([moved], "TensorrtExecutionProvider") == (moved,)


def test_what_is_elsewhere_is_listed_by_provider():
    listed = [AssignedNode(f"n{i}", "Conv", "CPUExecutionProvider") for i in range(5)]
    listed.append(AssignedNode("d", "Det", "CUDAExecutionProvider"))
    assert (
        in_words(listed) == "to the CPU: Conv (nodes n0, n1, n2 and 2 more); to CUDA: Det (nodes d)"
    )
    assert in_words([]) == ""


def test_an_onnxruntime_that_does_not_tell_is_refused():
    with pytest.raises(UnavailableError, match=r"must be 1\.24 or newer"):
        assignment(SimpleNamespace())


def test_linked_libraries_are_read_and_the_missing_have_their_package(tmp_path):
    library = tmp_path / "provider.so"
    names = [name.encode() for name in (*LIBRARIES_OF_1_31, "libm.so.6", "libcudnn.so")]
    library.write_bytes(b"\x7fELF\0" + b"\0".join((*names, names[0])) + b"\0")
    linked = linked_libraries(library)
    assert linked == LIBRARIES_OF_1_31
    assert linked_libraries(tmp_path / "none") == ()
    assert missing_libraries(("libm.so.6", "libnvinfer.so.1234")) == ("libnvinfer.so.1234",)
    assert package_for(("libnvonnxparser.so.10",), linked) == "'tensorrt-cu13==10.*'"
    assert package_for(("libcudart.so.13",), linked) == "'onnxruntime-gpu[cuda,cudnn]'"


def test_the_real_library_of_onnxruntime_has_no_tensorrt_here():
    folder = Path(onnxruntime.__file__).parent / "capi"
    if (folder / provider._LIBRARY).exists():
        pytest.skip("onnxruntime-gpu is installed")
    assert linked_libraries(folder / provider._LIBRARY) == ()


def test_without_tensorrt_the_command_names_the_package_in_a_line(dmx_inside, tmp_path, frame_HW3):
    if runtimes.is_installed(provider.NAME):
        pytest.skip("tensorrt is installed")
    cv2.imwrite(str(tmp_path / "photo.png"), frame_HW3)
    code, _, error = dmx_inside(
        "run", "--runtime", provider.NAME, "--source", tmp_path, "--out", tmp_path / "o"
    )
    assert (code, error.count("\n")) == (4, 1)
    assert "needs the package tensorrt, which is not installed. Try `pip install 'depth" in error


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine that claims a GPU, TensorRT 10 and its libraries; tells what the session was opened with."""

    def make(bundle_path, *, linked=(), on_provider=None, providers=(provider.PROVIDER,)):
        asked = {}
        capi = tmp_path / "ort" / "capi"
        capi.mkdir(parents=True, exist_ok=True)
        (capi / provider._LIBRARY).write_bytes(b"\0".join(name.encode() for name in linked))

        def make_session(path, options, **settings):
            asked.update(settings, path=path)
            session = cpu_session(path, RECORD_ENTRY)
            if on_provider is not None:
                info = [SimpleNamespace(ep_name=provider.PROVIDER, get_nodes=lambda: on_provider)]
                session.get_provider_graph_assignment_info = lambda: info
            session.get_providers = lambda: [provider.PROVIDER]
            return session

        ort = SimpleNamespace(
            __version__="1.32.0",
            __file__=str(tmp_path / "ort" / "__init__.py"),
            get_available_providers=lambda: list(providers),
            preload_dlls=lambda msvc: print("Failed to load libcudnn.so.9"),
            SessionOptions=onnxruntime.SessionOptions,
            InferenceSession=make_session,
        )
        monkeypatch.setenv("DEPTHMASK_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
        monkeypatch.setattr(runtimes, "is_installed", lambda name: True)
        monkeypatch.setattr(provider, "cuda_problem", lambda: None)
        monkeypatch.setattr(provider, "cuda_architecture", lambda: "sm86")
        monkeypatch.setattr(provider, "import_onnxruntime", lambda: ort)
        trt = SimpleNamespace(__version__="10.9.0.34")
        monkeypatch.setattr(provider, "import_tensorrt", lambda flavour: trt)
        monkeypatch.setattr(
            provider,
            "OnnxRuntimeOnDevice",
            lambda _, session, device, name, **said: OnnxRuntimeOnDevice(
                onnxruntime, session, "cpu", name, **said
            ),
        )
        return asked

    return make


def opened_with(path, **options):
    return Pipeline.open(path, provider.NAME, resolution=SIZE, **options)


def test_a_whole_graph_runs_warmed_up_with_the_graphs_own_precision(
    machine, tiny_bundle_path, frame_HW3, capsys, monkeypatch
):
    node = SimpleNamespace(name="a", op_type="Conv")
    asked = machine(tiny_bundle_path, on_provider=[node])
    shapes = []
    run = OnnxRuntimeOnDevice.run
    monkeypatch.setattr(
        OnnxRuntimeOnDevice,
        "run",
        lambda self, inputs: shapes.append(inputs["frame"].shape) or run(self, inputs),
    )
    with (
        opened_with(tiny_bundle_path) as pipeline,
        Pipeline.open(tiny_bundle_path, "onnxruntime", "cpu", resolution=SIZE) as cpu,
    ):
        assert shapes == [(1, 480, 640, 3)]
        found, expected = pipeline(frame_HW3), cpu(frame_HW3)
    np.testing.assert_array_equal(found.depth_HW, expected.depth_HW)
    assert pipeline.runtime.name == provider.NAME
    [(name, settings)] = asked["providers"]
    assert name == provider.PROVIDER
    assert asked["enable_fallback"] == 0
    assert (settings["trt_fp16_enable"], settings["trt_int8_enable"]) == ("0", "0")
    assert settings["trt_profile_min_shapes"] == "frame:1x1x1x3"
    assert settings["trt_profile_max_shapes"] == "frame:1x2160x3840x3"
    assert all(isinstance(value, str) for value in settings.values())
    assert capsys.readouterr().out == ""


def test_nodes_that_tensorrt_leaves_to_others_are_refused_by_name_or_said(
    machine, tiny_bundle_path, frame_HW3
):
    asked = machine(tiny_bundle_path)
    with pytest.raises(UnavailableError, match=r"to the CPU: .*Conv") as caught:
        opened_with(tiny_bundle_path)
    assert "Try --allow-fallback" in str(caught.value)
    with opened_with(tiny_bundle_path, allow_fallback=True) as pipeline:
        assert np.isfinite(pipeline(frame_HW3).depth_HW).all()
        assert "to the CPU: " in pipeline.runtime.elsewhere
    assert asked["providers"][1:] == ["CUDAExecutionProvider"]


def test_inspect_lists_what_computes_each_node(machine, tiny_bundle_path, dmx_inside):
    machine(tiny_bundle_path)
    arguments = ("inspect", tiny_bundle_path, "--placed-by", provider.NAME)
    code, out, error = dmx_inside(*arguments, "--json")
    assert code == 0, error
    placed = json.loads(out)["placed"]
    assert set(placed) == {"model.onnx", "model-32.onnx"}
    assert {node["provider"] for node in placed["model.onnx"]} == {"CPUExecutionProvider"}
    assert "Conv" in {node["op_type"] for node in placed["model.onnx"]}
    code, out, _ = dmx_inside(*arguments)
    assert f"{len(placed['model.onnx'])} by CPUExecutionProvider" in out


def test_inspect_without_a_gpu_says_so(dmx_inside, tiny_bundle_path):
    if cuda_problem() is None:
        pytest.skip("this machine has a GPU")
    code, _, error = dmx_inside("inspect", tiny_bundle_path, "--placed-by", "onnxruntime")
    assert code == 4
    assert "there is no NVIDIA driver" in error


def test_a_fallback_is_onnxruntimes_alone(tiny_bundle_path):
    with pytest.raises(UsageError, match="openvino runs the whole graph"):
        Pipeline.open(tiny_bundle_path, "openvino", "cpu", allow_fallback=True)


def test_what_is_missing_is_named_with_what_has_it(machine, tiny_bundle_path):
    machine(tiny_bundle_path, linked=("libnvinfer.so.1010", "libcublas.so.1313", "libm.so.6"))
    with pytest.raises(UnavailableError) as caught:
        opened_with(tiny_bundle_path)
    text = str(caught.value)
    assert "needs libcublas.so.1313, libnvinfer.so.1010, which cannot be loaded" in text
    assert "`pip install 'tensorrt-cu1313==1010.*' 'onnxruntime-gpu[cuda,cudnn]'`" in text
    machine(tiny_bundle_path, providers=("CPUExecutionProvider",))
    with pytest.raises(UnavailableError, match="built without TensorRT"):
        opened_with(tiny_bundle_path)
    with pytest.raises(UnavailableError, match="has GPUs only"):
        opened_with(tiny_bundle_path, device="cpu")


def test_engines_are_kept_apart_by_versions_architecture_graph_and_shapes(
    machine, tiny_bundle_path, monkeypatch
):
    machine(tiny_bundle_path)
    bundle = open_bundle(tiny_bundle_path)

    def folder(found: Bundle, size=SIZE, versions="a-1-b-2"):
        return Path(provider.provider_options(found, size, versions)["trt_engine_cache_path"])

    batched = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, dynamic_batch=True))
    folders = [
        folder(bundle),
        folder(bundle, Resolution(32, 32)),
        folder(bundle, versions="a-1-b-3"),
        folder(batched),
    ]
    monkeypatch.setattr(provider, "cuda_architecture", lambda: "sm89")
    folders.append(folder(bundle))
    assert len(set(folders)) == 5
    assert all(path.is_dir() for path in folders)
    assert folder(bundle) == folders[-1]
    assert folders[-1].parent.name == "sm89"


def test_the_provider_knows_every_option_that_it_is_given(machine, tiny_bundle_path):
    machine(tiny_bundle_path)
    given = provider.provider_options(open_bundle(tiny_bundle_path), SIZE, "v")
    assert given.keys() - {"device_id"} <= OPTIONS_OF_1_31


def test_fixed_shapes_need_no_profile(machine, tiny_bundle_path):
    machine(tiny_bundle_path)
    bundle = open_bundle(tiny_bundle_path)
    image = Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, input="image"))
    settings = provider.provider_options(image, SIZE, "v")
    assert not [name for name in settings if "profile" in name]


def test_it_runs_only_where_it_is_named(tiny_bundle_path, monkeypatch):
    monkeypatch.setattr(runtimes, "is_installed", lambda name: name != "onnxruntime")
    assert runtimes.choose(open_bundle(tiny_bundle_path), "auto") == "openvino"
    assert provider.NAME not in runtimes.installed("graph")
    assert provider.NAME in runtimes.installed()


@pytest.mark.gpu
def test_the_provider_agrees_with_pytorch_on_a_real_gpu(tiny_bundle_path):
    from depthmask.export import verify_bundle

    pytest.importorskip("tensorrt", reason="needs the extra tensorrt")
    assert verify_bundle(open_bundle(tiny_bundle_path), runtime=provider.NAME, device="cuda")
