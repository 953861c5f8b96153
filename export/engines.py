"""Engines for the graphs of a bundle: built from its verified ONNX, recorded in its manifest."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from depthmask.atomic import new_folder
from depthmask.bundle import (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Bundle,
    GraphRecord,
    Manifest,
    Precision,
    open_bundle,
    record_files,
    write_manifest,
)
from depthmask.devices import cuda_architecture, cuda_problem
from depthmask.engine import (
    ENGINE_SUFFIX,
    HEADER_SUFFIX,
    PRODUCTS,
    EngineHeader,
    Flavour,
    ShapeRange,
)
from depthmask.errors import CheckFailedError, UnavailableError, UsageError
from depthmask.export.tensorrt_builder import architecture_names, build
from depthmask.export.verify import verify_bundle
from depthmask.frames import SMALLEST_SIDE_PX, Resolution
from depthmask.runtimes import for_precision, require
from depthmask.tensorrt_module import import_tensorrt

Progress = Callable[[str], None]

LARGEST_FRAME = Resolution(2160, 3840)
LARGEST_DYNAMIC = Resolution(1024, 1024)
_USUAL_FRAME = Resolution(480, 640)


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What engines are built for, and how."""

    flavour: Flavour
    architectures: tuple[str, ...] = ()
    """As `sm89`; TensorRT-RTX only, since TensorRT builds for the GPU that is here."""
    workspace_mib: int | None = None
    level: int = 3
    largest_batch: int = 8
    """Of a bundle whose batch is open."""
    largest: Resolution | None = None
    """Of frames, or of a dynamic resolution; by default `LARGEST_FRAME` or `LARGEST_DYNAMIC`."""

    def __post_init__(self) -> None:
        if self.flavour == "tensorrt" and self.architectures:
            raise UsageError(
                "TensorRT builds for the GPU of the machine that it runs on, but got --gpu"
                f" {','.join(self.architectures)}. Try --to tensorrt-rtx, which builds for others"
            )


def prepare(options: EngineOptions, precision: Precision) -> tuple[Any, tuple[str, ...]]:
    """The TensorRT module, and the architectures that engines will be for; before any slow work.

    Raises:
        UsageError: engines do not compute in the bundle's precision; no architecture was named where one
            must be, or an unknown one.
        UnavailableError: TensorRT is not installed, or needs a GPU and there is none.
    """
    able = for_precision(precision)
    if options.flavour not in able:
        raise UsageError(
            f"a bundle in {precision} is for {able[0]}, which computes in it, but got --to"
            f" {options.flavour}. Try --fp16"
        )
    require(options.flavour)
    problem = cuda_problem()
    if options.flavour == "tensorrt":
        if problem is not None:
            raise UnavailableError(
                f"--to tensorrt builds on the GPU that it is for, but {problem}. Try --to tensorrt-rtx"
                " --gpu sm89, which builds without one"
            )
        return import_tensorrt(options.flavour), (cuda_architecture(),)
    trt = import_tensorrt(options.flavour)
    known = architecture_names(trt)
    chosen = tuple(dict.fromkeys(options.architectures))
    if not chosen:
        if problem is not None:
            raise UsageError(
                f"--to tensorrt-rtx needs --gpu with one or more of {','.join(known)}: {problem}, so there"
                " is no GPU here to build for"
            )
        chosen = (cuda_architecture(),)
    for name in chosen:
        if name not in known:
            raise UsageError(f"--gpu must be one or more of {','.join(known)}, but got {name!r}")
    return trt, chosen


def build_engines(
    folder: Path,
    manifest: Manifest,
    options: EngineOptions,
    trt: Any,  # noqa: ANN401
    architectures: Sequence[str],
    progress: Progress = lambda phase: None,
) -> Manifest:
    """Build an engine for every graph in `folder`; gives the manifest with them, not yet written.

    Where the GPU that they are for is here, they are verified on it.

    Raises:
        InputError: TensorRT cannot parse a graph.
        CheckFailedError: it cannot build one, or an engine does not agree with PyTorch.
        KeyboardInterrupt: Ctrl-C, at the next step of the builder.
    """
    headers = tuple(
        _build_engine(folder, manifest, graph, options, trt, architectures, progress)
        for graph in manifest.graphs
    )
    manifest = msgspec.structs.replace(manifest, engines=headers, files=record_files(folder))
    if cuda_problem() is None and cuda_architecture() in architectures:
        progress("verifying the engines on this GPU")
        report = verify_bundle(Bundle(folder, manifest), runtime=options.flavour)
        if not report:
            raise CheckFailedError(
                f"the engines must agree with {manifest.chain.original}, but"
                f" {'; '.join(report.failures())}. Nothing was written",
                details=report.details(),
            )
        headers = tuple(msgspec.structs.replace(header, verified=True) for header in headers)
    for header in headers:
        document = msgspec.json.format(msgspec.json.encode(header), indent=2) + b"\n"
        (folder / header.file).with_suffix(HEADER_SUFFIX).write_bytes(document)
    return msgspec.structs.replace(manifest, engines=headers, files=record_files(folder))


def rebuild(
    path: Path,
    options: EngineOptions,
    progress: Progress = lambda phase: None,
) -> Bundle:
    """Give a bundle new engines in place of those it has, from the ONNX that it holds; needs no torch.

    A model repository for Triton, which holds the old ones, is left out.

    Raises:
        InputError: it is no bundle, a damaged one, or holds a graph that TensorRT cannot parse.
        OutputError: it cannot be written.
        UsageError, UnavailableError: as `prepare`.
        CheckFailedError: as `build_engines`.
    """
    bundle = open_bundle(path)
    trt, architectures = prepare(options, bundle.manifest.precision)
    # Triton's repository holds copies of old engines.
    old = {MANIFEST_FILE} | {
        name
        for name in bundle.manifest.files
        if name.endswith((ENGINE_SUFFIX, HEADER_SUFFIX)) or name.startswith("triton/")
    }
    with new_folder(path, overwrite=True) as folder:
        for name in bundle.manifest.files:
            if name not in old:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path / name, folder / name)
        manifest = build_engines(folder, bundle.manifest, options, trt, architectures, progress)
        write_manifest(folder, manifest)
    return open_bundle(path, check_files=False)


def _build_engine(
    folder: Path,
    manifest: Manifest,
    graph: GraphRecord,
    options: EngineOptions,
    trt: Any,  # noqa: ANN401
    architectures: Sequence[str],
    progress: Progress,
) -> EngineHeader:
    product = PRODUCTS[options.flavour]
    file = str(Path(graph.file).with_suffix(ENGINE_SUFFIX))

    def range_of(name: str, shape: tuple[int, ...]) -> ShapeRange:
        return shape_range(manifest, graph, name, shape, options)

    built = build(
        trt,
        folder / graph.file,
        range_of,
        product=product,
        architectures=architectures if options.flavour == "tensorrt-rtx" else (),
        workspace_mib=options.workspace_mib,
        level=options.level,
        progress=lambda phase: progress(f"{product} at {graph.resolution}: {phase}"),
    )
    (folder / file).write_bytes(built.plan)
    sources = [name for name in (graph.file, WEIGHTS_FILE) if (folder / name).exists()]
    return EngineHeader(
        file=file,
        flavour=options.flavour,
        version=trt.__version__,
        architectures=tuple(architectures),
        precision=manifest.precision,
        graph=graph.file,
        onnx={name: _sha256(folder / name) for name in sources},
        inputs=built.inputs,
        workspace_mib=options.workspace_mib,
        builder_level=options.level,
        size_bytes=built.plan.nbytes,
        build_s=round(built.build_s, 2),
        warnings=built.warnings,
    )


def shape_range(
    manifest: Manifest,
    graph: GraphRecord,
    name: str,
    shape: tuple[int, ...],
    options: EngineOptions,
) -> ShapeRange:
    """The optimisation profile of an input whose open sides are -1.

    Args:
        manifest: the bundle's.
        graph: whose input it is.
        name: `frame` (N,H,W,3) or `image` (N,3,H,W).
        shape: with -1 where it is open.
        options: the largest batch and size.
    """
    if name == "frame":
        smallest, best = (1, 1), _USUAL_FRAME
        largest = options.largest or LARGEST_FRAME
        best = Resolution(min(best.height, largest.height), min(best.width, largest.width))
    else:
        smallest, best = (SMALLEST_SIDE_PX, SMALLEST_SIDE_PX), graph.resolution
        largest = options.largest or LARGEST_DYNAMIC
        largest = Resolution(max(best.height, largest.height), max(best.width, largest.width))
    batch = options.largest_batch if manifest.dynamic_batch else 1

    def sized(count: int, height: int, width: int) -> tuple[int, ...]:
        sides = (count, height, width, 3) if name == "frame" else (count, 3, height, width)
        return tuple(
            wanted if fixed == -1 else fixed for wanted, fixed in zip(sides, shape, strict=True)
        )

    return ShapeRange(
        sized(1, *smallest),
        sized(1, best.height, best.width),
        sized(batch, largest.height, largest.width),
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
