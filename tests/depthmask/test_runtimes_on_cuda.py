"""The runtimes' way on CUDA: with fakes anywhere, and for real where there is a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from depthmask import Pipeline
from depthmask.errors import UnavailableError, UsageError
from depthmask.runtimes import StagedRuntime, onnxruntime_runtime, torch_runtime
from depthmask.runtimes.onnxruntime_runtime import OnnxRuntimeOnDevice
from depthmask.runtimes.torch_runtime import TorchOnCuda

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
    return [SimpleNamespace(op_type=operator) for operator in operators]


@pytest.fixture
def open_on_fake_cuda(monkeypatch, tiny_bundle_path):
    """Open a bundle where ONNX Runtime gives some operators to the CPU; tells the options it got."""

    def open_with(on_cpu):
        asked = {}
        parts = [
            SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=lambda: nodes_of("Conv")),
            SimpleNamespace(ep_name="CPUExecutionProvider", get_nodes=lambda: nodes_of(*on_cpu)),
        ]
        session = SimpleNamespace(
            get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
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

        fake = SimpleNamespace(
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
