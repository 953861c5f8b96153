"""TensorRT: a bundle's engine on the GPU that it was built for, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthmask.bundle import Bundle
from depthmask.devices import cuda_architecture, cuda_problem
from depthmask.engine import (
    PRODUCTS,
    EngineHeader,
    Flavour,
    Machine,
    graph_mismatch,
    host_code_problem,
    machine_mismatch,
    rebuild_command,
)
from depthmask.errors import UnavailableError
from depthmask.frames import Resolution
from depthmask.tensorrt_module import import_tensorrt

if TYPE_CHECKING:
    from depthmask.runtimes.engine_session import EngineSession


def open_runtime(
    bundle: Bundle, resolution: Resolution, device: str, threads: int | None
) -> EngineSession:
    """Load the engine of a resolution; see `open_engine`."""
    return open_engine("tensorrt", bundle, resolution, device)


def open_engine(
    flavour: Flavour, bundle: Bundle, resolution: Resolution, device: str
) -> EngineSession:
    """Load an engine, after everything that TensorRT would crash on has been ruled out.

    Raises:
        UnavailableError: there is no engine of this flavour, no GPU, or one of the two does not fit the
            other: with what was expected, what was found, and the command that rebuilds it.
    """
    product = PRODUCTS[flavour]
    header = _header(flavour, bundle, resolution)
    if device == "cpu":
        raise UnavailableError(
            f"--device cpu was asked for, but {product} has GPUs only. Try --runtime onnxruntime"
        )
    sha256 = {name: record.sha256 for name, record in bundle.manifest.files.items()}
    if problem := graph_mismatch(header, sha256):
        raise UnavailableError(f"{problem}. Try `{rebuild_command(bundle.path, header)}`")
    # Its Runtime is a segmentation fault where there is no driver.
    if problem := cuda_problem():
        raise UnavailableError(
            f"{header.file} is a {product} engine for {', '.join(header.architectures)}, but {problem}."
            " Try --runtime onnxruntime, which runs the bundle's ONNX on the CPU"
        )
    trt = import_tensorrt(flavour)
    machine = Machine(version=trt.__version__, architecture=cuda_architecture())
    if problem := machine_mismatch(header, machine):
        command = rebuild_command(bundle.path, header, machine.architecture)
        raise UnavailableError(f"{problem}. Try `{command}`")
    if problem := host_code_problem(header):
        raise UnavailableError(problem)
    from depthmask.runtimes.engine_session import EngineSession
    from depthmask.runtimes.kernel_cache import kernel_cache_path

    plan = (bundle.path / header.file).read_bytes()
    kernels = None
    if flavour == "tensorrt-rtx":
        kernels = kernel_cache_path(plan, machine.version, machine.architecture)
    try:
        return EngineSession(trt, plan, header, bundle.path / header.graph, kernels=kernels)
    except UnavailableError as error:
        command = rebuild_command(bundle.path, header, machine.architecture)
        raise UnavailableError(f"{error}. If it fits, try `{command}`") from error


def _header(flavour: Flavour, bundle: Bundle, resolution: Resolution) -> EngineHeader:
    graph = bundle.graph(resolution)
    engines = [header for header in bundle.manifest.engines if header.graph == graph.file]
    for header in engines:
        if header.flavour == flavour:
            return header
    held = f"one of {PRODUCTS[engines[0].flavour]}" if engines else "none"
    gpu = " --gpu sm89" if flavour == "tensorrt-rtx" else ""
    raise UnavailableError(
        f"the runtime {flavour} needs an engine of {PRODUCTS[flavour]}, but {bundle.path} has {held}. Try"
        f" `dmx export --rebuild {bundle.path} --to {flavour}{gpu}`"
    )
