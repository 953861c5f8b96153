"""Loading and running engines: what is refused and how, the session against fakes, and for real on a GPU."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from depthmask import runtimes
from depthmask.bundle import Bundle, open_bundle, record_files, write_manifest
from depthmask.cache import cache_folder
from depthmask.devices import cuda_architecture
from depthmask.engine import TRUST_VARIABLE, EngineHeader, Machine, ShapeRange, machine_mismatch
from depthmask.errors import OutputError, UnavailableError, UsageError
from depthmask.export.tensorrt_builder import architecture_names
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
def engine_session():
    """The module, whose import needs CUDA's bindings."""
    pytest.importorskip("cuda.bindings.runtime", reason="needs the extra tensorrt-rtx")
    from depthmask.runtimes import engine_session

    return engine_session


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


@pytest.mark.parametrize(
    ("changes", "version", "architecture", "fits"),
    [
        ({"version_compatible": True}, "10.14.1", "sm86", True),
        ({"version_compatible": True}, "10.9.0", "sm86", True),
        ({"version_compatible": True}, "10.8.9", "sm86", False),
        ({"version_compatible": True}, "11.4.0", "sm86", False),
        ({"version_compatible": True}, "10.14.1.48.post1", "sm86", True),
        ({}, "10.14.1", "sm86", False),
        ({"hardware_compatibility": "ampere-plus"}, "10.9.0", "sm120", True),
        ({"hardware_compatibility": "ampere-plus"}, "10.9.0", "sm75", False),
        ({"hardware_compatibility": "same-compute-capability"}, "10.9.0", "sm89", False),
    ],
)
def test_compatible_engines_fit_where_tensorrt_says_so(changes, version, architecture, fits):
    engine = header("tensorrt", version="10.9.0", architectures=("sm86",), **changes)
    problem = machine_mismatch(engine, Machine(version=version, architecture=architecture))
    assert (problem is None) == fits
    if changes.get("hardware_compatibility") == "ampere-plus" and not fits:
        assert "on a GPU of sm86 or newer, but this one is sm75" in problem


def test_code_inside_an_engine_runs_only_where_the_user_trusts_it(
    engine_bundle, machine, monkeypatch, engine_session
):
    machine(version="10.14.1.48", architecture="sm86")
    bundle = engine_bundle(
        "tensorrt", version="10.9.0.34", architectures=("sm86",), version_compatible=True
    )
    text = refusal(bundle)
    assert "brings code of its own for the CPU" in text
    assert f"Try {TRUST_VARIABLE}=1" in text
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    opened = []
    monkeypatch.setattr(engine_session, "EngineSession", lambda *given, **_: opened.append(given))
    tensorrt_runtime.open_engine("tensorrt", bundle, Resolution(48, 64), "cuda")
    assert opened[0][1] == b"no!"


def test_what_rtx_compiles_is_kept_by_engine_version_and_architecture(
    engine_bundle, machine, monkeypatch, tmp_path, engine_session
):
    monkeypatch.setenv("DEPTHMASK_CACHE", str(tmp_path / "cache"))
    machine()
    kept = []
    monkeypatch.setattr(
        engine_session, "EngineSession", lambda *_, kernels, **__: kept.append(kernels)
    )
    bundle = engine_bundle()
    for architecture in ("sm86", "sm89"):
        machine(architecture=architecture)
        tensorrt_runtime.open_engine("tensorrt-rtx", bundle, Resolution(48, 64), "cuda")
    (bundle.path / "model.engine").write_bytes(b"other")
    tensorrt_runtime.open_engine("tensorrt-rtx", bundle, Resolution(48, 64), "cuda")
    assert len(set(kept)) == 3
    folder = tmp_path / "cache" / "tensorrt-rtx" / "1.7.1.116"
    assert [path.parent for path in kept] == [folder / "sm86", folder / "sm89", folder / "sm89"]
    assert all(path.parent.is_dir() for path in kept)


def test_a_cache_that_cannot_be_written_is_said_with_what_to_set(monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("DEPTHMASK_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"cannot be written: .* Try DEPTHMASK_CACHE=FOLDER"):
        cache_folder("tensorrt-rtx")
    monkeypatch.delenv("DEPTHMASK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("a") == tmp_path / "xdg" / "depthmask" / "a"


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


class FakeRuntimeCache:
    """What was loaded, and a kernel more."""

    content = b""

    def serialize(self):
        return None if self.content is None else self.content + b"kernel"

    def deserialize(self, content):
        if content != b"foreign":
            self.content = content
        return content != b"foreign"


class FakeContext:
    """Gives the mean of each frame's colours as `mask`, twice that as `depth`."""

    def __init__(self, cuda):
        self.cuda, self.addresses, self.shape, self.plain = cuda, {}, None, 0
        self.refitted = []

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


def tensorrt_with(engine, refitted=None):
    """A module that has one engine, by the plan `plan`, and takes weights of any file without `no`."""
    severity = SimpleNamespace(WARNING=1, ERROR=2, INTERNAL_ERROR=3)

    def load(log, plan):
        if plan == b"plan":
            return engine
        log.log(severity.ERROR, "Serialization assertion\n  failed")
        return None

    return SimpleNamespace(
        ILogger=type("ILogger", (), {"Severity": severity}),
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: load(log, plan)),
        Refitter=lambda engine, log: SimpleNamespace(refit_cuda_engine=lambda: True),
        OnnxParserRefitter=lambda refitter, log: SimpleNamespace(
            refit_from_file=lambda path: refitted.append(path) or "no" not in path
        ),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        nptype=np.dtype,
    )


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
        runtime_cache = FakeRuntimeCache()
        engine = SimpleNamespace(
            num_io_tensors=3,
            get_tensor_name=lambda index: names[index],
            get_tensor_dtype=lambda name: "uint8" if name == "frame" else "float32",
            get_tensor_mode=lambda name: "in" if name == "frame" else "out",
            create_execution_context=lambda config=None: context,
            create_runtime_config=lambda: SimpleNamespace(
                create_runtime_cache=lambda: runtime_cache,
                set_runtime_cache=lambda cache: cache is runtime_cache,
            ),
        )
        plan, changes = options.pop("plan", b"plan"), options.pop("changes", {})
        context.cache = runtime_cache
        trt = tensorrt_with(engine, context.refitted)
        return EngineSession(trt, plan, header(**changes), **options), cuda, context

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
    reason = r"TensorRT-RTX refuses model\.engine: Serialization assertion failed$"
    with pytest.raises(UnavailableError, match=reason):
        session(plan=b"other")


def test_a_capture_that_fails_leaves_no_graph_behind(session):
    opened, cuda, context = session()
    run, context.execute_async_v3 = context.execute_async_v3, lambda stream: False
    with pytest.raises(UnavailableError, match=r"failed to run model\.engine"):
        opened.run({"frame": frames(4, 6)})
    assert (cuda.capturing, cuda.launches) == (None, 0)
    context.execute_async_v3 = run
    check(opened, frames(4, 6))
    assert cuda.launches == 1


def test_a_gpu_that_broke_is_closed_without_another_error(session, monkeypatch):
    opened, cuda, _ = session()
    monkeypatch.setattr(cuda, "cudaStreamSynchronize", lambda stream: (2,))
    with pytest.raises(UnavailableError, match="CUDA failed"):
        opened.run({"frame": frames(4, 6)})
    opened.close()
    assert (cuda.memory, cuda.streams) == ({}, 0)


def test_a_stripped_engine_has_its_weights_from_the_onnx(session):
    model = Path("b/model.onnx")
    opened, _, context = session(changes={"stripped": True}, model=model)
    assert context.refitted == [str(model)]
    check(opened, frames(4, 6))
    with pytest.raises(UnavailableError, match=r"cannot give the weights of model\.onnx to model"):
        session(changes={"stripped": True}, model=Path("no.onnx"))
    assert session(model=model)[2].refitted == []


def test_what_was_compiled_is_saved_at_once_and_when_it_grows(session, tmp_path):
    file = tmp_path / "k"
    opened, _, context = session(kernels=file)
    assert file.read_bytes() == b"kernel"
    context.cache.content = b"a larger "
    opened.close()
    assert file.read_bytes() == b"a larger kernel"
    opened, _, context = session(kernels=file)
    assert context.cache.content == b"a larger kernel"
    opened.close()
    file.write_bytes(b"foreign")
    session(kernels=file)
    assert file.read_bytes() == b"kernel"
    opened, _, context = session(kernels=file)
    context.cache.content = None
    opened.close()
    assert file.read_bytes() == b"kernelkernel"


def test_the_parts_are_timed(session):
    opened, _, _ = session()
    staged = opened.run_staged({"frame": frames(4, 6)})
    assert (staged.copy_to_device_ms, staged.inference_ms, staged.copy_back_ms) == (1.5, 1.5, 1.5)
    assert staged.enqueue_ms >= 0


# With a GPU.


class CopyingContext:
    """An engine on the GPU itself: copies the frame, by the stream, to `mask`, and that to `depth`."""

    def __init__(self):
        self.addresses, self.shape = {}, None

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream):
        return True

    def execute_async_v3(self, stream):
        from cuda.bindings import runtime as cudart

        count, kind = int(np.prod(self.shape)), cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        for source, target in (("frame", "mask"), ("mask", "depth")):
            addresses = self.addresses[target], self.addresses[source]
            if cudart.cudaMemcpyAsync(*addresses, count, kind, stream)[0] != 0:
                return False
        return True


@pytest.fixture(params=[True, False], ids=["CUDA graph", "plain"])
def session_on_gpu(request):
    """An engine's session with real memory, stream, events and graph, on a stand-in for TensorRT."""
    from depthmask.runtimes.engine_session import EngineSession

    names = ["frame", "mask", "depth"]
    engine = SimpleNamespace(
        num_io_tensors=3,
        get_tensor_name=lambda index: names[index],
        get_tensor_dtype=lambda name: "uint8",
        get_tensor_mode=lambda name: "in" if name == "frame" else "out",
        create_execution_context=CopyingContext,
    )
    opened = EngineSession(tensorrt_with(engine), b"plan", header(), use_cuda_graph=request.param)
    yield opened
    opened.close()


@pytest.mark.gpu
def test_frames_go_through_the_gpus_memory_and_come_back(session_on_gpu):
    sizes = [(4, 6), (4, 6), (8, 8), (4, 6), (8, 8), (8, 8), (8, 8), (1, 1), (8, 8), (4, 6)]
    for seed, size in enumerate(sizes):
        frame = frames(*size, seed=seed)
        found = session_on_gpu.run({"frame": frame})
        np.testing.assert_array_equal(found["mask"], frame)
        np.testing.assert_array_equal(found["depth"], frame)


@pytest.mark.gpu
def test_the_gpu_times_the_parts(session_on_gpu):
    for _ in range(3):
        staged = session_on_gpu.run_staged({"frame": frames(4, 6)})
    parts_ms = (staged.copy_to_device_ms, staged.inference_ms, staged.copy_back_ms)
    assert all(0 < part_ms < 100 for part_ms in parts_ms)


@pytest.mark.gpu
def test_nothing_of_the_gpus_memory_is_lost_over_many_frames(session_on_gpu):
    from cuda.bindings import runtime as cudart

    def free_after(count):
        for index in range(count):
            session_on_gpu.run({"frame": frames(8, 1 + index // 50 % 8)})
        return cudart.cudaMemGetInfo()[1]

    assert free_after(400) - free_after(10_000) < 1 << 20


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def built(request, tiny_chain, trace, tmp_path_factory):
    from depthmask.export import export_chain
    from depthmask.export.engines import EngineOptions

    module = request.param.replace("-", "_")
    trt = pytest.importorskip(module, reason=f"needs the extra {request.param}")
    if request.param == "tensorrt-rtx" and cuda_architecture() not in architecture_names(trt):
        pytest.skip(f"TensorRT-RTX has no engines for {cuda_architecture()}")
    folder = tmp_path_factory.mktemp(module) / "b"
    target = EngineOptions(flavour=request.param)
    return export_chain(
        tiny_chain, folder, resolution=Resolution(64, 64), target=target, trace=trace
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
@pytest.mark.parametrize(
    "flags",
    [
        {"timing_cache": "t.cache"},
        {"hardware_compatibility": "ampere-plus"},
        {"hardware_compatibility": "same-compute-capability"},
        {"version_compatible": True},
        {"strip_weights": True},
    ],
    ids=lambda flags: next(iter(flags)),
)
def test_an_engine_with_flags_agrees_with_pytorch_on_the_gpu(flags, tiny_bundle_path, tmp_path):
    from depthmask.export.engines import EngineOptions
    from depthmask.export.targets import rebuild
    from depthmask.export.tensorrt_builder import BuildFlags

    pytest.importorskip("tensorrt", reason="needs the extra tensorrt")
    folder = shutil.copytree(tiny_bundle_path, tmp_path / "b")
    if "timing_cache" in flags:
        flags = {"timing_cache": tmp_path / flags["timing_cache"]}
    options = EngineOptions(flavour="tensorrt", flags=BuildFlags(**flags))
    for _ in range(2):  # the second build reads the timing cache
        bundle = rebuild(folder, options)
        assert all(engine.verified for engine in bundle.manifest.engines)
    if flags.get("strip_weights"):
        plain = rebuild(folder, EngineOptions(flavour="tensorrt")).manifest.engines[0]
        assert bundle.manifest.engines[0].size_bytes < plain.size_bytes


@pytest.mark.gpu
def test_the_second_start_finds_what_the_first_compiled(built, tmp_path, monkeypatch, frame_HW3):
    if built.manifest.engines[0].flavour != "tensorrt-rtx":
        pytest.skip("TensorRT compiles when it builds")
    monkeypatch.setenv("DEPTHMASK_CACHE", str(tmp_path))
    found = []
    for _ in range(2):
        with Pipeline.open(built.path) as pipeline:
            pipeline(frame_HW3)
        [file] = tmp_path.rglob("*.kernels")
        found.append(file.stat().st_mtime_ns)
    assert found[0] == found[1]  # nothing was left to compile


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
