"""ONNX Runtime, on the CPU or on CUDA. Strict: nodes never fall back to another device."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any, cast

from depthmask.bundle import Bundle
from depthmask.devices import cuda_problem
from depthmask.errors import InputError, UnavailableError
from depthmask.frames import Resolution
from depthmask.runtimes import Tensors

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_LOG_ERRORS_ONLY = 3


class OnnxRuntime:
    """An ONNX Runtime session."""

    name = "onnxruntime"

    def __init__(self, session: Any, device: str) -> None:  # noqa: ANN401
        self.device = device
        self._session: Any = session
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: Tensors) -> Tensors:
        """Execute the graph once."""
        if self._session is None:
            raise ValueError("this runtime is closed")
        values = self._session.run(self._outputs, inputs)
        return cast(Tensors, dict(zip(self._outputs, values, strict=True)))

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def open_runtime(
    bundle: Bundle,
    resolution: Resolution,
    device: str,
    threads: int | None,
    *,
    spin: bool = True,
) -> OnnxRuntime:
    """Open a session on exactly the device asked for; `auto` is CUDA where it works, else the CPU.

    Raises:
        UnavailableError: the device is not here, with the reason.
        InputError: ONNX Runtime cannot load the graph.
    """
    ort = import_onnxruntime()
    problem = _cuda_problem(ort.get_available_providers())
    if device == "cuda" and problem:
        raise UnavailableError(f"--device cuda was asked for, but {problem}")
    if device == "auto":
        device = "cpu" if problem else "cuda"

    options = session_options(ort, threads)
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    path = bundle.model_path(resolution)
    try:
        session = ort.InferenceSession(
            str(path), options, providers=[_PROVIDERS[device]], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        if device != "cpu":
            raise UnavailableError(f"--device {device} cannot run {path}: {error}") from error
        raise InputError(f"{path} cannot be loaded by ONNX Runtime: {error}") from error
    if session.get_providers()[0] != _PROVIDERS[device]:
        raise UnavailableError(
            f"--device {device} was asked for, but ONNX Runtime opened {session.get_providers()[0]}"
        )
    return OnnxRuntime(session, device)


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


def _cuda_problem(providers: list[str]) -> str | None:
    """`providers` is what ONNX Runtime was compiled with; whether it works is the driver's to say."""
    if problem := cuda_problem():
        return problem
    if _PROVIDERS["cuda"] not in providers:
        return (
            "the installed onnxruntime was built without CUDA. Try `pip uninstall onnxruntime` and then"
            " `pip install 'depthmask[gpu]'`"
        )
    return None


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
