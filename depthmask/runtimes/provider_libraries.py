"""The libraries that an execution provider of ONNX Runtime was linked with, and those that are missing here.

ONNX Runtime itself opens the next provider where one cannot be loaded, and tells only its log why.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

_LINKED = re.compile(
    rb"\blib(?:nvinfer|nvinfer_plugin|nvonnxparser|cudart|cublas|cublasLt|cudnn|cufft|curand)\.so\.\d+\b"
)


def linked_libraries(provider: Path) -> tuple[str, ...]:
    """Of CUDA and TensorRT, by the names in the file; none where it is missing."""
    content = provider.read_bytes() if provider.exists() else b""
    return tuple(sorted({found.decode("ascii") for found in _LINKED.findall(content)}))


def missing_libraries(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those that neither are loaded nor can be."""
    return tuple(name for name in names if not _loads(name))


def package_for(missing: tuple[str, ...], linked: tuple[str, ...]) -> str:
    """What to install, as `pip install` takes it, in the versions that the provider is linked with."""
    majors = {name.split(".")[0]: name.rpartition(".")[2] for name in linked}
    cuda = majors.get("libcudart", majors.get("libcublas", "12"))
    packages = []
    if any(name.startswith("libnv") for name in missing):
        packages.append(f"'tensorrt-cu{cuda}=={majors['libnvinfer']}.*'")
    if any(name.startswith("libcu") for name in missing):
        packages.append("'onnxruntime-gpu[cuda,cudnn]'")
    return " ".join(packages)


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
