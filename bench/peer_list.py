"""The peers: ways to run a chain's weights that are not ours, each at its own recommended settings.

Every peer takes the normalised image, (1,3,H,W) float32 in memory, and gives mask and depth in memory, in
float32 and with the same number of threads. To add one: a function from `Subject` to `Run`, and a row in
`PEERS`.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from depthmask.bench.benchmark_app import benchmark_app_ms, find_benchmark_app
from depthmask.bench.image_runs import Run, bundle_run, file_run, openvino_run
from depthmask.bundle import Bundle, open_bundle
from depthmask.chain import MaskDepthChain
from depthmask.errors import UnavailableError
from depthmask.export.exporter import export_chain
from depthmask.export.onnx_stage import OnnxStage
from depthmask.export.rewrite import RewriteOptions
from depthmask.frames import FloatArray, Resolution


@dataclass(frozen=True)
class OwnMeter:
    """A tool that times itself, in a process of its own; its outputs are not seen."""

    median_ms: Callable[[float], float]
    """Measures for so many seconds."""


@dataclass(frozen=True)
class Subject:
    """What every peer is given."""

    chain: MaskDepthChain
    """In evaluation mode; a peer that changes it makes a copy."""
    resolution: Resolution
    threads: int
    bundle: Bundle
    """Our export of the chain, with `image` input, at this resolution and maybe others."""
    folder: Path
    """For files; of this resolution only."""

    @property
    def example_13HW(self) -> torch.Tensor:
        """An image to trace with."""
        return torch.zeros(1, 3, self.resolution.height, self.resolution.width)


@dataclass(frozen=True)
class Peer:
    """One way to run the chain."""

    name: str
    settings: str
    """What it is run with, for people."""
    open: Callable[[Subject], Run | OwnMeter] = field(repr=False)
    """Converts and loads; raises UnavailableError where a package is missing."""
    ours: bool = False


def _ours(runtime: str) -> Callable[[Subject], Run]:
    def open_ours(subject: Subject) -> Run:
        return bundle_run(subject.bundle, subject.resolution, runtime, subject.threads)

    return open_ours


def _of_module(module: Any, memory_format: torch.memory_format = torch.contiguous_format) -> Run:  # noqa: ANN401
    def run(image_13HW: FloatArray) -> tuple[FloatArray, FloatArray]:
        with torch.inference_mode():
            image = torch.from_numpy(image_13HW).contiguous(memory_format=memory_format)
            mask, depth = module(image)
            return mask.numpy(), depth.numpy()

    return run


def _eager(subject: Subject) -> Run:
    return _of_module(subject.chain)


def _channels_last(subject: Subject) -> Run:
    chain = copy.deepcopy(subject.chain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _of_module(chain, torch.channels_last)


def _compiled(subject: Subject) -> Run:
    return _of_module(torch.compile(copy.deepcopy(subject.chain), dynamic=False))


def _max_autotuned(subject: Subject) -> Run:
    inductor: Any = importlib.import_module("torch._inductor")
    # `mode` and `options` exclude each other, and freezing has no mode.
    options = {**inductor.list_mode_options("max-autotune-no-cudagraphs"), "freezing": True}
    return _of_module(torch.compile(copy.deepcopy(subject.chain), dynamic=False, options=options))


def plain_onnx(subject: Subject) -> Path:
    """Without any of our options; made once. Of ONNX files: joined by us, and nothing else done."""
    if any(isinstance(stage, OnnxStage) for stage in (subject.chain.mask, subject.chain.depth)):
        return _joined(subject)
    path = subject.folder / "plain.onnx"
    if not path.is_file():
        program = torch.onnx.export(
            subject.chain, (subject.example_13HW,), dynamo=True, verbose=False
        )
        assert program is not None
        program.save(path)
    return path


def _joined(subject: Subject) -> Path:
    folder = subject.folder / "joined"
    if not folder.is_dir():
        export_chain(
            subject.chain,
            folder,
            resolution=subject.resolution,
            input="image",
            rewrites=RewriteOptions("none"),
        )
    return open_bundle(folder).model_path(subject.resolution)


def _plain(runtime: str) -> Callable[[Subject], Run]:
    return lambda subject: file_run(plain_onnx(subject), runtime, subject.threads)


def _onnxslim(subject: Subject) -> Run:
    onnxslim, onnx = _imported("onnxslim"), _imported("onnx", extra="export")
    path = subject.folder / "slim.onnx"
    # With a path it would print a table on stdout.
    onnx.save(onnxslim.slim(str(plain_onnx(subject))), path)
    return file_run(path, "onnxruntime", subject.threads)


def _openvino(subject: Subject) -> Run:
    openvino = _imported("openvino", extra="openvino")
    example = subject.example_13HW
    model = openvino.convert_model(
        subject.chain, example_input=example, input=[tuple(example.shape)]
    )
    return openvino_run(model, subject.threads)


def _benchmark_app(subject: Subject) -> OwnMeter:
    app = find_benchmark_app()
    graph = subject.bundle.model_path_for("openvino", "cpu", subject.resolution)
    return OwnMeter(lambda seconds: benchmark_app_ms(app, graph, subject.threads, seconds))


def _executorch(subject: Subject) -> Run:
    exir = _imported("executorch.exir")
    xnnpack = _imported("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    portable = _imported("executorch.extension.pybindings.portable_lib")
    runtime = _imported("executorch.runtime")
    traced = torch.export.export(subject.chain, (subject.example_13HW,))
    lowered = exir.to_edge_transform_and_lower(traced, partitioner=[xnnpack.XnnpackPartitioner()])
    if portable._threadpool_get_thread_count() != subject.threads:
        portable._unsafe_reset_threadpool(subject.threads)  # there is no other way to say how many
    # From a file: of bytes in memory the program keeps no hold, and reads them when they are gone.
    path = subject.folder / "chain.pte"
    path.write_bytes(lowered.to_executorch().buffer)
    method = runtime.Runtime.get().load_program(path).load_method("forward")

    def run(image_13HW: FloatArray) -> tuple[FloatArray, FloatArray]:
        mask, depth = method.execute([torch.from_numpy(image_13HW)])
        return mask.numpy(), depth.numpy()

    return run


def _imported(module: str, extra: str = "peers") -> Any:  # noqa: ANN401
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise UnavailableError(
            f"this peer needs the package {package}, which cannot be imported ({error}). Try"
            f" `pip install 'depthmask[{extra}]'`"
        ) from error


PEERS = (
    Peer(
        "depthmask, ONNX Runtime",
        "exported by `dmx export --input image`",
        _ours("onnxruntime"),
        True,
    ),
    Peer("depthmask, OpenVINO", "exported by `dmx export --input image`", _ours("openvino"), True),
    Peer("PyTorch eager", "inference mode", _eager),
    Peer(
        "PyTorch channels-last", "inference mode; weights and image channels-last", _channels_last
    ),
    Peer("torch.compile", "inductor's defaults, static shapes", _compiled),
    Peer(
        "torch.compile, max-autotune",
        "mode max-autotune-no-cudagraphs with freezing, static shapes",
        _max_autotuned,
    ),
    Peer(
        "torch.onnx on ONNX Runtime",
        "torch.onnx.export(dynamo=True), default session",
        _plain("onnxruntime"),
    ),
    Peer("torch.onnx on OpenVINO", "the same file, latency hint, f32", _plain("openvino")),
    Peer("onnxslim on ONNX Runtime", "the same file through onnxslim.slim", _onnxslim),
    Peer(
        "OpenVINO's conversion",
        "openvino.convert_model(module), latency hint, f32 (by default it is bf16 where the CPU has it)",
        _openvino,
    ),
    Peer(
        "OpenVINO's benchmark_app",
        "another meter, of the graph of depthmask, OpenVINO; one stream, f32",
        _benchmark_app,
    ),
    Peer("ExecuTorch", "XNNPACK, wherever it takes the graph", _executorch),
)
