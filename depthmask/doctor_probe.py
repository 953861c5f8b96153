"""`python -m depthmask.doctor_probe NAME`: try one thing, and print what happened as a line of JSON.

A process of its own, since a broken library may end it.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from depthmask.bundle import SHIPPED_BUNDLE, open_bundle
from depthmask.devices import cuda_architecture, cuda_problem
from depthmask.engine import PRODUCTS, Flavour, ShapeRange
from depthmask.errors import DepthmaskError, UnavailableError
from depthmask.frames import Resolution
from depthmask.pipeline import Pipeline
from depthmask.runtimes import is_installed, package_of

Answer = dict[str, str]

_SMALLEST = Resolution(64, 64)
_FRAME_HW3 = np.full((48, 64, 3), 128, np.uint8)
_LIBRARIES = (
    "libnvinfer.so.11",
    "libnvinfer.so.10",
    "libnvonnxparser.so.11",
    "libnvonnxparser.so.10",
)


def probe(name: str) -> Answer:
    """`state`, `detail` and perhaps `mend` of a runtime, or of `tensorrt-libraries`."""
    if name == "tensorrt-libraries":
        return _libraries()
    if not is_installed(name):
        return {"state": "not there", "detail": ""}
    try:
        if name == "tensorrt":
            return _tensorrt()
        if name == "tensorrt-rtx":
            return _tensorrt_rtx()
        if name == "onnxruntime-tensorrt":
            return _onnxruntime_tensorrt()
        return _run(name, "cpu")
    except (DepthmaskError, ImportError, OSError, RuntimeError) as error:
        return {"state": "broken", "detail": " ".join(str(error).split())}


def _run(name: str, device: str) -> Answer:
    """The shipped bundle on one frame."""
    started = time.perf_counter()
    with Pipeline.open(runtime=name, device=device, resolution=_SMALLEST) as pipeline:
        opened = time.perf_counter()
        prediction = pipeline(_FRAME_HW3)
    if not np.isfinite(prediction.depth_HW).all():
        return {"state": "broken", "detail": f"{_named(name)} gives values that are not finite"}
    ran_ms = 1000 * (time.perf_counter() - opened)
    detail = f"{_named(name)}, ran the shipped bundle on the {'CPU' if device == 'cpu' else 'GPU'}"
    detail += f" (opened in {opened - started:.1f} s, a frame in {ran_ms:.0f} ms)"
    if name == "onnxruntime":
        detail += f"; CUDA: {_onnxruntime_cuda()}"
    return {"state": "ok", "detail": detail}


def _onnxruntime_cuda() -> str:
    """Whether it truly runs there; what it was compiled with says nothing."""
    try:
        with Pipeline.open(runtime="onnxruntime", device="cuda", resolution=_SMALLEST) as pipeline:
            pipeline(_FRAME_HW3)
    except DepthmaskError as error:
        return f"no ({error})"
    return "yes, ran the shipped bundle"


def _onnxruntime_tensorrt() -> Answer:
    """Two packages of the right versions and a GPU; what is missing is no fault of the machine's."""
    try:
        return _run("onnxruntime-tensorrt", "cuda")
    except UnavailableError as error:
        return {"state": "not there", "detail": str(error), "mend": "see there, and docs/gpu.md"}


def _tensorrt() -> Answer:
    if problem := cuda_problem():
        return {
            "state": "not there",
            "detail": f"{_named('tensorrt')}, but {problem}",
            "mend": "it needs an NVIDIA GPU: docs/gpu.md",
        }
    return _built("tensorrt", ())


def _tensorrt_rtx() -> Answer:
    problem = cuda_problem()
    if problem is None:
        from depthmask.export.tensorrt_builder import architecture_names
        from depthmask.tensorrt_module import import_tensorrt

        here = cuda_architecture()
        if here in architecture_names(import_tensorrt("tensorrt-rtx")):
            return _built("tensorrt-rtx", ())
        problem = f"TensorRT-RTX has none for the GPU here, {here}"
    answer = _built("tensorrt-rtx", ("sm89",))
    answer["detail"] += f"; it cannot run one: {problem}"
    return answer


def _built(flavour: Flavour, architectures: tuple[str, ...]) -> Answer:
    """An engine of the shipped bundle, run where there is a GPU."""
    from depthmask.export.tensorrt_builder import build
    from depthmask.tensorrt_module import import_tensorrt

    trt = import_tensorrt(flavour)
    shape = (1, *_FRAME_HW3.shape)
    built = build(
        trt,
        open_bundle(SHIPPED_BUNDLE, check_files=False).model_path(_SMALLEST),
        lambda name, sides: ShapeRange(shape, shape, shape),
        product=PRODUCTS[flavour],
        architectures=architectures,
        level=0,
    )
    detail = f"{_named(flavour)}, built the shipped bundle's engine in {built.build_s:.1f} s"
    if architectures:
        return {"state": "ok", "detail": f"{detail} for {', '.join(architectures)}"}
    return _ran_engine(flavour, detail)


def _ran_engine(flavour: Flavour, detail: str) -> Answer:
    from depthmask.export.engines import EngineOptions
    from depthmask.export.targets import rebuild

    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(SHIPPED_BUNDLE, Path(name) / "b"))
        rebuild(folder, EngineOptions(flavour=flavour, level=0))
        with Pipeline.open(folder, resolution=_SMALLEST) as pipeline:
            pipeline(_FRAME_HW3)
    return {"state": "ok", "detail": f"{detail} and ran it on the GPU"}


def _libraries() -> Answer:
    found = [name for name in _LIBRARIES if _loads(name)]
    kinds = {name.split(".")[0] for name in found}
    missing = sorted({name.split(".")[0] for name in _LIBRARIES} - kinds)
    if not found:
        return {"state": "not there", "detail": f"{' and '.join(missing)} cannot be loaded"}
    if missing:
        return {"state": "broken", "detail": f"{', '.join(found)}, but no {' and '.join(missing)}"}
    return {"state": "ok", "detail": ", ".join(found)}


def _loads(name: str) -> bool:
    """From where the system looks, or from the Python package that has them."""
    package = importlib.util.find_spec("tensorrt_libs")
    folders = (package.submodule_search_locations or []) if package is not None else []
    for path in (name, *(f"{folder}/{name}" for folder in folders)):
        try:
            ctypes.CDLL(path)
        except OSError:
            continue
        return True
    return False


def _named(name: str) -> str:
    module: Any = importlib.import_module(package_of(name))
    return f"{name} {getattr(module, '__version__', '(no version)')}"


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1])))
