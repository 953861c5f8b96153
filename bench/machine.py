"""The machine that a number was measured on. What cannot be read is None, never guessed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

import msgspec

from depthmask.bench.nvml import GpuHardware, open_gpu

PACKAGES = (
    "depthmask",
    "numpy",
    "opencv-python",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "torch",
)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Hardware and software, as far as they bear on speed."""

    cpu: str
    physical_cores: int | None
    logical_cores: int
    usable_cores: int
    """How many logical cores this process may run on (its affinity)."""
    cpu_quota_cores: float | None
    """A container's limit of CPU time, in cores; None where there is none."""
    memory_bytes: int | None
    gpus: tuple[str, ...]
    """NVIDIA's, as the kernel's driver names them."""
    os: str
    python: str
    packages: dict[str, str]
    governor: str | None
    """How the first core's clock is governed."""
    load_1min: float | None
    """Of the machine when the measuring began: what else was running."""
    gpu: GpuHardware | None = None
    """The one that CUDA uses; None: there is none, or nvidia-ml-py is not here to tell."""

    @property
    def summary(self) -> str:
        """One line, for titles."""
        cores = f"{self.usable_cores} of {self.logical_cores} logical cores"
        memory = "" if self.memory_bytes is None else f", {self.memory_bytes / 2**30:.0f} GiB"
        gpu = f", {self.gpu.name}" if self.gpu else ""
        return f"{self.cpu}, {cores}{memory}{gpu}, {self.os}"


def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    gpu = open_gpu()
    cpuinfo = _read("/proc/cpuinfo") or ""
    logical_cores = os.cpu_count() or 1
    affinity = os.sched_getaffinity(0) if sys.platform == "linux" else range(logical_cores)
    return Machine(
        cpu=_field(cpuinfo, "model name") or platform.processor() or platform.machine(),
        physical_cores=_physical_cores(cpuinfo),
        logical_cores=logical_cores,
        usable_cores=len(affinity),
        cpu_quota_cores=_cpu_quota_cores(),
        memory_bytes=_memory_bytes(),
        gpus=_gpus(),
        os=platform.platform(),
        python=platform.python_version(),
        packages=_package_versions(),
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_1min=_load_1min(),
        gpu=gpu.hardware() if gpu else None,
    )


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _field(text: str, name: str) -> str | None:
    """The first `name : value` of a /proc file."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() == name and value.strip():
            return value.strip()
    return None


def _physical_cores(cpuinfo: str) -> int | None:
    cores = {
        (_field(block, "physical id"), _field(block, "core id")) for block in cpuinfo.split("\n\n")
    }
    known = {core for core in cores if core[1] is not None}
    return len(known) or None


def _cpu_quota_cores() -> float | None:
    """Of the control group (version 2), which is what a container's --cpus sets."""
    quota, _, period = (_read("/sys/fs/cgroup/cpu.max") or "max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _memory_bytes() -> int | None:
    total = _field(_read("/proc/meminfo") or "", "memtotal")
    return 1024 * int(total.split()[0]) if total else None


def _gpus() -> tuple[str, ...]:
    """NVIDIA's, by the driver's own files: no tool is run and no driver woken."""
    folders = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
    found = (_field(_read(str(folder / "information")) or "", "model") for folder in folders)
    return tuple(model for model in found if model)


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _load_1min() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
