"""ONNX Runtime's TensorRT provider: it builds an engine of the bundle's ONNX when it is opened, and keeps it.

Written against its documentation and source; not run on a GPU yet. The engines are its own: a bundle's are
for the runtime `tensorrt`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from depthmask.bundle import WEIGHTS_FILE, Bundle
from depthmask.cache import cache_folder
from depthmask.devices import cuda_architecture, cuda_problem
from depthmask.engine import ShapeRange
from depthmask.errors import UnavailableError
from depthmask.frames import Resolution
from depthmask.profiles import input_shape, shape_range
from depthmask.runtimes import require
from depthmask.runtimes.graph_assignment import RECORD_ENTRY, assignment, elsewhere, in_words
from depthmask.runtimes.onnxruntime_runtime import (
    OnnxRuntimeOnDevice,
    import_onnxruntime,
    load_cuda_libraries,
    session_options,
)
from depthmask.runtimes.provider_libraries import linked_libraries, missing_libraries, package_for
from depthmask.tensorrt_module import import_tensorrt

NAME = "onnxruntime-tensorrt"
PROVIDER = "TensorrtExecutionProvider"
_LIBRARY = "libonnxruntime_providers_tensorrt.so"


def open_runtime(
    bundle: Bundle,
    resolution: Resolution,
    device: str,
    threads: int | None,
    *,
    allow_fallback: bool = False,
) -> OnnxRuntimeOnDevice:
    """Open a session whose every node TensorRT computes; the first time, that builds an engine.

    Args:
        bundle: an opened bundle.
        resolution: one of the bundle's.
        device: `auto` or `cuda`.
        threads: of the host, which has little to do.
        allow_fallback: let CUDA, and at last the CPU, compute what TensorRT cannot.

    Raises:
        UnavailableError: there is no GPU, a package or library is missing (which, and what has it), or
            TensorRT cannot compute the whole graph.
        OutputError: the cache folder cannot be written.
    """
    require("onnxruntime")
    if device == "cpu":
        raise UnavailableError(
            f"--device cpu was asked for, but {NAME} has GPUs only. Try --runtime onnxruntime"
        )
    if problem := cuda_problem():
        raise UnavailableError(f"the runtime {NAME} needs a GPU, but {problem}")
    # CUDA and TensorRT would round what they multiply in float32 to TF32's 10 bits; their libraries look at
    # this when they load, and the provider has no option for it.
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    ort = import_onnxruntime()
    if PROVIDER not in ort.get_available_providers():
        raise UnavailableError(
            "the installed onnxruntime was built without TensorRT. Try `pip uninstall onnxruntime` and then"
            " `pip install 'depthmask[gpu]'`"
        )
    trt = import_tensorrt("tensorrt")  # which loads its libraries, so that the provider finds them
    load_cuda_libraries(ort)
    linked = linked_libraries(Path(ort.__file__).parent / "capi" / _LIBRARY)
    if missing := missing_libraries(linked):
        raise UnavailableError(
            f"ONNX Runtime's TensorRT provider needs {', '.join(missing)}, which cannot be loaded. Try"
            f" `pip install {package_for(missing, linked)}`"
        )
    settings = provider_options(
        bundle, resolution, f"onnxruntime-{ort.__version__}-tensorrt-{trt.__version__}"
    )
    options = session_options(ort, threads)
    options.add_session_config_entry(*RECORD_ENTRY)
    path = bundle.model_path_for(NAME, "cuda", resolution)
    others = ["CUDAExecutionProvider"] if allow_fallback else []
    try:
        session = ort.InferenceSession(
            str(path), options, providers=[(PROVIDER, settings), *others], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors have no common base of their own
        raise UnavailableError(f"{NAME} cannot run {path}: {error}") from error
    if session.get_providers()[0] != PROVIDER:
        raise UnavailableError(
            f"--runtime {NAME} was asked for, but ONNX Runtime opened {session.get_providers()[0]}"
        )
    nodes = assignment(session)
    strange = elsewhere(nodes, PROVIDER)
    if strange and not allow_fallback:
        raise UnavailableError(
            f"{NAME} must compute the whole graph, but ONNX Runtime gave these operators"
            f" {in_words(strange)}. Try --allow-fallback, or --runtime onnxruntime"
        )
    opened = OnnxRuntimeOnDevice(ort, session, "cuda", NAME, nodes=nodes)
    opened.run(_usual_input(bundle, resolution))  # so that the first frame is not the slow one
    return opened


def provider_options(bundle: Bundle, resolution: Resolution, versions: str) -> dict[str, str]:
    """What the provider is told: precision by the graph alone, its shapes, and where it keeps engines.

    Without `trt_fp16_enable` and `trt_int8_enable` it builds a strongly typed network (with TensorRT 9
    and newer): an fp16 graph stays one, and int8 is what QuantizeLinear says.
    """
    found = _input_range(bundle, resolution)
    name = bundle.manifest.input
    profile = {
        f"trt_profile_{word}_shapes": f"{name}:{'x'.join(map(str, shape))}"
        for word, shape in (("min", found.smallest), ("opt", found.best), ("max", found.largest))
    }
    times = cache_folder(NAME, versions, cuda_architecture())
    engines = cache_folder(NAME, versions, cuda_architecture(), _key(bundle, resolution, profile))
    return {
        "device_id": "0",
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
        **(profile if found.smallest != found.largest else {}),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(times),
    }


def _key(bundle: Bundle, resolution: Resolution, profile: dict[str, str]) -> str:
    """Changes with the graph, its weights and its shapes."""
    files = bundle.manifest.files
    graph = bundle.graph(resolution).file
    parts = [files[name].sha256 for name in (graph, WEIGHTS_FILE) if name in files]
    return hashlib.sha256("\n".join([*parts, *profile.values()]).encode()).hexdigest()[:32]


def _input_range(bundle: Bundle, resolution: Resolution) -> ShapeRange:
    graph = bundle.graph(resolution)
    shape = input_shape(bundle.manifest, graph)
    return shape_range(bundle.manifest, graph, bundle.manifest.input, shape)


def _usual_input(bundle: Bundle, resolution: Resolution) -> dict[str, Any]:
    name = bundle.manifest.input
    dtype = np.uint8 if name == "frame" else np.float32
    return {name: np.zeros(_input_range(bundle, resolution).best, dtype)}
