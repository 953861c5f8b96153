"""What of this machine depthmask can use: each part looked at, each runtime truly run.

What may crash or hang (runtimes, other people's libraries) is tried in a process of its own
(`depthmask.doctor_probe`).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from depthmask.devices import cuda_architecture, cuda_driver_version, cuda_problem
from depthmask.errors import UnavailableError
from depthmask.runtimes import extra_of, names, package_of
from depthmask.version import __version__

State = Literal["ok", "not there", "broken"]

_OLDEST_PYTHON = (3, 11)
_PROBE_TIMEOUT_S = 120
_LEAST_FREE_BYTES = 200 << 20
_CPU_FEATURES = (
    "sse4_2",
    "avx2",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
)
_ARM_FEATURES = ("asimd", "asimdhp", "asimddp", "i8mm", "bf16")
_GPU_HELP = "docs/gpu.md"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One part of the machine."""

    name: str
    state: State
    detail: str
    mend: str | None = None
    """What to do where it is not ok."""


def examine() -> Iterator[Finding]:
    """Look at everything, one finding after the other; a check that fails is a finding, never an error."""
    for name, check in _checks():
        try:
            yield check()
        except Exception as error:  # the doctor must not fall ill
            yield Finding(name=name, state="broken", detail=f"{type(error).__name__}: {error}")


def _checks() -> Iterator[tuple[str, Callable[[], Finding]]]:
    yield "depthmask", lambda: Finding(name="depthmask", state="ok", detail=__version__)
    yield "Python", _python
    yield "system", _system
    yield "CPU", _cpu
    yield "onnxruntime wheels", _wheels
    for name in names():
        yield name, partial(_runtime, name)
    yield "NVIDIA driver", _driver
    yield "GPU", _gpu
    yield "TensorRT libraries", _tensorrt_libraries
    yield "cameras", _cameras
    yield "display", _display
    yield "disk", _disk


def _python() -> Finding:
    version = platform.python_version()
    fits = sys.version_info[:2] >= _OLDEST_PYTHON
    return Finding(
        name="Python",
        state="ok" if fits else "broken",
        detail=f"{version}, {sys.executable}",
        mend=None if fits else "install Python 3.11 or newer",
    )


def _system() -> Finding:
    detail = f"{platform.system()} {platform.release()}, {platform.machine()}"
    linux = sys.platform.startswith("linux")
    if linux:
        detail += f", {' '.join(platform.libc_ver()) or 'no glibc'}"
    return Finding(
        name="system",
        state="ok" if linux else "broken",
        detail=detail,
        mend=None if linux else "depthmask is tested on Linux only",
    )


def _cpu() -> Finding:
    text = _read("/proc/cpuinfo") or ""
    lines = [line.partition(":") for line in text.splitlines()]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    found = [name for name in (*_CPU_FEATURES, *_ARM_FEATURES) if name in flags]
    model = fields.get("model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0))
    return Finding(
        name="CPU",
        state="ok",
        detail=f"{model}, {cores} usable cores, {' '.join(found) or 'no known extension'}",
    )


def _wheels() -> Finding:
    """Both wheels of ONNX Runtime own the same files."""
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    listed = ", ".join(f"{name} {_version(name)}" for name in found)
    if len(found) == 2:
        return Finding(
            name="onnxruntime wheels",
            state="broken",
            detail=f"{listed}: they overwrite each other's files",
            mend="pip uninstall onnxruntime onnxruntime-gpu, then install one: depthmask[cpu] or [gpu]",
        )
    if not found:
        return Finding(
            name="onnxruntime wheels",
            state="not there",
            detail="neither onnxruntime nor onnxruntime-gpu is installed",
            mend="pip install 'depthmask[cpu]' or, for a GPU, 'depthmask[gpu]'",
        )
    return Finding(name="onnxruntime wheels", state="ok", detail=listed)


def _runtime(name: str) -> Finding:
    package = package_of(name)
    install = f"pip install 'depthmask[{extra_of(name)}]'"
    found = _probe(name)
    state, detail = found["state"], found["detail"]
    mend = None if state == "ok" else found.get("mend", install)
    if state == "not there" and detail == "":
        detail = f"the package {package} is not installed"
    return Finding(name=name, state=state, detail=detail, mend=mend)


def _probe(name: str) -> dict[str, Any]:
    """What `depthmask.doctor_probe` found; a crash or a hang of it is a finding too."""
    command = [sys.executable, "-m", "depthmask.doctor_probe", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"state": "broken", "detail": f"it does not answer within {_PROBE_TIMEOUT_S} s"}
    if done.returncode < 0:
        crash = signal.Signals(-done.returncode).name
        return {"state": "broken", "detail": f"it crashes ({crash})", "mend": "install it again"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return {"state": "broken", "detail": last, "mend": "install it again"}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _driver() -> Finding:
    problem = cuda_problem()
    version = cuda_driver_version()
    kernel = (_read("/proc/driver/nvidia/version") or "").split("  ")
    module = next((part.strip() for part in kernel if part.strip()[:1].isdigit()), None)
    detail = ", ".join(
        text
        for text in (
            f"kernel module {module}" if module else None,
            f"serves CUDA up to {version}" if version else None,
        )
        if text
    )
    if problem is None:
        return Finding(name="NVIDIA driver", state="ok", detail=detail)
    present = bool(version or module)
    return Finding(
        name="NVIDIA driver",
        state="broken" if present else "not there",
        detail=f"{problem}; {detail}" if detail else problem,
        mend=f"{_GPU_HELP} tells how to install one",
    )


def _gpu() -> Finding:
    if cuda_problem() is not None:
        cards = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
        detail = f"the kernel sees {cards}, but CUDA none" if cards else "no NVIDIA GPU is in use"
        return Finding(
            name="GPU",
            state="broken" if cards else "not there",
            detail=detail,
            mend="mend the driver first" if cards else "none needed for the CPU runtimes",
        )
    try:
        return Finding(name="GPU", state="ok", detail=cuda_architecture())
    except UnavailableError as error:
        return Finding(name="GPU", state="broken", detail=str(error), mend="reboot the machine")


def _tensorrt_libraries() -> Finding:
    found = _probe("tensorrt-libraries")
    return Finding(
        name="TensorRT libraries",
        state=found["state"],
        detail=found["detail"],
        mend=None if found["state"] == "ok" else f"{_GPU_HELP} tells where they come from",
    )


def _cameras() -> Finding:
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        return Finding(
            name="cameras",
            state="not there",
            detail="there is no /dev/video*",
            mend="plug one in; in a container, pass it with --device /dev/video0",
        )
    closed = [str(path) for path in devices if not os.access(path, os.R_OK | os.W_OK)]
    named = ", ".join(
        f"{path} ({(_read(f'/sys/class/video4linux/{path.name}/name') or 'no name').strip()})"
        for path in devices
    )
    return Finding(
        name="cameras",
        state="broken" if closed else "ok",
        detail=f"no permission for {', '.join(closed)}" if closed else named,
        mend="sudo usermod -aG video $USER, then log in again" if closed else None,
    )


def _display() -> Finding:
    shown = {
        name: os.environ[name] for name in ("WAYLAND_DISPLAY", "DISPLAY") if os.environ.get(name)
    }
    if not shown:
        return Finding(
            name="display",
            state="not there",
            detail="neither DISPLAY nor WAYLAND_DISPLAY is set",
            mend="dmx run --out writes files, and needs none",
        )
    listed = ", ".join(f"{name}={value}" for name, value in shown.items())
    local = shown.get("DISPLAY", "").removeprefix("unix").split(".")[0]
    socket = Path(f"/tmp/.X11-unix/X{local[1:]}")
    if "WAYLAND_DISPLAY" not in shown and local.startswith(":") and not socket.exists():
        return Finding(
            name="display",
            state="broken",
            detail=f"{listed}, but no X server is there ({socket} is missing)",
            mend="start one, or unset DISPLAY",
        )
    return Finding(name="display", state="ok", detail=listed)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    writable = os.access(Path.cwd(), os.W_OK)
    enough = free >= _LEAST_FREE_BYTES
    detail = f"{free / 1e9:.1f} GB free in {Path.cwd()}"
    return Finding(
        name="disk",
        state="ok" if enough and writable else "broken",
        detail=detail if writable else f"{detail}, which cannot be written",
        mend=None if enough and writable else "free some space, or work in another folder",
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return None
