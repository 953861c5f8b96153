"""Graphs that take the normalised image, opened: a file as anyone would run it, and a bundle's as we do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from depthmask import runtimes
from depthmask.bundle import Bundle
from depthmask.errors import UsageError
from depthmask.frames import FloatArray, Resolution
from depthmask.runtimes.onnxruntime_runtime import import_onnxruntime
from depthmask.runtimes.openvino_runtime import compile_for_cpu

Run = Callable[[FloatArray], tuple[FloatArray, FloatArray]]
"""From image (1,3,H,W) to mask (1,1,H,W) and depth (1,1,h,w)."""


def file_run(path: Path, runtime: str, threads: int) -> Run:
    """An ONNX file whose outputs are mask and depth, with the runtime's defaults.

    Raises:
        UsageError: the runtime is neither `onnxruntime` nor `openvino`.
    """
    if runtime == "onnxruntime":
        return _session(path, threads)
    if runtime == "openvino":
        return openvino_run(str(path), threads)
    raise UsageError(f"a runtime must be onnxruntime or openvino, but got {runtime!r}")


def bundle_run(bundle: Bundle, resolution: Resolution, runtime: str, threads: int) -> Run:
    """A bundle's graph with `image` input on the CPU.

    Raises:
        DepthmaskError: as `runtimes.open_runtime`.
    """
    opened = runtimes.open_runtime(
        bundle, resolution, runtime=runtime, device="cpu", threads=threads
    )

    def run(image_13HW: FloatArray) -> tuple[FloatArray, FloatArray]:
        found = opened.run({"image": image_13HW})
        return np.asarray(found["mask"], np.float32), np.asarray(found["depth"], np.float32)

    return run


def openvino_run(model: object, threads: int) -> Run:
    """A path, or a model of OpenVINO's."""
    request = compile_for_cpu(model, threads).create_infer_request()

    def run(image_13HW: FloatArray) -> tuple[FloatArray, FloatArray]:
        found = request.infer([image_13HW])
        return found[0], found[1]

    return run


def _session(path: Path, threads: int) -> Run:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(image_13HW: FloatArray) -> tuple[FloatArray, FloatArray]:
        mask, depth = session.run(None, {name: image_13HW})
        return mask, depth

    return run
