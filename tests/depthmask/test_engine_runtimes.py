"""Loading and running engines: what is refused and how, the session against fakes, and for real on a GPU."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from depthmask import runtimes
from depthmask.bundle import Bundle, open_bundle, record_files, write_manifest
from depthmask.engine import EngineHeader, Machine, ShapeRange, machine_mismatch
from depthmask.errors import UnavailableError, UsageError
from depthmask.frames import Resolution
from depthmask.pipeline import Pipeline
from depthmask.runtimes import tensorrt_runtime

GPU_OF = {"tensorrt": "sm86", "tensorrt-rtx": "sm89"}


def header(flavour="tensorrt-rtx", **changes):
    content = {
        "file": "model.engine",
        "flavour": flavour,
        "version": "1.7.1.116",
        "architectures": ("sm86", "sm89"),
        "precision": "fp16",
        "graph": "model.onnx",
        "onnx": {},
        "inputs": {"frame": ShapeRange((1, 1, 1, 3), (1, 4, 6, 3), (1, 8, 8, 3))},
        "workspace_mib": None,
        "builder_level": 3,
        "size_bytes": 3,
        "build_s": 0.1,
    }
    return EngineHeader(**{**content, **changes})


@pytest.fixture
def engine_bundle(tiny_bundle_path, tmp_path):
    """A copy of the tiny bundle that claims engines; TensorRT would refuse them."""

    def make(flavour="tensorrt-rtx", **changes) -> Bundle:
        folder = shutil.copytree(tiny_bundle_path, tmp_path / "b", dirs_exist_ok=True)
        (folder / "model.engine").write_bytes(b"no!")
        manifest = open_bundle(tiny_bundle_path).manifest
        onnx = {"model.onnx": manifest.files["model.onnx"].sha256}
        engine = header(flavour, **{"onnx": onnx, **changes})
        manifest = msgspec.structs.replace(manifest, engines=(engine,), files=record_files(folder))
        write_manifest(folder, manifest)
        return open_bundle(folder)

    return make


@pytest.fixture
def machine(monkeypatch):
    """A machine that claims a GPU and a TensorRT."""

    def make(version="1.7.1.116", architecture="sm89", problem=None):
        monkeypatch.setattr(runtimes, "require", lambda name: None)
        monkeypatch.setattr(tensorrt_runtime, "cuda_problem", lambda: problem)
        monkeypatch.setattr(tensorrt_runtime, "cuda_architecture", lambda: architecture)
        fake = SimpleNamespace(__version__=version)
        monkeypatch.setattr(tensorrt_runtime, "import_tensorrt", lambda flavour: fake)

    return make


def refusal(bundle, **options):
    with pytest.raises(UnavailableError) as caught:
        Pipeline.open(bundle.path, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_bundle_with_an_engine_is_for_its_gpu_unless_another_runtime_is_asked_for(
    engine_bundle, machine, frame_HW3
):
    bundle = engine_bundle()
    machine(problem="there is no NVIDIA driver")
    text = refusal(bundle)
    assert "model.engine is a TensorRT-RTX engine for sm86, sm89, but there is no NVIDIA" in text
    assert "Try --runtime onnxruntime" in text
    with Pipeline.open(bundle.path, runtime="onnxruntime", device="cpu") as pipeline:
        assert np.isfinite(pipeline(frame_HW3).depth_HW).all()


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_without_a_gpu_tensorrt_is_not_even_imported(engine_bundle, machine, monkeypatch, device):
    bundle = engine_bundle()
    machine(problem="there is no NVIDIA driver")

    def never(flavour):
        raise AssertionError("imported")

    monkeypatch.setattr(tensorrt_runtime, "import_tensorrt", never)
    assert "no NVIDIA driver" in refusal(bundle, device=device)


def test_the_cpu_is_refused(engine_bundle, machine):
    machine()
    assert "TensorRT-RTX has GPUs only" in refusal(engine_bundle(), device="cpu")


def test_another_version_is_refused_with_the_command_that_rebuilds(engine_bundle, machine):
    machine(version="1.8.0.5")
    bundle = engine_bundle()
    text = refusal(bundle)
    assert "must be loaded by TensorRT-RTX 1.7.1.116, but TensorRT-RTX 1.8.0.5 is" in text
    assert f"`dmx export --rebuild {bundle.path} --to tensorrt-rtx --gpu sm89`" in text


def test_another_architecture_is_refused_with_the_command_that_rebuilds(engine_bundle, machine):
    machine(architecture="sm120")
    text = refusal(engine_bundle())
    assert "must run on a GPU of sm86 or sm89, but this one is sm120" in text
    assert "--to tensorrt-rtx --gpu sm120`" in text


def test_another_flavour_is_refused_with_the_command_that_builds_it(engine_bundle, machine):
    machine()
    bundle = engine_bundle("tensorrt")
    text = refusal(bundle, runtime="tensorrt-rtx")
    assert f"needs an engine of TensorRT-RTX, but {bundle.path} has one of TensorRT." in text
    assert f"`dmx export --rebuild {bundle.path} --to tensorrt-rtx --gpu" in text


def test_a_bundle_without_engines_is_refused(machine, tiny_bundle_path):
    machine()
    text = refusal(open_bundle(tiny_bundle_path), runtime="tensorrt")
    assert "has none. Try `dmx export --rebuild" in text
    assert "--to tensorrt`" in text


def test_another_graph_than_the_one_it_was_built_from_is_refused(engine_bundle, machine):
    machine()
    other = hashlib.sha256(b"another").hexdigest()
    text = refusal(engine_bundle(onnx={"model.onnx": other}))
    assert f"must belong to model.onnx of sha256 {other[:12]}..., but model.onnx has sha256" in text
    assert "dmx export --rebuild" in text
    assert "gone.bin is not in the bundle" in refusal(engine_bundle(onnx={"gone.bin": other}))


def test_what_fits_fits():
    assert machine_mismatch(header(), Machine(version="1.7.1.116", architecture="sm86")) is None


def test_the_command_says_why_in_one_line_and_exits_4(
    engine_bundle, dmx_inside, tmp_path, frame_HW3
):
    import cv2

    from depthmask.devices import cuda_problem

    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    if cuda_problem() is None:
        pytest.skip("this machine has a GPU")
    cv2.imwrite(str(tmp_path / "photo.png"), frame_HW3)
    code, _, error = dmx_inside(
        "run", engine_bundle().path, "--source", tmp_path / "photo.png", "--out", tmp_path / "out"
    )
    assert code == 4
    assert error.startswith("error: model.engine is a TensorRT-RTX engine for sm86, sm89, but")
    assert error.count("\n") == 1


# The session, on a GPU made of host memory.


class FakeCuda:
    """As `cuda.bindings.runtime`: memory is the host's; a capture notes calls, a launch repeats them."""

    cudaStreamNonBlocking = 1
    cudaError_t = SimpleNamespace(cudaSuccess=0)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self):
        self.memory = {}
        self.capturing = None
        self.launches = self.streams = self.events = self.graphs = 0
        self.limit_bytes = 1 << 30

    def do(self, action):
        if self.capturing is not None:
            self.capturing.append(action)
        else:
            action()

    def cudaMalloc(self, size):
        if size > self.limit_bytes:
            return (2, None)
        memory = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(memory)] = memory
        return (0, ctypes.addressof(memory))

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address):
        del self.memory[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaMemcpyAsync(self, to, source, count, kind, stream):
        self.do(lambda: ctypes.memmove(to, source, count))
        return (0,)

    def cudaStreamCreateWithFlags(self, flags):
        self.streams += 1
        return (0, 7)

    def cudaStreamDestroy(self, stream):
        self.streams -= 1
        return (0,)

    def cudaEventCreate(self):
        self.events += 1
        return (0, self.events)

    def cudaEventDestroy(self, event):
        self.events -= 1
        return (0,)

    def cudaEventRecord(self, event, stream):
        return (0,)

    def cudaStreamSynchronize(self, stream):
        return (0,)

    def cudaEventElapsedTime(self, first, second):
        return (0, 1.5)

    def cudaStreamBeginCapture(self, stream, mode):
        self.capturing = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        noted, self.capturing = self.capturing, None
        return (0, noted)

    def cudaGraphInstantiate(self, graph, flags):
        self.graphs += 1
        return (0, graph)

    def cudaGraphDestroy(self, graph):
        return (0,)

    def cudaGraphExecDestroy(self, graph):
        self.graphs -= 1
        return (0,)

    def cudaGraphLaunch(self, graph, stream):
        self.launches += 1
        for action in graph:
            action()
        return (0,)

    def cudaGetErrorString(self, error):
        return (0, b"out of memory")


class FakeContext:
    """Gives the mean of each frame's colours as `mask`, twice that as `depth`."""

    def __init__(self, cuda):
        self.cuda, self.addresses, self.shape, self.plain = cuda, {}, None, 0

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        return (self.shape[0], 1, *self.shape[1:3])

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream):
        return True

    def execute_async_v3(self, stream):
        shape = self.shape
        self.plain += self.cuda.capturing is None

        def compute():
            count = int(np.prod(shape))
            memory = (ctypes.c_uint8 * count).from_address(self.addresses["frame"])
            mask = np.frombuffer(memory, np.uint8).reshape(shape).mean(-1, dtype=np.float32)
            for name, values in (("mask", mask), ("depth", 2 * mask)):
                ctypes.memmove(self.addresses[name], values.tobytes(), values.nbytes)

        self.cuda.do(compute)
        return True


@pytest.fixture
def session(monkeypatch):
    pytest.importorskip("cuda.bindings.runtime", reason="needs the extra tensorrt-rtx")
    from depthmask.runtimes import cuda as our_cuda
    from depthmask.runtimes.engine_session import EngineSession

    def make(limit_bytes=1 << 30, **options):
        cuda = FakeCuda()
        cuda.limit_bytes = limit_bytes
        monkeypatch.setattr(our_cuda, "cudart", cuda)
        context = FakeContext(cuda)
        names = ["frame", "mask", "depth"]
        engine = SimpleNamespace(
            num_io_tensors=3,
            get_tensor_name=lambda index: names[index],
            get_tensor_dtype=lambda name: "uint8" if name == "frame" else "float32",
            get_tensor_mode=lambda name: "in" if name == "frame" else "out",
            create_execution_context=lambda: context,
        )
        logger = lambda severity: None  # noqa: E731
        logger.ERROR = 1
        trt = SimpleNamespace(
            Logger=logger,
            Runtime=lambda log: SimpleNamespace(
                deserialize_cuda_engine=lambda plan: engine if plan == b"plan" else None
            ),
            TensorIOMode=SimpleNamespace(INPUT="in"),
            nptype=np.dtype,
        )
        plan = options.pop("plan", b"plan")
        return EngineSession(trt, plan, header(), **options), cuda, context

    return make


def frames(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (1, *shape, 3), np.uint8)


def check(session, frame):
    found = session.run({"frame": frame})
    expected = frame.mean(-1, dtype=np.float32)[:, None]
    np.testing.assert_allclose(found["mask"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["depth"], 2 * expected, rtol=1e-6)
    return found


def test_shapes_may_change_and_come_back_with_and_without_a_graph(session):
    for use_cuda_graph in (True, False):
        opened, cuda, _ = session(use_cuda_graph=use_cuda_graph)
        sizes = [(4, 6), (4, 6), (8, 8), (4, 6), (8, 8), (8, 8), (8, 8), (1, 1), (8, 8), (4, 6)]
        for seed, size in enumerate(sizes):
            check(opened, frames(*size, seed=seed))
        assert (cuda.launches > 0) == use_cuda_graph
        opened.close()


def test_a_shape_that_stays_is_one_graph(session):
    opened, cuda, context = session()
    for seed in range(5):
        check(opened, frames(4, 6, seed=seed))
    assert (cuda.launches, cuda.graphs) == (5, 1)
    assert context.plain == 1  # the warm-up at opening


def test_outputs_are_the_callers_own(session):
    opened, _, _ = session()
    first = check(opened, frames(4, 6, seed=1))
    kept = first["mask"].copy()
    check(opened, frames(4, 6, seed=2))
    np.testing.assert_array_equal(first["mask"], kept)


def test_frames_that_are_too_large_or_of_another_type_are_refused(session):
    opened, _, _ = session()
    with pytest.raises(UsageError, match=r"must be \(1, 1, 1, 3\) to \(1, 8, 8, 3\)"):
        opened.run({"frame": frames(9, 8)})
    with pytest.raises(UsageError, match="must be uint8, but got float32"):
        opened.run({"frame": frames(4, 6).astype(np.float32)})
    check(opened, frames(4, 6))


def test_everything_is_given_back(session):
    opened, cuda, _ = session()
    check(opened, frames(4, 6))
    check(opened, frames(4, 6))
    opened.close()
    opened.close()
    assert (cuda.memory, cuda.streams, cuda.events, cuda.graphs) == ({}, 0, 0, 0)
    with pytest.raises(ValueError, match="closed"):
        opened.run({"frame": frames(4, 6)})


def test_memory_that_does_not_suffice_is_said_with_what_was_needed(session, monkeypatch):
    with pytest.raises(UnavailableError, match=r"out of memory \(error 2\); 0\.0 MB were needed"):
        session(limit_bytes=200)


def test_an_engine_that_tensorrt_refuses_is_unavailable(session):
    with pytest.raises(UnavailableError, match=r"TensorRT-RTX refuses model\.engine"):
        session(plan=b"other")


def test_the_parts_are_timed(session):
    opened, _, _ = session()
    staged = opened.run_staged({"frame": frames(4, 6)})
    assert (staged.copy_to_device_ms, staged.inference_ms, staged.copy_back_ms) == (1.5, 1.5, 1.5)
    assert staged.enqueue_ms >= 0


# With a GPU.


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def built(request, tiny_chain, trace, tmp_path_factory):
    from depthmask.export import export_chain

    module = request.param.replace("-", "_")
    pytest.importorskip(module, reason=f"needs the extra {request.param}")
    folder = tmp_path_factory.mktemp(module) / "b"
    return export_chain(
        tiny_chain, folder, resolution=Resolution(64, 64), target=request.param, trace=trace
    )


@pytest.mark.gpu
def test_an_engine_agrees_with_pytorch_on_the_gpu(built):
    assert all(engine.verified for engine in built.manifest.engines)


@pytest.mark.gpu
def test_a_cuda_graph_gives_what_a_plain_run_gives(built, frame_HW3):
    from depthmask.runtimes.engine_session import EngineSession
    from depthmask.tensorrt_module import import_tensorrt

    engine = built.manifest.engines[0]
    trt, plan = import_tensorrt(engine.flavour), (built.path / engine.file).read_bytes()
    found = []
    for use_cuda_graph in (True, False):
        opened = EngineSession(trt, plan, engine, use_cuda_graph=use_cuda_graph)
        for _ in range(3):
            outputs = opened.run({"frame": frame_HW3[None]})
        opened.close()
        found.append(outputs)
    for name in ("mask", "depth"):
        np.testing.assert_array_equal(found[0][name], found[1][name])


@pytest.mark.gpu
def test_memory_is_stable_over_many_frames(built, frame_HW3):
    from cuda.bindings import runtime as cudart

    with Pipeline.open(built.path) as pipeline:
        for _ in range(100):
            pipeline(frame_HW3)
        _, free_before, _ = cudart.cudaMemGetInfo()
        for _ in range(10_000):
            pipeline.runtime.run({"frame": frame_HW3[None]})
        _, free_after, _ = cudart.cudaMemGetInfo()
    assert free_before - free_after < 8 << 20
