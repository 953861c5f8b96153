from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from depthmask import Pipeline
from depthmask.bundle import open_bundle
from depthmask.errors import InputError, UsageError
from depthmask.frames import Resolution


@pytest.fixture
def bundle_path(tiny_bundle_path, tmp_path):
    return shutil.copytree(tiny_bundle_path, tmp_path / "copy")


def test_a_missing_bundle(tmp_path):
    with pytest.raises(InputError, match="must be a bundle made by `dmx export`"):
        open_bundle(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "model-32.onnx", "reference.npz"])
def test_a_file_that_changed_is_found(bundle_path, name):
    path = bundle_path / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="its contents changed"):
        open_bundle(bundle_path)
    assert open_bundle(bundle_path, check_files=False)


def test_a_missing_file_is_named(bundle_path):
    (bundle_path / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"model\.onnx must be a file of the bundle"):
        open_bundle(bundle_path)


def test_a_link_is_not_a_file_of_the_bundle(bundle_path):
    model = bundle_path / "model.onnx"
    model.rename(bundle_path.parent / "elsewhere.onnx")
    model.symlink_to(bundle_path.parent / "elsewhere.onnx")
    with pytest.raises(InputError, match="must be a file of the bundle"):
        open_bundle(bundle_path)


def test_bit_flips_in_the_manifest_are_found(bundle_path):
    path = bundle_path / "manifest.json"
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    unnoticed = []
    for position in rng.integers(0, len(good), 300):
        bad = bytearray(good)
        bad[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            open_bundle(bundle_path, check_files=False)
        except InputError:
            continue
        unnoticed.append(bytes(bad[max(0, position - 9) : position + 9]))
    path.write_bytes(good)
    assert unnoticed == []


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/passwd"])
def test_names_outside_the_bundle_are_refused(bundle_path, name):
    path = bundle_path / "manifest.json"
    body = json.loads(path.read_text())
    body["files"][name] = {"sha256": "0" * 64, "size_bytes": 1}
    _write_with_digest(path, body)
    with pytest.raises(InputError, match="outside the bundle"):
        open_bundle(bundle_path)


def test_a_manifest_of_another_version(bundle_path):
    path = bundle_path / "manifest.json"
    body = json.loads(path.read_text())
    body["schema"] = 99
    _write_with_digest(path, body)
    with pytest.raises(InputError, match="of another version"):
        open_bundle(bundle_path)


def test_a_resolution_that_the_bundle_lacks(tiny_bundle_path):
    bundle = open_bundle(tiny_bundle_path)
    with pytest.raises(UsageError, match=r"\(32, 48x64\), but got 224"):
        bundle.graph(Resolution(224, 224))


def test_a_bundle_never_names_code_to_run(bundle_path, tmp_path):
    canary = tmp_path / "canary"
    path = bundle_path / "manifest.json"
    body = json.loads(path.read_text())
    body["chain"]["mask"] = {"network": "os:system", "options": {"command": f"touch {canary}"}}
    body["weights"] = {"init_seed": 0}
    _write_with_digest(path, body)
    with pytest.raises(UsageError, match="os:system, which is not one of our networks"):
        Pipeline.open(bundle_path, "torch")
    assert not canary.exists()


def test_the_shipped_bundle_is_of_the_shipped_weights():
    from depthmask.checkpoint import read_info
    from depthmask.presets import shipped_checkpoint

    manifest = open_bundle().manifest
    assert manifest.verified
    folder = shipped_checkpoint("lite")
    assert folder is not None
    assert manifest.weights["sha256"] == read_info(folder).weights_sha256
    assert [str(resolution) for resolution in manifest.resolutions] == ["64", "128", "224"]


def _write_with_digest(path, body):
    import hashlib

    import msgspec

    body.pop("digest", None)
    body["digest"] = hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()
    path.write_bytes(msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n")
