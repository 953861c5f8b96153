"""OpenVINO on the CPU, reading the bundle's ONNX."""

from __future__ import annotations

from functools import cache
from typing import Any

from depthmask.bundle import Bundle
from depthmask.errors import InputError, UnavailableError
from depthmask.frames import Resolution
from depthmask.runtimes import Tensors


class OpenVino:
    """A compiled OpenVINO model and one request."""

    name = "openvino"
    device = "cpu"

    def __init__(self, compiled: Any) -> None:  # noqa: ANN401  (openvino has no usable types)
        self._request: Any = compiled.create_infer_request()
        self._outputs = [output.get_any_name() for output in compiled.outputs]

    def run(self, inputs: Tensors) -> Tensors:
        """Execute the graph once."""
        if self._request is None:
            raise ValueError("this runtime is closed")
        values = self._request.infer(inputs)
        return {name: values[name] for name in self._outputs}

    def close(self) -> None:
        """Drop the request."""
        self._request = None


def open_runtime(
    bundle: Bundle, resolution: Resolution, device: str, threads: int | None
) -> OpenVino:
    """Compile for the CPU, in the precision of the graph.

    Raises:
        UnavailableError: another device than the CPU was asked for.
        InputError: OpenVINO cannot load the graph.
    """
    if device not in ("auto", "cpu"):
        raise UnavailableError(
            f"--device {device} was asked for, but the openvino runtime has the CPU only. Try"
            " --runtime onnxruntime"
        )
    path = bundle.model_path_for("openvino", "cpu", resolution)
    try:
        compiled = compile_for_cpu(str(path), threads)
    except RuntimeError as error:
        raise InputError(f"{path} cannot be loaded by OpenVINO: {error}") from error
    return OpenVino(compiled)


def compile_for_cpu(model: Any, threads: int | None, **properties: Any) -> Any:  # noqa: ANN401
    """A compiled model of a path or an OpenVINO model, as the runtime compiles it.

    Raises:
        RuntimeError: OpenVINO cannot load it.
    """
    return core().compile_model(model, "CPU", {**configuration(threads), **properties})


@cache
def core() -> Any:  # noqa: ANN401
    """The one `openvino.Core` of this process.

    Each core that has compiled for the CPU gives the thread a signal stack of its own (for AMX), and
    puts the one before it back when it goes: of two that go in the order in which they came, the
    second puts back one that the first has freed, and the next Ctrl-C is a segmentation fault.
    """
    import openvino

    return openvino.Core()


def configuration(threads: int | None) -> dict[str, Any]:
    """How graphs are compiled for the CPU: in their own precision, for one frame after the other."""
    # By default OpenVINO computes in bfloat16 where the CPU has it, without a word; an fp16 graph
    # is computed in fp32 too, on the rounded weights, as long as the CPU has no fp16 of its own.
    found: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        found["INFERENCE_NUM_THREADS"] = threads
    return found
