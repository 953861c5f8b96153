"""A folder that runs a bundle in the browser: page, model, onnxruntime-web, and `web.json` about them.

The page is in `export/web/`: modules without a framework, as they are. Everything comes from the one
folder, so that any host of files will do (docs/browser.md).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from depthmask.bundle import (
    WEIGHTS_FILE,
    GraphRecord,
    InputKind,
    Manifest,
    Precision,
    record_files,
)
from depthmask.errors import UnavailableError, UsageError
from depthmask.export import onnxruntime_web
from depthmask.export.brotli_files import BROTLI_SUFFIX, compress
from depthmask.export.targets import Make, Progress
from depthmask.frames import Normalisation
from depthmask.presets import Kind
from depthmask.version import __version__

WEB_FOLDER = "web"
WEB_MANIFEST_FILE = "web.json"
WEB_MODEL_FILE = "model.onnx"
SCHEMA_VERSION = 1
_ORT_FOLDER = "ort"
_PAGE = Path(__file__).parent / "web"
_PAGE_SUFFIXES = (".html", ".css", ".js")


class WebOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the browser's folder is made."""

    name: ClassVar[str] = "web"
    ort_web: Path | None = None
    """onnxruntime-web as a folder or .tgz; None: npm fetches it."""
    webgpu: bool = False
    """Whether the runtime for GPUs is in it too, which is larger."""

    def prepare(self, precision: Precision) -> Make:
        """Read onnxruntime-web; gives what makes the folder, by `add_web`.

        Raises:
            UsageError: the bundle's precision is not for browsers.
            InputError, CheckFailedError, UnavailableError: as `onnxruntime_web.read`.
        """
        if precision == "bf16":
            raise UsageError(
                "a bundle in bf16 is for openvino, which computes in it, but got --to web. Try --int8"
            )
        names = dict(onnxruntime_web.WASM_FILES)
        if self.webgpu:
            names |= onnxruntime_web.WEBGPU_FILES
        runtime_files = onnxruntime_web.read(names, self.ort_web)
        return lambda folder, manifest, progress: add_web(folder, manifest, runtime_files, progress)

    def replaces(self, file: str) -> bool:
        """The folder that was."""
        return file.startswith(f"{WEB_FOLDER}/")


class WebFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a file of the folder must be; the page checks what it loads."""

    sha256: str
    size_bytes: int
    brotli_bytes: int | None
    """Of its sibling `NAME.br`; None: there is none."""


class WebRuntime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The two files of a build of onnxruntime-web that the page names."""

    module: str
    wasm: str


class WebRuntimes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """onnxruntime-web, and the builds of it that are here."""

    name: str = "onnxruntime-web"
    version: str = onnxruntime_web.VERSION
    wasm: WebRuntime
    webgpu: WebRuntime | None


class WebDownload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a browser that runs it on the CPU loads: all but WebGPU's files and web.json itself."""

    raw_bytes: int
    brotli_bytes: int | None


class WebManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """web.json."""

    schema_version: int = SCHEMA_VERSION
    depthmask: str = __version__
    chain: str
    kind: Kind
    depth_unit: str
    precision: Precision
    resolution: dict[str, int]
    """`height` and `width` that the networks see."""
    input: InputKind
    normalisation: Normalisation
    """In the graph where the input is `frame`, else the page's work."""
    outputs: tuple[str, ...] = ("mask", "depth")
    model: str = WEB_MODEL_FILE
    runtime: WebRuntimes
    files: dict[str, WebFile]
    download: WebDownload


def add_web(
    folder: Path,
    manifest: Manifest,
    runtime_files: dict[str, bytes],
    progress: Progress,
) -> Manifest:
    """Make `web/` in a bundle's folder from its largest graph; gives the manifest with its files.

    Args:
        folder: holds the bundle's graphs.
        manifest: of them; not yet written.
        runtime_files: onnxruntime-web's, by name.
        progress: told of each phase.

    Raises:
        UnavailableError: the bundle holds several graphs, and onnx-ir is not installed.
        OSError: a file cannot be written.
    """
    progress("writing the browser's folder")
    web = folder / WEB_FOLDER
    (web / _ORT_FOLDER).mkdir(parents=True)
    for path in sorted(_PAGE.iterdir()):
        if path.suffix in _PAGE_SUFFIXES:
            (web / path.name).write_bytes(path.read_bytes())
    for name, content in runtime_files.items():
        (web / _ORT_FOLDER / name).write_bytes(content)
    graph = manifest.graphs[-1]
    (web / WEB_MODEL_FILE).write_bytes(_self_contained(folder / graph.file))
    plain = sorted(path for path in web.rglob("*") if path.is_file())
    progress("compressing the browser's folder")
    compress(plain)
    files = {path.relative_to(web).as_posix(): _described(path) for path in plain}
    document = msgspec.json.encode(_web_manifest(manifest, graph, files))
    (web / WEB_MANIFEST_FILE).write_bytes(msgspec.json.format(document, indent=2) + b"\n")
    return msgspec.structs.replace(manifest, files=record_files(folder))


def read_web_manifest(folder: Path) -> WebManifest:
    """web.json of a browser's folder that this version made."""
    return msgspec.json.decode((folder / WEB_MANIFEST_FILE).read_bytes(), type=WebManifest)


def _self_contained(path: Path) -> bytes:
    """A graph with its weights inside, also where they are in a file that graphs share."""
    if not path.with_name(WEIGHTS_FILE).exists():
        return path.read_bytes()
    try:
        import onnx_ir as ir
    except ImportError as error:
        raise UnavailableError(
            "onnx-ir is needed to take one graph out of a bundle of several, but is not installed. Try pip"
            " install 'depthmask[export]'"
        ) from error
    from depthmask.export.onnx_files import to_bytes

    model = ir.load(path)
    ir.external_data.load_to_model(model)
    return to_bytes(model)


def _described(path: Path) -> WebFile:
    content = path.read_bytes()
    packed = path.with_name(path.name + BROTLI_SUFFIX)
    return WebFile(
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        brotli_bytes=packed.stat().st_size if packed.exists() else None,
    )


def _web_manifest(manifest: Manifest, graph: GraphRecord, files: dict[str, WebFile]) -> WebManifest:
    has_webgpu = all(f"{_ORT_FOLDER}/{name}" in files for name in onnxruntime_web.WEBGPU_FILES)
    chain = manifest.chain
    return WebManifest(
        chain=chain.preset,
        kind=chain.kind,
        depth_unit=chain.depth_unit,
        precision=manifest.precision,
        resolution={"height": graph.height, "width": graph.width},
        input=manifest.input,
        normalisation=manifest.normalisation,
        runtime=WebRuntimes(
            wasm=_runtime(onnxruntime_web.WASM_FILES),
            webgpu=_runtime(onnxruntime_web.WEBGPU_FILES) if has_webgpu else None,
        ),
        files=files,
        download=_download(files),
    )


def _runtime(names: dict[str, Any]) -> WebRuntime:
    (module,) = [name for name in names if name.startswith("ort.")]
    (wasm,) = [name for name in names if name.endswith(".wasm")]
    return WebRuntime(module=f"{_ORT_FOLDER}/{module}", wasm=f"{_ORT_FOLDER}/{wasm}")


def _download(files: dict[str, WebFile]) -> WebDownload:
    loaded = [
        record
        for name, record in files.items()
        if Path(name).name not in onnxruntime_web.WEBGPU_FILES
    ]
    packed = [record.brotli_bytes for record in loaded if record.brotli_bytes is not None]
    return WebDownload(
        raw_bytes=sum(record.size_bytes for record in loaded),
        brotli_bytes=sum(packed) if len(packed) == len(loaded) else None,
    )
