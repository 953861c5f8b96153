"""A model repository for NVIDIA Triton in a bundle: `tritonserver --model-repository BUNDLE/triton`.

The whole chain is one model. Each graph is served by Triton's ONNX Runtime back end, and by its TensorRT
back end where the bundle has TensorRT's engines. Source of the format: triton-inference-server/server,
docs/user_guide/model_repository.md and model_configuration.md; `ModelConfig` of model_config.proto.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec

from depthmask.bundle import (
    WEIGHTS_FILE,
    GraphRecord,
    Manifest,
    Precision,
    record_files,
)
from depthmask.engine import EngineHeader, ShapeRange
from depthmask.errors import InputError, UsageError
from depthmask.export.prototext import Enum, Message, prototext
from depthmask.export.targets import Make
from depthmask.frames import Resolution

if TYPE_CHECKING:
    import onnx_ir as ir

REPOSITORY = "triton"
_QUEUE_DELAY_US = 2000
_WARM_UP_FRAME = Resolution(480, 640)
_DATA_TYPES = {"UINT8": Enum("TYPE_UINT8"), "FLOAT": Enum("TYPE_FP32")}

Shape = tuple[int, ...]
"""With -1 where a side is open."""


class RepositoryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How Triton is to run the models."""

    name: ClassVar[str] = "triton"
    device: Literal["cpu", "gpu"] = "cpu"
    """Of the ONNX models; engines run on the GPU."""
    instances: int = 1
    """Copies of a model that work at the same time, per GPU or in all."""
    threads: int | None = None
    """Of each ONNX instance on the CPU; None: as many as ONNX Runtime takes."""
    largest_batch: int = 8
    """Of a bundle whose batch is open."""

    def prepare(self, precision: Precision) -> Make:
        """Refuse a precision that Triton would not compute in; gives `write_repository`.

        Raises:
            UsageError: it is bf16, which only OpenVINO computes in.

        """
        if precision == "bf16":
            raise UsageError(
                "a bundle in bf16 is for openvino, which computes in it, but got --to triton. Try --fp16"
            )
        return lambda folder, manifest, progress: write_repository(folder, manifest, self)

    def replaces(self, file: str) -> bool:
        """The repository that was."""
        return file.startswith(f"{REPOSITORY}/")


def model_name(manifest: Manifest, graph: GraphRecord) -> str:
    """What clients call a graph: `lite-224-fp16`."""
    return f"{manifest.chain.preset}-{graph.resolution}-{manifest.precision}"


def write_repository(folder: Path, manifest: Manifest, options: RepositoryOptions) -> Manifest:
    """Write `folder`/triton for all graphs; gives the manifest with its files, not yet written.

    Args:
        folder: A bundle's.
        manifest: Of the graphs and engines that are in it.
        options: How they are served.

    """
    for graph in manifest.graphs:
        file = graph.file_for("onnxruntime", "cpu" if options.device == "cpu" else "cuda")
        name = model_name(manifest, graph)
        _write_model(
            folder, name, _onnx_config(folder, file, manifest, options), file, "model.onnx"
        )
    for header in manifest.engines:
        if header.flavour == "tensorrt":
            (graph,) = (graph for graph in manifest.graphs if graph.file == header.graph)
            name = f"{model_name(manifest, graph)}-tensorrt"
            config = _plan_config(folder, header, manifest, options)
            _write_model(folder, name, config, header.file, "model.plan")
    return msgspec.structs.replace(manifest, files=record_files(folder))


def _write_model(folder: Path, name: str, config: Message, source: str, served_as: str) -> None:
    version = folder / REPOSITORY / name / "1"
    version.mkdir(parents=True)
    shutil.copyfile(folder / source, version / served_as)
    if served_as == "model.onnx" and (folder / WEIGHTS_FILE).exists():
        shutil.copyfile(folder / WEIGHTS_FILE, version / WEIGHTS_FILE)  # the graph names it
    (version.parent / "config.pbtxt").write_text(prototext({"name": name, **config}))


def _onnx_config(
    folder: Path, file: str, manifest: Manifest, options: RepositoryOptions
) -> Message:
    on_cpu = options.device == "cpu"
    config = _config(folder, file, manifest, options.largest_batch)
    config["backend"] = "onnxruntime"
    config["default_model_filename"] = "model.onnx"
    config["instance_group"] = [_instances(options, "KIND_CPU" if on_cpu else "KIND_GPU")]
    if on_cpu and options.threads is not None:
        value = {"string_value": str(options.threads)}
        config["parameters"] = [{"key": "intra_op_thread_count", "value": value}]
    return config


def _plan_config(
    folder: Path, header: EngineHeader, manifest: Manifest, options: RepositoryOptions
) -> Message:
    (profile,) = header.inputs.values()
    config = _config(folder, header.graph, manifest, profile.largest[0], profile)
    config["backend"] = "tensorrt"
    config["default_model_filename"] = "model.plan"
    config["instance_group"] = [_instances(options, "KIND_GPU")]
    return config


def _instances(options: RepositoryOptions, kind: str) -> Message:
    return {"count": options.instances, "kind": Enum(kind)}


def _config(
    folder: Path,
    file: str,
    manifest: Manifest,
    largest_batch: int,
    profile: ShapeRange | None = None,
) -> Message:
    """What both back ends share: tensors, batching and warm-up, from the ONNX graph."""
    import onnx_ir as ir

    graph = ir.load(folder / file).graph
    is_batched = manifest.dynamic_batch
    (image,) = graph.inputs
    config: Message = {
        "max_batch_size": largest_batch if is_batched else 0,
        "input": [_tensor(image, is_batched)],
        "output": [_tensor(output, is_batched) for output in graph.outputs],
    }
    if is_batched:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": _QUEUE_DELAY_US}
    sides = profile.best if profile is not None else _warm_up_sides(manifest)
    shape = tuple(b if a == -1 else a for a, b in zip(_shape(image), sides, strict=True))
    sizes = sorted({1, largest_batch}) if is_batched else [1]
    dims = shape[1:] if is_batched else shape
    config["model_warmup"] = [_warm_up(image, dims, size) for size in sizes]
    return config


def _warm_up_sides(manifest: Manifest) -> Shape:
    if manifest.input == "frame":
        return (1, _WARM_UP_FRAME.height, _WARM_UP_FRAME.width, 3)
    return (1, 3, manifest.graphs[-1].height, manifest.graphs[-1].width)


def _warm_up(image: ir.Value, dims: Shape, batch_size: int) -> Message:
    tensor = {"data_type": _data_type(image), "dims": list(dims), "zero_data": True}
    return {
        "name": f"batch of {batch_size}",
        "batch_size": batch_size,
        "inputs": {"key": str(image.name), "value": tensor},
    }


def _tensor(value: ir.Value, is_batched: bool) -> Message:
    shape = _shape(value)
    return {
        "name": str(value.name),
        "data_type": _data_type(value),
        "dims": list(shape[1:] if is_batched else shape),
    }


def _shape(value: ir.Value) -> Shape:
    assert value.shape is not None
    return tuple(side if isinstance(side, int) else -1 for side in value.shape)


def _data_type(value: ir.Value) -> Enum:
    name = value.dtype.name if value.dtype is not None else "of no type"
    if name not in _DATA_TYPES:
        raise InputError(
            f"{value.name} must be one of {', '.join(_DATA_TYPES)} to be served, but is {name}. Export again"
        )
    return _DATA_TYPES[name]
