"""OpenVINO on the CPU, reading the bundle's ONNX."""

from __future__ import annotations

import importlib
import sys
import threading
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from depthmask.bundle import IMAGE_TENSOR, Bundle
from depthmask.errors import InputError, UnavailableError
from depthmask.frames import Resolution
from depthmask.runtimes import Tensors
from depthmask.untrusted import one_line

# What computes in bfloat16; without, OpenVINO would emulate it or compute in float32.
_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})


class OpenVino:
    """Compiled OpenVINO models, one behind the other, with one request each.

    Calls from several threads wait for each other: a request computes one input at a time.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, *compiled: Any) -> None:  # noqa: ANN401  (openvino has no usable types)
        self._networks = compiled[-1]
        self._requests: list[Any] = [model.create_infer_request() for model in compiled]
        self._outputs = [output.get_any_name() for output in compiled[-1].outputs]
        self._lock = threading.Lock()

    def run(self, inputs: Tensors) -> Tensors:
        """Execute the graph once."""
        with self._lock:
            if not self._requests:
                raise ValueError("this runtime is closed")
            *first, last = self._requests
            try:
                for request in first:
                    values = request.infer(inputs)
                    inputs = {IMAGE_TENSOR: values[IMAGE_TENSOR]}
                values = last.infer(inputs)
            except RuntimeError as error:
                raise InputError(
                    f"the graph cannot be run by OpenVINO: {one_line(error)}"
                ) from error
        return {name: values[name] for name in self._outputs}

    @property
    def precisions(self) -> Counter[str]:
        """How many nodes of the networks compute in each precision, by OpenVINO's own account."""
        nodes = self._networks.get_runtime_model().get_ops()
        return Counter(node.get_rt_info()["runtimePrecision"].astype(str) for node in nodes)

    def close(self) -> None:
        """Drop the requests."""
        with self._lock:
            self._requests = []


def open_runtime(
    bundle: Bundle, resolution: Resolution, device: str, threads: int | None
) -> OpenVino:
    """Compile for the CPU, in the precision of the bundle.

    Raises:
        UnavailableError: another device than the CPU was asked for, or it cannot compute in bf16.
        InputError: OpenVINO cannot load the graph.
    """
    if device not in ("auto", "cpu"):
        raise UnavailableError(
            f"--device {device} was asked for, but the openvino runtime has the CPU only. Try"
            " --runtime onnxruntime"
        )
    in_bf16 = bundle.manifest.precision == "bf16"
    if in_bf16:
        require_bf16()
    path = bundle.model_path_for("openvino", "cpu", resolution)
    try:
        if in_bf16:
            opened = OpenVino(*_compile_bf16(path, threads))
        else:
            opened = OpenVino(compile_for_cpu(str(path), threads))
    except (RuntimeError, UnicodeDecodeError) as error:  # a damaged name in its message
        raise InputError(f"{path} cannot be loaded by OpenVINO: {one_line(error)}") from error
    if in_bf16 and not opened.precisions["bf16"]:
        raise UnavailableError(
            f"a bundle in bf16 must be computed in it, but OpenVINO computes {path} without. Try a"
            " bundle in fp32"
        )
    return opened


def require_bf16() -> None:
    """Check that this CPU, and OpenVINO on it, computes in bfloat16.

    Raises:
        UnavailableError: it does not, with the reason.
    """
    flags = _cpu_flags()
    if not flags & _BF16_FLAGS:
        raise UnavailableError(
            "bf16 needs a CPU with avx512_bf16 or amx_bf16, but this one has neither. Try fp32 or --int8"
        )
    if "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UnavailableError(
            "bf16 needs an OpenVINO that computes in it, but this one does not. Try fp32 or --int8"
        )


def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2] for line in lines if line.startswith("flags"))
    return frozenset(next(found, "").split())


def _compile_bf16(path: Path, threads: int | None) -> list[Any]:
    """The preprocessing in float32, where there is one, and the networks in bfloat16.

    Positions in a frame, up to thousands of pixels, do not fit the 8 bits of bfloat16. OpenVINO has no
    public way to leave out a part of a model, so there are two.
    """
    openvino = import_openvino()
    networks = core().read_model(str(path))
    compiled = []
    if IMAGE_TENSOR not in {name for value in networks.inputs for name in value.get_names()}:
        image = _tensor(networks, IMAGE_TENSOR)
        preprocessing = openvino.Model([image], networks.get_parameters())
        compiled.append(compile_for_cpu(preprocessing, threads))
        given = openvino.opset8.parameter(image.get_partial_shape(), image.get_element_type())
        given.output(0).set_names({IMAGE_TENSOR})
        for user in image.get_target_inputs():
            user.replace_source_output(given.output(0))
        networks = openvino.Model(networks.get_results(), [given])
    compiled.append(compile_for_cpu(networks, threads, INFERENCE_PRECISION_HINT="bf16"))
    return compiled


def _tensor(model: Any, name: str) -> Any:  # noqa: ANN401
    for node in model.get_ops():
        for output in node.outputs():
            if name in output.get_names():
                return output
    raise RuntimeError(f"it holds no tensor named {name}")


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
    return import_openvino().Core()


def import_openvino() -> Any:  # noqa: ANN401  (the package has no usable types)
    """Import OpenVINO as we want it: without a call to Google Analytics, which it makes when it loads."""
    name = "openvino_telemetry"
    if name in sys.modules:  # somebody else's import, and done
        return importlib.import_module("openvino")
    sys.modules[name] = None  # type: ignore[assignment]  # not to be found: OpenVINO has a stub for that
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[name]


def configuration(threads: int | None) -> dict[str, Any]:
    """How graphs are compiled for the CPU: in their own precision, for one frame after the other."""
    # By default OpenVINO computes in bfloat16 where the CPU has it, without a word; an fp16 graph
    # is computed in fp32 too, on the rounded weights, as long as the CPU has no fp16 of its own.
    found: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        found["INFERENCE_NUM_THREADS"] = threads
    return found
