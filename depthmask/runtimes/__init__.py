"""What executes a bundle: one file per runtime, one call that all of them answer.

To add a runtime: write `depthmask/runtimes/NAME_runtime.py` with a function `open_runtime(bundle,
resolution, device, threads)` that returns a `Runtime`, and add a row to `_RUNTIMES`.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from depthmask.bundle import Bundle, Precision
from depthmask.errors import UnavailableError, UsageError
from depthmask.frames import Resolution

Tensors = dict[str, npt.NDArray[np.generic]]
Reads = Literal["graph", "engine", "source"]
"""What of a bundle a runtime executes: its ONNX, its TensorRT engine, or what it was exported from."""


class Runtime(Protocol):
    """An opened graph. `run` takes `frame` or `image` and gives `mask` and `depth`, as the bundle says."""

    name: str
    device: str

    def run(self, inputs: Tensors) -> Tensors:
        """Execute the graph once; shapes as in the bundle's graph."""
        ...

    def close(self) -> None:
        """Release the device's memory; `run` may not be called after."""
        ...


@dataclass(frozen=True)
class StagedOutputs:
    """What a run on a device apart from the CPU gave, and what its parts took."""

    outputs: Tensors
    copy_to_device_ms: float
    inference_ms: float
    copy_back_ms: float
    enqueue_ms: float | None = None
    """The host's time for handing the inference to the device, which works meanwhile; None: not known."""


@runtime_checkable
class StagedRuntime(Runtime, Protocol):
    """A runtime on a device of its own memory, which can tell the copies from the inference.

    The times come with the outputs and are not kept, so that calls from several threads do not mix them.
    """

    def run_staged(self, inputs: Tensors) -> StagedOutputs:
        """Execute the graph once, as `run` does."""
        ...


@dataclass(frozen=True)
class _Entry:
    package: str
    """What must be importable."""
    extra: str
    """The extra of depthmask that installs it."""
    reads: Reads = "graph"
    cannot: tuple[Precision, ...] = ()
    """Precisions of graphs that it does not compute in."""
    is_asked_for: bool = False
    """Whether it runs only where it is named: never by `auto`, nor where all runtimes are compared."""


# In the order in which `auto` tries those that read the graph; a bundle with engines is for what built
# them, and torch must be asked for by name.
_RUNTIMES = {
    "onnxruntime": _Entry("onnxruntime", "cpu", cannot=("bf16",)),
    "onnxruntime-tensorrt": _Entry("tensorrt", "tensorrt", cannot=("bf16",), is_asked_for=True),
    "openvino": _Entry("openvino", "openvino"),
    "tensorrt": _Entry("tensorrt", "tensorrt", "engine", ("bf16",)),
    "tensorrt-rtx": _Entry("tensorrt_rtx", "tensorrt-rtx", "engine", ("bf16",)),
    "torch": _Entry("torch", "export", "source"),
}
DEVICES = ("auto", "cpu", "cuda")


def names() -> tuple[str, ...]:
    """The runtimes that depthmask knows, installed or not."""
    return tuple(_RUNTIMES)


def installed(reads: Reads | None = None) -> tuple[str, ...]:
    """Those whose package can be imported here; all, or of one kind those that need not be named."""
    return tuple(
        name
        for name, entry in _RUNTIMES.items()
        if (reads is None or (reads == entry.reads and not entry.is_asked_for))
        and is_installed(name)
    )


def package_of(name: str) -> str:
    """What must be importable for a runtime."""
    return _RUNTIMES[name].package


def extra_of(name: str) -> str:
    """The extra of depthmask that installs a runtime."""
    return _RUNTIMES[name].extra


def for_precision(precision: Precision) -> tuple[str, ...]:
    """Those, installed or not, that compute graphs in a precision (torch runs the source in fp32)."""
    return tuple(name for name, entry in _RUNTIMES.items() if precision not in entry.cannot)


def require_precision(precision: Precision) -> None:
    """Check that this machine can compute in a precision, before a bundle is made in it.

    Raises:
        UnavailableError: it cannot, with the reason.
    """
    if precision == "bf16":
        require("openvino")
        from depthmask.runtimes import openvino_runtime

        openvino_runtime.require_bf16()


def require(name: str) -> None:
    """Check that a runtime is known and its package is here.

    Raises:
        UsageError: there is none of that name.
        UnavailableError: its package is not installed.
    """
    if name not in _RUNTIMES:
        raise UsageError(f"a runtime must be one of {', '.join(_RUNTIMES)}, but got {name!r}")
    if not is_installed(name):
        entry = _RUNTIMES[name]
        raise UnavailableError(
            f"the runtime {name} needs the package {entry.package}, which is not installed. Try"
            f" `pip install 'depthmask[{entry.extra}]'`"
        )


def choose(bundle: Bundle, runtime: str) -> str:
    """The runtime that `auto` stands for; any other name is its own.

    It is what built the bundle's engines, if it has any: the bundle was exported for that. Else it is the
    first that is installed.

    Raises:
        UnavailableError: none is installed.
    """
    if runtime != "auto":
        return runtime
    if bundle.manifest.engines:
        return bundle.manifest.engines[0].flavour
    able = for_precision(bundle.manifest.precision)
    candidates = [
        name
        for name in able
        if _RUNTIMES[name].reads == "graph" and not _RUNTIMES[name].is_asked_for
    ]
    for name in candidates:
        if is_installed(name):
            return name
    raise UnavailableError(
        f"running a bundle in {bundle.manifest.precision} needs a runtime ({' or '.join(candidates)}), but"
        f" none is installed. Try `pip install 'depthmask[{_RUNTIMES[candidates[0]].extra}]'`"
    )


def open_runtime(
    bundle: Bundle,
    resolution: Resolution,
    *,
    runtime: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    spin: bool = True,
    allow_fallback: bool = False,
) -> Runtime:
    """Open a bundle's graph on the runtime (see `choose`) and device asked for, and on no other.

    Without `spin`, ONNX Runtime's threads do not wait awake for each other: a little slower alone, a
    fifth faster beside other work that wants the same cores. (Other runtimes have no such setting.)
    With `allow_fallback`, what ONNX Runtime's provider cannot compute another does; the opened runtime tells.

    Raises:
        UsageError: there is no runtime or device of that name; it knows no fallback.
        UnavailableError: the package or the device is not here, with the reason.
    """
    if device not in DEVICES:
        raise UsageError(f"a device must be one of {', '.join(DEVICES)}, but got {device!r}")
    runtime = choose(bundle, runtime)
    require(runtime)
    able = for_precision(bundle.manifest.precision)
    if runtime not in able:
        raise UnavailableError(
            f"a bundle in {bundle.manifest.precision} must be computed in it, but {runtime} cannot. Try"
            f" --runtime {able[0]}, or a bundle in fp32"
        )
    module: Any = importlib.import_module(f"depthmask.runtimes.{runtime.replace('-', '_')}_runtime")
    settings = {} if spin or runtime != "onnxruntime" else {"spin": False}
    if allow_fallback:
        if not runtime.startswith("onnxruntime"):
            raise UsageError(
                f"a fallback is ONNX Runtime's: {runtime} runs the whole graph or nothing of it. Try without"
            )
        settings["allow_fallback"] = True
    opened: Runtime = module.open_runtime(bundle, resolution, device, threads, **settings)
    return opened


def is_installed(name: str) -> bool:
    """Whether the package of a runtime can be imported; nothing is imported for it."""
    return importlib.util.find_spec(_RUNTIMES[name].package) is not None
