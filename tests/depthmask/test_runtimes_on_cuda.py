"""The runtimes' way on CUDA: with fakes anywhere, and for real where there is a GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import msgspec
import numpy as np
import onnxruntime
import pytest
import tiny_networks
import torch

from depthmask import Pipeline
from depthmask.bundle import SHIPPED_BUNDLE, Bundle, open_bundle
from depthmask.chain import MaskDepthChain
from depthmask.errors import UnavailableError, UsageError
from depthmask.export import export_chain
from depthmask.export.verify import verify_bundle
from depthmask.frames import Resolution
from depthmask.runtimes import StagedRuntime, onnxruntime_runtime, torch_runtime
from depthmask.runtimes.onnxruntime_runtime import OnnxRuntimeOnDevice
from depthmask.runtimes.torch_runtime import TorchOnCuda
from depthmask.samples import SHIPPED_SAMPLES

COPIES = {"copy_to_device", "copy_back"}
STAGES = {"preprocess", "inference", "postprocess"} | COPIES


@pytest.fixture
def on_device(tiny_bundle_path):
    """ONNX Runtime's bound inputs and outputs, with the CPU as the device."""
    with Pipeline.open(tiny_bundle_path, "onnxruntime", "cpu") as cpu:
        session = onnxruntime.InferenceSession(
            str(cpu.bundle.model_path(cpu.resolution)), providers=["CPUExecutionProvider"]
        )
        runtime = OnnxRuntimeOnDevice(onnxruntime, session, "cpu")
        with Pipeline(cpu.bundle, runtime, cpu.resolution) as bound:
            yield cpu, bound


def test_bound_outputs_are_those_of_a_plain_run_at_every_size(on_device):
    cpu, bound = on_device
    rng = np.random.default_rng(0)
    for size in ((60, 80), (60, 80), (33, 21), (90, 70)):
        frame_HW3 = rng.integers(0, 256, (*size, 3), np.uint8)
        frame_HW3.setflags(write=False)
        expected, found = cpu(frame_HW3), bound(frame_HW3)
        np.testing.assert_array_equal(found.mask_HW, expected.mask_HW)
        np.testing.assert_array_equal(found.depth_HW, expected.depth_HW)


def test_earlier_maps_stay_as_they_were(on_device, frame_HW3):
    _, bound = on_device
    first = bound(frame_HW3)
    kept_HW = first.depth_HW.copy()
    bound(255 - frame_HW3)
    np.testing.assert_array_equal(first.depth_HW, kept_HW)


def test_a_device_tells_copies_from_inference_and_the_cpu_does_not(on_device, frame_HW3):
    cpu, bound = on_device
    assert set(cpu(frame_HW3).timings_ms) == STAGES - COPIES
    timings_ms = bound(frame_HW3).timings_ms
    assert set(timings_ms) == STAGES
    assert min(timings_ms.values()) >= 0


def test_a_closed_device_says_so(on_device, frame_HW3):
    _, bound = on_device
    bound.close()
    with pytest.raises(UsageError, match="closed"):
        bound(frame_HW3)


class FakeEvent:
    """A CUDA event; a millisecond lies between one record and the next."""

    now_ms = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        FakeEvent.now_ms += 1
        self.at_ms = FakeEvent.now_ms

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return end.at_ms - self.at_ms


@pytest.fixture
def torch_as_on_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch_runtime, "_copy_back", lambda tensor: tensor.clone())
    monkeypatch.setattr(TorchOnCuda, "device", "cpu")


def test_torch_times_each_part_by_events(torch_as_on_cuda, tiny_chain):
    runtime = TorchOnCuda(tiny_chain, "image")
    image_13HW = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    assert isinstance(runtime, StagedRuntime)
    found = runtime.run_staged({"image": image_13HW})
    with torch.inference_mode():
        mask, depth = tiny_chain(torch.from_numpy(image_13HW))
    np.testing.assert_array_equal(found.outputs["mask"], mask)
    np.testing.assert_array_equal(runtime.run({"image": image_13HW})["depth"], depth)
    assert (found.inference_ms, found.copy_back_ms) == (1, 1)
    assert found.copy_to_device_ms > 1  # the host's copy into page-locked memory is in it
    assert found.enqueue_ms > 0
    runtime.close()
    with pytest.raises(ValueError, match="closed"):
        runtime.run({"image": image_13HW})


def nodes_of(*operators):
    return [SimpleNamespace(name=f"a/{operator}", op_type=operator) for operator in operators]


@pytest.fixture
def open_on_fake_cuda(monkeypatch, tiny_bundle_path):
    """Open a bundle where ONNX Runtime gives some operators to the CPU; tells the options it got."""

    def open_with(on_cpu, opened="CUDAExecutionProvider"):
        asked = {"loaded_before": False}
        parts = [
            SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=lambda: nodes_of("Conv")),
            SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: nodes_of(*on_cpu)),
        ]
        session = SimpleNamespace(
            get_providers=lambda: [opened, "CPUExecutionProvider"],
            get_outputs=list,
            get_provider_graph_assignment_info=lambda: parts,
        )

        def make_session(path, options, **settings):
            asked.update(settings, **options.entries)
            return session

        class Options:
            def __init__(self):
                self.entries = {}

            def add_session_config_entry(self, name, value):
                self.entries[name] = value

        def preload_dlls(msvc):
            asked["loaded_before"] = "providers" not in asked
            print("Failed to load libcudnn.so.9: no such file")

        fake = SimpleNamespace(
            set_default_logger_severity=lambda severity: None,
            preload_dlls=preload_dlls,
            get_available_providers=lambda: ["CUDAExecutionProvider"],
            SessionOptions=Options,
            InferenceSession=make_session,
        )
        monkeypatch.setattr(onnxruntime_runtime, "import_onnxruntime", lambda: fake)
        monkeypatch.setattr(onnxruntime_runtime, "cuda_problem", lambda: None)
        return Pipeline.open(tiny_bundle_path, "onnxruntime", "cuda"), asked

    return open_with


def test_what_is_computed_from_sizes_may_stay_on_the_host(open_on_fake_cuda):
    pipeline, asked = open_on_fake_cuda(["Shape", "Squeeze", "Range", "ReduceSum"])
    assert pipeline.runtime.device == "cuda"
    assert isinstance(pipeline.runtime, StagedRuntime)
    assert asked["session.record_ep_graph_assignment_info"] == "1"
    assert asked["providers"] == [("CUDAExecutionProvider", {"use_tf32": "0"})]
    assert asked["enable_fallback"] == 0


def test_libraries_in_nvidias_packages_are_loaded_before_a_session_opens(open_on_fake_cuda, capsys):
    _, asked = open_on_fake_cuda([])
    assert asked["loaded_before"]
    assert capsys.readouterr().out == ""  # stdout is for results


def test_a_missing_library_is_named_with_the_package_that_has_it(open_on_fake_cuda):
    with pytest.raises(
        UnavailableError, match=r"load libcudnn\.so\.9: .*onnxruntime-gpu\[cuda,cudnn\]"
    ):
        open_on_fake_cuda([], opened="CPUExecutionProvider")


def test_int8_is_for_the_cpu_where_there_is_a_gpu_too(monkeypatch, tiny_bundle_path):
    monkeypatch.setattr(onnxruntime_runtime, "cuda_problem", lambda: None)
    tiny = open_bundle(tiny_bundle_path)
    int8 = Bundle(tiny.path, msgspec.structs.replace(tiny.manifest, precision="int8"))
    with pytest.raises(UnavailableError, match=r"int8 on the CPU only.*--fp16"):
        onnxruntime_runtime.open_runtime(int8, Resolution(32, 32), "cuda", None)
    opened = onnxruntime_runtime.open_runtime(int8, Resolution(32, 32), "auto", None)
    assert opened.device == "cpu"


def test_a_network_partly_on_the_cpu_is_refused(open_on_fake_cuda):
    with pytest.raises(UnavailableError, match="to the CPU: Conv, Resize"):
        open_on_fake_cuda(["Shape", "Resize", "Conv"])


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(60, 80), (33, 21)])
def test_onnxruntime_on_a_real_gpu(tiny_bundle_path, size):
    frame_HW3 = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    with (
        Pipeline.open(tiny_bundle_path, "onnxruntime", "cuda") as gpu,
        Pipeline.open(tiny_bundle_path, "onnxruntime", "cpu") as cpu,
    ):
        found, expected = gpu(frame_HW3), cpu(frame_HW3)
        again = gpu(np.ascontiguousarray(frame_HW3[:20]))
    np.testing.assert_allclose(found.depth_HW, expected.depth_HW, atol=1e-3)
    assert again.mask_HW.shape == (20, size[1])
    assert set(found.timings_ms) == STAGES


@pytest.mark.gpu
def test_the_shipped_bundle_agrees_with_pytorch_on_the_gpu():
    report = verify_bundle(open_bundle(SHIPPED_BUNDLE), runtime="onnxruntime", device="cuda")
    assert report, report.failures()


@pytest.mark.gpu
def test_lite_in_fp16_agrees_with_pytorch_on_the_gpu(tmp_path, dmx):
    """The export verifies by itself on what `auto` takes, which is CUDA here; once more by its bundle."""
    done = dmx("export", "--fp16", "--resolution", 64, "--out", "b", timeout_s=300)
    assert done.returncode == 0, done.stderr
    assert "cudnn" not in done.stderr
    report = verify_bundle(open_bundle(tmp_path / "b"), runtime="onnxruntime", device="cuda")
    assert report, report.failures()


@pytest.mark.gpu
def test_memory_is_stable_over_many_frames_of_changing_size(tiny_bundle_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((60, 80), (33, 21), (90, 70))]
    with Pipeline.open(tiny_bundle_path, "onnxruntime", "cuda") as pipeline:
        for index in range(300):
            pipeline(frames[index % 3])
        before, _ = torch.cuda.mem_get_info()
        for index in range(10_000):
            pipeline(frames[index // 100 % 3])
        after, _ = torch.cuda.mem_get_info()
    assert before - after < 8 << 20


@pytest.mark.gpu
def test_threads_that_share_a_pipeline_get_their_own_maps(tiny_bundle_path):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (60 + i, 80, 3), np.uint8) for i in range(8)]
    with Pipeline.open(tiny_bundle_path, "onnxruntime", "cuda") as pipeline:
        expected = [pipeline(frame).depth_HW for frame in frames]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(pipeline, frames * 20))
    for index, prediction in enumerate(found):
        np.testing.assert_allclose(prediction.depth_HW, expected[index % 8], atol=1e-5)


@pytest.mark.gpu
def test_an_operator_that_cuda_lacks_is_refused_on_the_gpu(tmp_path):
    chain = MaskDepthChain(tiny_networks.TinyMask(), tiny_networks.DeterminantDepth()).eval()
    with pytest.raises(UnavailableError, match="to the CPU: Det"):
        export_chain(chain, tmp_path / "b", resolution=Resolution(32, 32))


@pytest.mark.gpu
def test_photographs_run_on_the_gpu(dmx, tmp_path):
    photos = SHIPPED_SAMPLES / "photos"
    done = dmx("run", "--source", photos, "--device", "cuda", "--out", "out", timeout_s=300)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"{photo.stem}.depth.png" for photo in photos.glob("*.jpg")} <= names


@pytest.mark.gpu
def test_torch_on_a_real_gpu(tiny_chain):
    image_13HW = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        mask, depth = tiny_chain(torch.from_numpy(image_13HW))
    runtime = TorchOnCuda(tiny_chain, "image")
    try:
        found = runtime.run_staged({"image": image_13HW})
    finally:
        tiny_chain.to("cpu")  # `to` moves the chain itself, which other tests share
    np.testing.assert_allclose(found.outputs["mask"], mask, atol=1e-4)
    np.testing.assert_allclose(found.outputs["depth"], depth, atol=1e-4)
    for ms in (found.copy_to_device_ms, found.inference_ms, found.copy_back_ms, found.enqueue_ms):
        assert ms > 0
