"""NVIDIA's management library, asked through the package nvidia-ml-py (`pynvml`), which is optional.

What this GPU, this driver or this user may not tell is None, never guessed. Names, units and bits are those
of nvml.h, which NVIDIA documents in its NVML API reference.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from depthmask.devices import cuda_bus_id


class GpuHardware(msgspec.Struct, frozen=True, kw_only=True):
    """The GPU that CUDA numbers 0, and its driver."""

    name: str
    memory_bytes: int | None
    driver: str | None
    cuda: str | None
    """The newest CUDA that the driver can run, not the one that a package brings."""


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the library knows it."""

    nvml: Any
    """The module `pynvml`."""
    handle: Any

    def ask(self, function: str, *arguments: object) -> Any:  # noqa: ANN401  (as the library answers)
        """Call a function of the library on this GPU; None where that is not supported."""
        return self._call(function, self.handle, *arguments)

    def hardware(self) -> GpuHardware:
        """What it is."""
        memory = self.ask("nvmlDeviceGetMemoryInfo")
        cuda = self._call("nvmlSystemGetCudaDriverVersion")
        return GpuHardware(
            name=self.ask("nvmlDeviceGetName") or "a GPU without a name",
            memory_bytes=None if memory is None else int(memory.total),
            driver=self._call("nvmlSystemGetDriverVersion"),
            # 12040 is 12.4
            cuda=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        )

    def memory_by_process(self) -> dict[int, int]:
        """Bytes of the GPU's memory that each process computing on it holds, by process id."""
        processes = self.ask("nvmlDeviceGetComputeRunningProcesses_v3") or ()
        return {p.pid: int(p.usedGpuMemory) for p in processes if p.usedGpuMemory is not None}

    def _call(self, function: str, *arguments: object) -> Any:  # noqa: ANN401
        known = getattr(self.nvml, function, None)
        if known is None:
            return None
        try:
            return known(*arguments)
        except self.nvml.NVMLError:
            return None


def open_gpu(
    nvml: Any = None,  # noqa: ANN401
    bus_id: Callable[[], str | None] = cuda_bus_id,
) -> Gpu | None:
    """Find the GPU that CUDA numbers 0; None without one, its driver or nvidia-ml-py.

    Args:
        nvml: the module `pynvml`; imported unless a test brings its own.
        bus_id: gives the GPU's PCI address.
    """
    try:
        nvml = nvml or importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        address = bus_id()
        return None if address is None else Gpu(nvml, nvml.nvmlDeviceGetHandleByPciBusId(address))
    except nvml.NVMLError:
        return None


def memory_since(before: dict[int, int], after: dict[int, int]) -> int | None:
    """Of two answers of `Gpu.memory_by_process`, what this process holds in the later one, in bytes.

    In a container the library may number processes as the host does; then the only one that has come since
    is ours. None where that cannot be told.
    """
    come = [pid for pid in after if pid not in before]
    if os.getpid() in after:
        return after[os.getpid()]
    return after[come[0]] if len(come) == 1 else None
