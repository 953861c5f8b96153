"""Bundles: the folder that export makes and everything else takes.

`manifest.json` describes the chain, its graphs, and every other file by sha256 and size; it carries a
digest of itself, so that damage anywhere is found when a bundle is opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from depthmask.engine import EngineHeader
from depthmask.errors import DepthmaskError, InputError, UsageError
from depthmask.frames import LARGEST_SIDE_PX, Normalisation, Resolution
from depthmask.onnx_scan import check_graph
from depthmask.presets import ChainSpec
from depthmask.untrusted import one_line, open_inside, require_plain_name, short

MANIFEST_FILE = "manifest.json"
REFERENCE_FILE = "reference.npz"
MODEL_FILE = "model.onnx"
UNSIGNED_SUFFIX = ".unsigned.onnx"
WEIGHTS_FILE = "weights.bin"
STAGE_KEY = "depthmask.stage"
"""The metadata in which a graph's nodes note their stage."""
_LARGEST_MANIFEST_BYTES = 64 << 20
SHIPPED_BUNDLE = Path(__file__).parent / "data" / "lite-bundle"

Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""bf16: an fp32 graph that the runtime computes in bfloat16, but for the preprocessing."""
IMAGE_TENSOR = "image"
"""The preprocessed image: an input, or in a bf16 bundle's `frame` graph a tensor."""
InputKind = Literal["frame", "image"]
LARGEST_BATCH = 1024
SIDE_STEP_PX = 32
"""Sides of an open resolution go in whole steps of the encoders' stride."""
DYNAMIC_SIDE_PX = (2 * SIDE_STEP_PX, LARGEST_SIDE_PX)


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file of the bundle must be."""

    sha256: str
    size_bytes: int


class RewriteRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an exact rewrite did at one site of a graph (`export.rewrite`)."""

    site: str
    rewrite: str
    form: str | None
    """None: it fits, but was left as exported, because that is faster."""
    gmac_before: float
    gmac_after: float
    predicted_gain: float
    """How many times faster the cost model says that the site is."""
    measured_gain: float | None
    """And a measurement at export (`--tune`); None: none was made."""


class SearchRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the search for a precision looked at, and what the gate judged on: never the same images."""

    searched: str
    searched_images: int
    judged: str
    judged_images: int


class Int8Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an int8 bundle was calibrated and judged; `tradeoff.json` has what was tried."""

    calibrator: str
    calibration: str
    """Name of the data that ranges come from; it is neither searched nor judged on."""
    calibration_images: int
    gate: Literal["accuracy", "agreement"]
    """On labelled data, or with the fp32 PyTorch chain on the reference frames."""
    budget: dict[str, float]
    """Points of `iou` and `delta1`; or `mask_mae` (of 1) and `depth_abs_rel` (of the mean depth)."""
    int8_sites: dict[str, int]
    """By resolution."""
    sites: dict[str, int]
    """Convolutions that int8 could compute, by resolution."""
    gain: dict[str, dict[str, float]]
    """Times faster than the fp32 graph, by resolution and runtime, on the machine that exported."""

    @property
    def slower_at(self) -> tuple[str, ...]:
        """The resolutions at which no runtime that was timed is faster in int8."""
        return tuple(r for r, gains in self.gain.items() if max(gains.values(), default=0) <= 1)


class UnsignedRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same int8 graph with uint8 activations (`export.unsigned`), for runtimes that run it faster."""

    file: str
    runtimes: tuple[str, ...]
    """Those that run it on the CPU, in place of `GraphRecord.file`."""
    parity: dict[str, Any]
    """As in `GraphRecord`."""


class GraphRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One ONNX graph of the bundle; with a dynamic resolution, the sides are its default's."""

    file: str
    height: int
    width: int
    gmac: float
    """Of the graph as it is, after its rewrites."""
    parity: dict[str, Any]
    """Agreement with the fp32 PyTorch chain, measured at export (`ParityReport`)."""
    rewrites: tuple[RewriteRecord, ...] = ()
    unsigned: UnsignedRecord | None = None
    """Of int8 bundles."""

    @property
    def is_unsigned(self) -> bool:
        """Whether `file` is what only `UnsignedRecord.runtimes` on the CPU run (see `Bundle.spellings`)."""
        return self.file.endswith(UNSIGNED_SUFFIX)

    @property
    def label(self) -> str:
        """For people: `224`, or `224 unsigned`."""
        return f"{self.resolution} unsigned" if self.is_unsigned else str(self.resolution)

    @property
    def files(self) -> tuple[str, ...]:
        """All that hold this graph."""
        return (self.file, self.unsigned.file) if self.unsigned else (self.file,)

    def file_for(self, runtime: str, device: str) -> str:
        """What a runtime runs on a device (`cpu` or `cuda`)."""
        if self.unsigned and device == "cpu" and runtime in self.unsigned.runtimes:
            return self.unsigned.file
        return self.file

    @property
    def resolution(self) -> Resolution:
        """What the networks see."""
        return Resolution(self.height, self.width)


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an open batch or resolution may be; a bundle that leaves neither open has none."""

    largest_batch: int = LARGEST_BATCH
    smallest_height: int = DYNAMIC_SIDE_PX[0]
    smallest_width: int = DYNAMIC_SIDE_PX[0]
    largest_height: int = DYNAMIC_SIDE_PX[1]
    largest_width: int = DYNAMIC_SIDE_PX[1]

    @classmethod
    def of(
        cls,
        largest_batch: int | None = None,
        smallest: Resolution | None = None,
        largest: Resolution | None = None,
    ) -> Limits:
        """Checked; what is None is as wide as can be.

        Raises:
            UsageError: a limit is out of range, no multiple of `SIDE_STEP_PX`, or below another.
        """
        low, high = (Resolution(side, side) for side in DYNAMIC_SIDE_PX)
        low, high = smallest or low, largest or high
        batch = LARGEST_BATCH if largest_batch is None else largest_batch
        if not 1 <= batch <= LARGEST_BATCH:
            raise UsageError(f"the largest batch must be 1 to {LARGEST_BATCH}, but got {batch}")
        for name, size in (("smallest", low), ("largest", high)):
            sides = (size.height, size.width)
            if any(side % SIDE_STEP_PX or side < DYNAMIC_SIDE_PX[0] for side in sides):
                raise UsageError(
                    f"the {name} resolution must have sides of {DYNAMIC_SIDE_PX[0]} to"
                    f" {DYNAMIC_SIDE_PX[1]} in steps of {SIDE_STEP_PX}, but got {size}"
                )
        if low.height > high.height or low.width > high.width:
            raise UsageError(
                f"the smallest resolution must be within the largest, {high}, not {low}"
            )
        return cls(
            largest_batch=batch,
            smallest_height=low.height,
            smallest_width=low.width,
            largest_height=high.height,
            largest_width=high.width,
        )

    @property
    def sizes(self) -> str:
        """In words."""
        low = Resolution(self.smallest_height, self.smallest_width)
        high = Resolution(self.largest_height, self.largest_width)
        return f"{low} to {high} in steps of {SIDE_STEP_PX}"

    def holds(self, resolution: Resolution) -> bool:
        """Whether the networks take it."""
        return (
            self.smallest_height <= resolution.height <= self.largest_height
            and self.smallest_width <= resolution.width <= self.largest_width
            and resolution.height % SIDE_STEP_PX == resolution.width % SIDE_STEP_PX == 0
        )


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What manifest.json holds. Sizes in bytes and pixels, depths in `chain.depth_unit`."""

    schema: Literal[1] = 1
    chain: ChainSpec
    weights: dict[str, Any]
    """Where the weights come from: a checkpoint with its sha256, or a seed."""
    precision: Precision
    fp32_nodes: tuple[str, ...] = ()
    """Nodes of an fp16 or int8 graph that stay fp32: for their values, for parity or for the budget."""
    int8: Int8Record | None = None
    """Of int8 bundles."""
    search: SearchRecord | None = None
    """Of bundles whose precision was searched: fp16 and int8."""
    input: InputKind
    dynamic_batch: bool
    dynamic_resolution: bool
    limits: Limits | None = None
    """Of an open batch or resolution."""
    graphs: tuple[GraphRecord, ...]
    """Smallest resolution first; the largest is `model.onnx`."""
    opset: int
    versions: dict[str, str]
    accuracy: dict[str, Any]
    """Measured at export, per resolution, with the data set's name."""
    verified: bool
    """False only where `--force` kept a bundle that failed its verification."""
    engines: tuple[EngineHeader, ...] = ()
    """TensorRT's, of one flavour; one for each graph, or none."""
    files: dict[str, FileRecord]

    @property
    def normalisation(self) -> Normalisation:
        """What `image` inputs are normalised with."""
        return Normalisation(self.chain.mean, self.chain.std)

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """Smallest first."""
        return tuple(graph.resolution for graph in self.graphs)


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its checked manifest."""

    path: Path
    manifest: Manifest
    digest: str | None = None
    """What manifest.json carries, which covers every file; None of a bundle that was not opened from it."""

    def graph(self, resolution: Resolution | None = None) -> GraphRecord:
        """The graph of a resolution; by default the largest.

        Raises:
            UsageError: the bundle has none of that resolution.
        """
        if resolution is None:
            return self.manifest.graphs[-1]
        for graph in self.manifest.graphs:
            if graph.resolution == resolution:
                return graph
        if self.manifest.dynamic_resolution:
            return self._resized(self.manifest.graphs[-1], resolution)
        held = ", ".join(map(str, self.manifest.resolutions))
        raise UsageError(
            f"the resolution must be one that {self.path} holds ({held}), but got {resolution}. Try"
            f" `dmx export --resolution {held.replace(' ', '')},{resolution}`"
        )

    def check_batch(self, frames: int) -> None:
        """Refuse more frames in one call than the export allowed.

        Raises:
            UsageError: there are.
        """
        allowed = (self.manifest.limits or Limits()).largest_batch
        if frames > allowed:
            raise UsageError(
                f"a batch must be of {allowed} frames at most, as {self.path} was exported, but got"
                f" {frames}. Try `dmx export --dynamic-batch --largest-batch {frames}`"
            )

    def _resized(self, graph: GraphRecord, resolution: Resolution) -> GraphRecord:
        """The graph of an open resolution at another one; its work grows with the area."""
        limits = self.manifest.limits or Limits()
        if not limits.holds(resolution):
            raise UsageError(
                f"the resolution must be within what {self.path} was exported for, {limits.sizes}, but"
                f" got {resolution}. Try `dmx export --dynamic-resolution --input image` with --smallest"
                " or --largest"
            )
        area = resolution.height * resolution.width / (graph.height * graph.width)
        return msgspec.structs.replace(
            graph,
            height=resolution.height,
            width=resolution.width,
            gmac=round(graph.gmac * area, 4),
        )

    def model_path(self, resolution: Resolution | None = None) -> Path:
        """The ONNX file of a resolution that any runtime can run."""
        return self.path / self.graph(resolution).file

    def model_path_for(self, runtime: str, device: str, resolution: Resolution) -> Path:
        """The ONNX file that a runtime runs on a device (`cpu` or `cuda`)."""
        return self.as_run_by(runtime, device).model_path(resolution)

    def as_run_by(self, runtime: str, device: str) -> Bundle:
        """The bundle with only the files that a runtime runs on a device."""
        return self._with_files(lambda graph: graph.file_for(runtime, device))

    def spellings(self, runtime: str) -> tuple[Bundle, ...]:
        """The bundle once for each way its graphs are written that a runtime runs, on some device."""
        plain = self._with_files(lambda graph: graph.file)
        on_cpu = self.as_run_by(runtime, "cpu")
        return (plain,) if on_cpu.manifest == plain.manifest else (plain, on_cpu)

    def _with_files(self, choose: Callable[[GraphRecord], str]) -> Bundle:
        graphs = tuple(
            msgspec.structs.replace(graph, file=choose(graph), unsigned=None)
            for graph in self.manifest.graphs
        )
        return Bundle(self.path, msgspec.structs.replace(self.manifest, graphs=graphs))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json with its own digest, as the last file of a bundle."""
    body = msgspec.to_builtins(manifest)
    body["digest"] = _digest(body)
    (folder / MANIFEST_FILE).write_bytes(_written(body))


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Hash every file of a bundle but its manifest."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(_sha256(path), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }


def open_bundle(path: Path | str | None = None, *, check_files: bool = True) -> Bundle:
    """Open a bundle and check it; without a path, the `lite` bundle that ships with depthmask.

    Raises:
        InputError: there is none; its manifest or a file is damaged, missing or replaced; it holds
            anything else; or it names a file outside, or operators that are not standard ONNX (these two
            also without `check_files`).
    """
    folder = Path(path) if path is not None else SHIPPED_BUNDLE
    bundle = Bundle(folder, *_read_manifest(folder))
    _check_names(bundle)
    if check_files:
        _check_nothing_else(bundle)
    _check_files(bundle, contents=check_files)
    _check_graphs(bundle)
    return bundle


def _read_manifest(folder: Path) -> tuple[Manifest, str]:
    """With its digest."""
    where = folder / MANIFEST_FILE
    try:
        with open_inside(folder, MANIFEST_FILE, "a manifest", may_be_linked=True) as file:
            document = file.read(_LARGEST_MANIFEST_BYTES)
    except InputError as error:
        raise InputError(
            f"{folder} must be a bundle made by `dmx export`, but its {MANIFEST_FILE} cannot be read:"
            f" {error}"
        ) from error
    try:
        body = msgspec.json.decode(document)
        written_plainly = _written(body) == document
        digest = body.pop("digest", None) if isinstance(body, dict) else None
        manifest = msgspec.convert(body, Manifest, strict=True)
        is_whole = digest == _digest(body)
    except (ValueError, OverflowError, RecursionError, DepthmaskError) as error:
        raise InputError(
            f"{where} is damaged or of another version: {one_line(error)}. Try `dmx export` again"
        ) from error
    if not is_whole:
        raise InputError(f"{where} is damaged: its digest does not match. Export again")
    if not written_plainly:  # the same values in other bytes: 1E5 for 1e5
        raise InputError(f"{where} is damaged: it is not as it was written. Export again")
    return manifest, str(digest)


def _check_names(bundle: Bundle) -> None:
    manifest = bundle.manifest
    for name in manifest.files:
        require_plain_name(name, bundle.path / MANIFEST_FILE)
    used = [name for graph in manifest.graphs for name in graph.files]
    used += [name for engine in manifest.engines for name in (engine.file, engine.graph)]
    if not manifest.graphs or not set(used) <= manifest.files.keys():
        raise InputError(
            f"{bundle.path / MANIFEST_FILE} names no graph, or one that it does not list"
        )


def _check_nothing_else(bundle: Bundle) -> None:
    """Whatever is not in the manifest was not exported, and might be taken for a part of the bundle."""
    for path in bundle.path.rglob("*"):
        name = path.relative_to(bundle.path).as_posix()
        is_folder = path.is_dir() and not path.is_symlink()
        if not is_folder and name != MANIFEST_FILE and name not in bundle.manifest.files:
            raise InputError(
                f"{bundle.path} must hold what was exported only, but it also holds {short(name)}."
                " Remove it"
            )


def _check_files(bundle: Bundle, *, contents: bool) -> None:
    """Each is a file of the bundle's own folder; `contents`: and has the bytes that were exported."""
    for name, record in bundle.manifest.files.items():
        path = bundle.path / name
        with open_inside(bundle.path, name, "a file of the bundle", may_be_linked=contents) as file:
            same_size = os.fstat(file.fileno()).st_size == record.size_bytes
            if not same_size or (contents and _sha256_of(file) != record.sha256):
                differs = "sha256" if same_size else "size"
                raise InputError(
                    f"{path} must be what was exported, but its contents changed ({differs} differs)."
                    " Copy the bundle again or export again"
                )


def _check_graphs(bundle: Bundle) -> None:
    sizes_bytes = {name: record.size_bytes for name, record in bundle.manifest.files.items()}
    for name in {name for graph in bundle.manifest.graphs for name in graph.files}:
        with open_inside(bundle.path, name, "a graph", may_be_linked=True) as file:
            check_graph(file, bundle.path, name, sizes_bytes)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return _sha256_of(file)


def _sha256_of(file: IO[bytes]) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def _written(body: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()
