"""ONNX Runtime, on the CPU or on CUDA. Strict: no part of the networks falls back to another device."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, cast

from depthmask.bundle import Bundle, Precision
from depthmask.devices import cuda_problem
from depthmask.errors import InputError, UnavailableError
from depthmask.frames import Resolution
from depthmask.runtimes import StagedOutputs, Tensors
from depthmask.runtimes.graph_assignment import (
    RECORD_ENTRY,
    AssignedNode,
    assignment,
    elsewhere,
    in_words,
)
from depthmask.untrusted import one_line

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_PROVIDER_OPTIONS = {
    "cpu": {},
    # Left alone, CUDA rounds what it multiplies to TF32's 10 bits.
    "cuda": {"use_tf32": "0"},
}
_LOG_ERRORS_ONLY, _LOG_FATAL_ONLY = 3, 4


class OnnxRuntime:
    """An ONNX Runtime session on the CPU."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(self, session: Any) -> None:  # noqa: ANN401
        self._session: Any = session
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: Tensors) -> Tensors:
        """Execute the graph once."""
        session = self._session
        if session is None:
            raise ValueError("this runtime is closed")
        try:
            values = session.run(self._outputs, inputs)
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise InputError(
                f"the graph cannot be run by ONNX Runtime: {one_line(error)}"
            ) from error
        return cast(Tensors, dict(zip(self._outputs, values, strict=True)))

    def close(self) -> None:
        """Drop the session."""
        self._session = None


class OnnxRuntimeOnDevice:
    """An ONNX Runtime session on a device with memory of its own; copies apart from the run.

    The times are the host's, and each part ends with the device's work done. ONNX Runtime computes on a
    CUDA stream that it does not give out, so there are no events of ours on it and no time for enqueueing.
    Calls from several threads wait for each other: they share one buffer for the input.
    """

    def __init__(
        self,
        ort: Any,  # noqa: ANN401
        session: Any,  # noqa: ANN401
        device: str,
        name: str = "onnxruntime",
        *,
        nodes: Sequence[AssignedNode] = (),
    ) -> None:
        """Keep a session.

        Args:
            ort: the package.
            session: of the device.
            device: `cuda`; `cpu` works too, and is what tests can have anywhere.
            name: of the runtime.
            nodes: of the graph, each with what computes it.
        """
        self.name = name
        self.device = device
        self.nodes = tuple(nodes)
        self._provider: str = session.get_providers()[0]
        self._ort: Any = ort
        self._session: Any = session
        self._outputs = [output.name for output in session.get_outputs()]
        self._inputs: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def elsewhere(self) -> str:
        """What others than the device compute, in words; empty: nothing."""
        return in_words(elsewhere(self.nodes, self._provider))

    def run(self, inputs: Tensors) -> Tensors:
        """Execute the graph once."""
        return self.run_staged(inputs).outputs

    def run_staged(self, inputs: Tensors) -> StagedOutputs:
        """Execute the graph once, and time the parts."""
        with self._lock:
            if self._session is None:
                raise ValueError("this runtime is closed")
            # A new one each time: an old one would give its last outputs for memory to write into, of
            # the wrong size where the batch has changed.
            binding = self._session.io_binding()
            started = time.perf_counter()
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, self._on_device(name, value))
            for name in self._outputs:
                binding.bind_output(name, self.device, 0)
            binding.synchronize_inputs()
            copied = time.perf_counter()
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            computed = time.perf_counter()
            values = binding.copy_outputs_to_cpu()
            done = time.perf_counter()
        return StagedOutputs(
            cast(Tensors, dict(zip(self._outputs, values, strict=True))),
            copy_to_device_ms=1000 * (copied - started),
            inference_ms=1000 * (computed - copied),
            copy_back_ms=1000 * (done - computed),
        )

    def close(self) -> None:
        """Drop the session and the input's memory."""
        with self._lock:
            self._session = None
            self._inputs.clear()

    def _on_device(self, name: str, value: Any) -> Any:  # noqa: ANN401
        """Copy an input; memory is taken only when its size changes, for that makes CUDA wait."""
        held = self._inputs.get(name)
        if held is None or tuple(held.shape()) != value.shape:
            held = self._ort.OrtValue.ortvalue_from_shape_and_type(
                value.shape, value.dtype.type, self.device, 0
            )
            self._inputs[name] = held
        held.update_inplace(value)
        return held


def open_runtime(
    bundle: Bundle,
    resolution: Resolution,
    device: str,
    threads: int | None,
    *,
    spin: bool = True,
    allow_fallback: bool = False,
) -> OnnxRuntime | OnnxRuntimeOnDevice:
    """Open a session on exactly the device asked for; `auto` is CUDA where it works, else the CPU.

    With `allow_fallback`, the CPU may compute what CUDA cannot.

    Raises:
        UnavailableError: the device is not here, or cannot compute a part of the graph, with the reason.
        InputError: ONNX Runtime cannot load the graph.
    """
    ort = import_onnxruntime()
    problem = _cuda_problem(ort.get_available_providers(), bundle.manifest.precision)
    if device == "cuda" and problem:
        raise UnavailableError(f"--device cuda was asked for, but {problem}")
    if device == "auto":
        device = "cpu" if problem else "cuda"

    options = session_options(ort, threads)
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    missing = ""
    if device != "cpu":
        missing = load_cuda_libraries(ort)
        # cuDNN's every try at a convolution that it then computes in another way is an "error" there.
        ort.set_default_logger_severity(_LOG_FATAL_ONLY)
        # `session.disable_cpu_ep_fallback` would refuse the sizes' arithmetic too.
        options.add_session_config_entry(*RECORD_ENTRY)
    path = bundle.model_path_for("onnxruntime", device, resolution)
    try:
        session = ort.InferenceSession(
            str(path),
            options,
            providers=[(_PROVIDERS[device], _PROVIDER_OPTIONS[device])],
            enable_fallback=0,
        )
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        if device != "cpu":
            raise UnavailableError(
                f"--device {device} cannot run {path}: {one_line(error)}"
            ) from error
        raise InputError(f"{path} cannot be loaded by ONNX Runtime: {one_line(error)}") from error
    if session.get_providers()[0] != _PROVIDERS[device]:
        raise UnavailableError(
            f"--device {device} was asked for, but ONNX Runtime opened {session.get_providers()[0]}"
            f"{f': {missing}. Try' if missing else '. If libraries are missing, try'} `pip install"
            " 'onnxruntime-gpu[cuda,cudnn]'`"
        )
    if device == "cpu":
        return OnnxRuntime(session)
    nodes = assignment(session)
    strange = elsewhere(nodes, _PROVIDERS[device])
    if strange and not allow_fallback:
        raise UnavailableError(
            f"--device {device} must compute the whole graph, but ONNX Runtime gave these operators"
            f" {in_words(strange)}. Try --device cpu, or --allow-fallback"
        )
    return OnnxRuntimeOnDevice(ort, session, device, nodes=nodes)


def session_options(ort: Any, threads: int | None) -> Any:  # noqa: ANN401
    """How sessions are opened, on any device."""
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def import_onnxruntime() -> Any:  # noqa: ANN401  (the package has no usable types)
    """Import ONNX Runtime as we want it: silent, and without writing to the user's home.

    Raises:
        UnavailableError: both of its wheels are installed.
    """
    _refuse_both_wheels()
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it opens a database when it loads
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _cuda_problem(providers: list[str], precision: Precision) -> str | None:
    """`providers` is what ONNX Runtime was compiled with; whether it works is the driver's to say."""
    if precision == "int8":
        return (
            "ONNX Runtime computes int8 on the CPU only: on CUDA it would do so in float32, and a part of it"
            " on the host. Try --device cpu, or on the GPU a bundle by --fp16, or --to tensorrt"
        )
    if problem := cuda_problem():
        return problem
    if _PROVIDERS["cuda"] not in providers:
        return (
            "the installed onnxruntime was built without CUDA. Try `pip uninstall onnxruntime` and then"
            " `pip install 'depthmask[gpu]'`"
        )
    return None


def load_cuda_libraries(ort: Any) -> str:  # noqa: ANN401
    """Load CUDA and cuDNN, also from NVIDIA's Python packages, where ONNX Runtime does not look by itself.

    Returns:
        What it prints of those that it needs and did not find, in one line.
    """
    if not hasattr(ort, "preload_dlls"):
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls(msvc=False)
    return "; ".join(line.strip() for line in printed.getvalue().splitlines() if line.strip())


def _refuse_both_wheels() -> None:
    """Both wheels own the same files: the one installed last wins, removing one breaks the other."""
    found = []
    for wheel in ("onnxruntime", "onnxruntime-gpu"):
        try:
            importlib.metadata.distribution(wheel)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(wheel)
    if len(found) == 2:
        raise UnavailableError(
            "either onnxruntime or onnxruntime-gpu must be installed, but both are, and they overwrite"
            " each other's files. Try `pip uninstall onnxruntime onnxruntime-gpu`, then install one"
        )
