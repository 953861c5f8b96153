from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile

import brotli
import msgspec
import onnx
import pytest
from web_pages import with_page

from depthmask.bundle import SHIPPED_BUNDLE, open_bundle, write_manifest
from depthmask.errors import CheckFailedError, InputError, UnavailableError, UsageError
from depthmask.export import brotli_files, export_chain, onnxruntime_web
from depthmask.export.targets import rebuild
from depthmask.export.to_web import WebManifest, WebOptions, read_web_manifest
from depthmask.frames import Resolution


@pytest.fixture(scope="module")
def exported(tiny_chain, trace, ort_web, tmp_path_factory):
    out = tmp_path_factory.mktemp("web") / "b"
    target = WebOptions(ort_web=ort_web)
    return export_chain(tiny_chain, out, resolution=Resolution(32, 64), target=target, trace=trace)


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported.path, tmp_path / "b")


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_web_json_describes_the_bundle_and_every_file(exported):
    web = exported.path / "web"
    made = read_web_manifest(web)
    assert made.resolution == {"height": 32, "width": 64}
    assert (made.precision, made.input, made.kind) == (
        "fp32",
        "frame",
        exported.manifest.chain.kind,
    )
    assert made.normalisation == exported.manifest.normalisation
    for name, record in made.files.items():
        content = (web / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == record.sha256
        packed = (web / f"{name}.br").read_bytes()
        assert (len(content), len(packed)) == (record.size_bytes, record.brotli_bytes)
        assert brotli.decompress(packed) == content
    plain = set(made.files) | {f"{name}.br" for name in made.files} | {"web.json"}
    assert plain == {p.relative_to(web).as_posix() for p in web.rglob("*") if p.is_file()}
    assert made.download.raw_bytes == sum(record.size_bytes for record in made.files.values())


def test_the_page_is_part_of_the_bundle(exported, copied):
    assert "web/index.html" in exported.manifest.files
    (copied / "web" / "app.js").write_text("")
    with pytest.raises(InputError, match=r"web/app\.js must be what was exported"):
        open_bundle(copied)


def test_a_bundle_of_several_resolutions_gives_its_largest_whole(ort_web, tmp_path):
    path = with_page(SHIPPED_BUNDLE, tmp_path / "b", ort_web)
    model = onnx.load(path / "web" / "model.onnx", load_external_data=False)
    assert {tensor.data_location for tensor in model.graph.initializer} == {
        onnx.TensorProto.DEFAULT
    }
    assert read_web_manifest(path / "web").resolution == {"height": 224, "width": 224}


def test_rebuilding_replaces_the_page_and_nothing_else(exported, copied, ort_web):
    (before, expected) = (contents(copied), contents(exported.path / "web"))
    rebuilt = rebuild(copied, WebOptions(ort_web=ort_web))
    assert open_bundle(copied).manifest == rebuilt.manifest == exported.manifest
    assert contents(copied) == before
    rebuild(copied, WebOptions(ort_web=ort_web, webgpu=True))
    assert len(contents(copied / "web")) == len(expected) + 2 * len(onnxruntime_web.WEBGPU_FILES)
    runtime = read_web_manifest(copied / "web").runtime
    assert runtime.webgpu is not None
    assert (copied / "web" / runtime.webgpu.wasm).is_file()


def test_the_command_makes_it_and_says_how_large_it_is(copied, ort_web, dmx_inside):
    code, output, error = dmx_inside(
        "export", "--rebuild", copied, "--to", "web", "--ort-web", ort_web
    )
    assert code == 0, error
    made = read_web_manifest(copied / "web")
    assert f"{made.download.brotli_bytes / 1e6:.1f} MB with brotli" in " ".join(output.split())


WITHOUT_TORCH = """
import sys
sys.modules |= dict.fromkeys(["torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime"])
from depthmask.cli import main
main(sys.argv[1:])
"""


def test_rebuilding_one_resolution_needs_no_torch_and_no_onnx(copied, ort_web):
    bundle = open_bundle(copied)
    shutil.rmtree(copied / "web")
    kept = {name: r for name, r in bundle.manifest.files.items() if not name.startswith("web/")}
    write_manifest(copied, msgspec.structs.replace(bundle.manifest, files=kept))
    command = ["export", "--rebuild", str(copied), "--to", "web", "--ort-web", str(ort_web)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "web/index.html" in open_bundle(copied).manifest.files


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--webgpu",), "--webgpu is of --to web, but --to is onnx"),
        (("--to", "tensorrt", "--ort-web", "x"), "--ort-web is of --to web, but --to is tensorrt"),
        (("--to", "web", "--gpu", "sm86"), "--gpu is of engines, but --to is web"),
        (("--to", "web", "--rebuild", "b", "--fp16"), "but got --fp16"),
        (("--to", "web", "--rebuild", "b", "--largest-batch", 4), "but got --largest-batch"),
    ],
)
def test_options_that_would_not_be_heeded_are_refused(dmx_inside, arguments, words):
    code, _, error = dmx_inside("export", *arguments)
    assert code == 2
    assert words in error


def test_what_cannot_be_made_is_said_before_any_work(tiny_chain, tmp_path, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError

    def export(source):
        target = WebOptions(ort_web=source)
        export_chain(tiny_chain, tmp_path / "b", target=target, trace=never)

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match=r"npm is not here\. Install it\. Try --ort-web"):
        export(None)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        export(tmp_path / "none.tgz")
    with pytest.raises(InputError, match=r"must be onnxruntime-web .* but it lacks"):
        export(tmp_path)
    with pytest.raises(UsageError, match="bf16 is for openvino"):
        WebOptions().prepare("bf16")
    assert not (tmp_path / "b").exists()


def test_a_registry_that_npm_cannot_reach_is_one_line(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\necho more >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    expected = r"must fetch onnxruntime-web@.*, but: npm error code ENOTFOUND\. Try --ort-web"
    with pytest.raises(UnavailableError, match=expected):
        WebOptions().prepare("fp32")


def test_only_the_pinned_bytes_are_taken(ort_web, tmp_path):
    changed = bytearray(ort_web.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "changed.tgz").write_bytes(changed)
    with pytest.raises(CheckFailedError, match="its integrity differs"):
        WebOptions(ort_web=tmp_path / "changed.tgz").prepare("fp32")
    with tarfile.open(fileobj=io.BytesIO(ort_web.read_bytes())) as archive:
        archive.extractall(tmp_path, filter="data")
    from_folder = onnxruntime_web.read(onnxruntime_web.WASM_FILES, tmp_path / "package")
    assert from_folder == onnxruntime_web.read(onnxruntime_web.WASM_FILES, ort_web)
    wasm = tmp_path / "package" / "dist" / "ort-wasm-simd-threaded.wasm"
    wasm.write_bytes(wasm.read_bytes()[:-1])
    with pytest.raises(CheckFailedError, match=r"threaded\.wasm must be that of .* sha256 differs"):
        WebOptions(ort_web=tmp_path / "package").prepare("fp32")


def test_without_the_package_node_compresses(tmp_path, monkeypatch):
    if shutil.which("node") is None:
        pytest.skip("no node here")
    monkeypatch.setattr(brotli_files.importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "page.js"
    path.write_text("let one = 1;\n" * 100)
    assert brotli_files.compress([path])
    packed = path.with_name("page.js.br").read_bytes()
    assert len(packed) < 100
    assert brotli.decompress(packed) == path.read_bytes()


def test_without_any_compressor_web_json_and_the_command_say_so(
    copied, ort_web, dmx_inside, monkeypatch
):
    monkeypatch.setattr(brotli_files.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(brotli_files.shutil, "which", lambda name: None)
    code, output, error = dmx_inside(
        "export", "--rebuild", copied, "--to", "web", "--ort-web", ort_web
    )
    assert code == 0, error
    assert "without .br files: neither Python's brotli nor node is here" in " ".join(output.split())
    made = json.loads((copied / "web" / "web.json").read_text())
    assert made["download"]["brotli_bytes"] is None
    assert list((copied / "web").rglob("*.br")) == []
    assert msgspec.convert(made, WebManifest).files["app.js"].brotli_bytes is None
