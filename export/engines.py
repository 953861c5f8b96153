"""Engines for the graphs of a bundle: built from its verified ONNX, recorded in its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from depthmask.bundle import (
    WEIGHTS_FILE,
    Bundle,
    GraphRecord,
    Manifest,
    Precision,
    record_files,
)
from depthmask.devices import cuda_architecture, cuda_problem
from depthmask.engine import (
    ENGINE_SUFFIX,
    HEADER_SUFFIX,
    INSPECTOR_SUFFIX,
    LAYERS_SUFFIX,
    OWN_SUFFIXES,
    PRODUCTS,
    EngineHeader,
    Flavour,
    ShapeRange,
    trusted,
)
from depthmask.errors import CheckFailedError, UnavailableError, UsageError
from depthmask.export.targets import Make, Progress
from depthmask.export.tensorrt_builder import BuildFlags, architecture_names, build, inspect_engine
from depthmask.export.to_triton import REPOSITORY
from depthmask.export.verify import verify_bundle
from depthmask.frames import Resolution
from depthmask.output_files import check_output
from depthmask.profiles import PROFILE_BATCH, shape_range
from depthmask.runtimes import for_precision, require
from depthmask.tensorrt_module import import_tensorrt


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What engines are built for, and how."""

    flavour: Flavour
    architectures: tuple[str, ...] = ()
    """As `sm89`; TensorRT-RTX only, since TensorRT builds for the GPU that is here."""
    workspace_mib: int | None = None
    level: int = 3
    largest_batch: int = PROFILE_BATCH
    """Of a bundle whose batch is open."""
    largest: Resolution | None = None
    """Of frames, or of a dynamic resolution; by default those of `depthmask.profiles`."""
    flags: BuildFlags = BuildFlags()
    """TensorRT only."""

    def __post_init__(self) -> None:
        if self.flavour == "tensorrt-rtx" and self.flags != BuildFlags():
            raise UsageError(f"TensorRT-RTX {_why_not(self.flags)}. Try --to tensorrt")
        if self.flavour == "tensorrt" and self.architectures:
            raise UsageError(
                "TensorRT builds for the GPU of the machine that it runs on, but got --gpu"
                f" {','.join(self.architectures)}. Try --to tensorrt-rtx, which builds for others"
            )

    @property
    def name(self) -> Flavour:
        """What `--to` calls it."""
        return self.flavour

    def prepare(self, precision: Precision) -> Make:
        """Find the builder; gives `build_engines`.

        Raises:
            UsageError, UnavailableError: as `find_builder`.
        """
        trt, architectures = find_builder(self, precision)
        return lambda folder, manifest, progress: build_engines(
            folder, manifest, self, trt, architectures, progress
        )

    def replaces(self, file: str) -> bool:
        """Engines and what is beside them, and Triton's repository, which holds copies of them."""
        return file.endswith(OWN_SUFFIXES) or file.startswith(f"{REPOSITORY}/")


def _why_not(flags: BuildFlags) -> str:
    """Why TensorRT-RTX 1.7 has no use for what was asked for."""
    if flags.timing_cache is not None:
        return (
            "times no kernels when it builds, so --timing-cache would do nothing (what it compiles when an"
            " engine is first run is kept, without being asked)"
        )
    if flags.hardware_compatibility != "none":
        return (
            "has no --hardware-compatible: its engines are for every architecture that --gpu names"
        )
    if flags.version_compatible:
        return (
            "comes without the lean runtime that --version-compatible puts into an engine (its engines are"
            " loaded by the version that built them)"
        )
    return "strips weights only on a GPU, so there is no --strip-weights"


def find_builder(options: EngineOptions, precision: Precision) -> tuple[Any, tuple[str, ...]]:
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
    if options.flags.timing_cache is not None:
        check_output(options.flags.timing_cache, overwrite=True)
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
    progress: Progress,
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
        with trusted():
            report = verify_bundle(Bundle(folder, manifest), runtime=options.flavour)
        if not report:
            raise CheckFailedError(
                f"the engines must agree with {manifest.chain.original}, but"
                f" {'; '.join(report.failures())}. Nothing was written",
                details=report.details(),
            )
        headers = tuple(msgspec.structs.replace(header, verified=True) for header in headers)
        for header in headers:
            path = folder / header.file
            said = inspect_engine(trt, path.read_bytes(), PRODUCTS[options.flavour])
            path.with_suffix(INSPECTOR_SUFFIX).write_text(said)
    for header in headers:
        document = msgspec.json.format(msgspec.json.encode(header), indent=2) + b"\n"
        (folder / header.file).with_suffix(HEADER_SUFFIX).write_bytes(document)
    return msgspec.structs.replace(manifest, engines=headers, files=record_files(folder))


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
        return shape_range(
            manifest,
            graph,
            name,
            shape,
            largest=options.largest,
            largest_batch=options.largest_batch,
        )

    built = build(
        trt,
        folder / graph.file,
        range_of,
        product=product,
        architectures=architectures if options.flavour == "tensorrt-rtx" else (),
        workspace_mib=options.workspace_mib,
        level=options.level,
        flags=options.flags,
        progress=lambda phase: progress(f"{product} at {graph.resolution}: {phase}"),
    )
    (folder / file).write_bytes(built.plan)
    (folder / file).with_suffix(LAYERS_SUFFIX).write_bytes(msgspec.json.encode(built.layers))
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
        hardware_compatibility=options.flags.hardware_compatibility,
        version_compatible=options.flags.version_compatible,
        stripped=options.flags.strip_weights,
        size_bytes=built.plan.nbytes,
        build_s=round(built.build_s, 2),
        warnings=built.warnings,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
