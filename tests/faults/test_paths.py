"""Paths never escape the bundle; each case is a consistent bundle with right digests."""

from __future__ import annotations

import io
import os
import shutil
import zipfile

import numpy as np
import pytest
from hostile import edit_graph, point_weights, read_manifest, rename_in_manifest, seal

from depthmask import Pipeline
from depthmask.bundle import open_bundle
from depthmask.errors import InputError


@pytest.fixture
def secret(bundle_path):
    """A file beside the bundle, which is a graph that would run."""
    return shutil.copy(bundle_path / "model.onnx", bundle_path.parent / "secret.onnx")


def parent_folder(bundle, secret):
    rename_in_manifest(bundle, "model.onnx", "../secret.onnx")
    (bundle / "model.onnx").unlink()


def absolute(bundle, secret):
    rename_in_manifest(bundle, "model.onnx", str(secret))
    (bundle / "model.onnx").unlink()


def link(bundle, secret):
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").symlink_to(secret)


def link_above(bundle, secret):
    shutil.copy(bundle / "weights.bin", secret.parent)
    (bundle / "model.onnx").unlink()
    (bundle / "sub").symlink_to(secret.parent, target_is_directory=True)
    rename_in_manifest(bundle, "model.onnx", "sub/secret.onnx")


def hard_link(bundle, secret):
    """Of other contents than was exported: the sha256 says so."""
    secret.write_bytes(secret.read_bytes() + b"\x08\x01")
    (bundle / "model.onnx").unlink()
    os.link(secret, bundle / "model.onnx")


def fifo(bundle, secret):
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")


def data_in_parent_folder(bundle, secret):
    edit_graph(bundle, lambda model: point_weights(model, location="../secret.onnx"))


def data_absolute(bundle, secret):
    edit_graph(bundle, lambda model: point_weights(model, location=str(secret)))


def data_in_memory(bundle, secret):
    """ONNX Runtime's own mark for an address in memory."""
    edit_graph(bundle, lambda model: point_weights(model, location="*/_ORT_MEM_ADDR_/*"))


def bad_offset(bundle, secret):
    edit_graph(bundle, lambda model: point_weights(model, offset="99999999999"))


def bad_length(bundle, secret):
    edit_graph(bundle, lambda model: point_weights(model, length="-4"))


def not_listed(bundle, secret):
    shutil.copy(secret, bundle / "weights2.bin")


CASES = [
    parent_folder,
    absolute,
    link,
    link_above,
    hard_link,
    fifo,
    data_in_parent_folder,
    data_absolute,
    data_in_memory,
    bad_offset,
    bad_length,
    not_listed,
]


@pytest.mark.parametrize("spoil", CASES, ids=lambda case: case.__name__)
def test_nothing_outside_is_opened(bundle_path, secret, spoil, dmx_inside):
    assert (bundle_path / "weights.bin").exists()
    spoil(bundle_path, secret)
    with pytest.raises(InputError) as caught:
        Pipeline.open(bundle_path, "onnxruntime")
    assert "\n" not in str(caught.value)
    for command in ("inspect", "verify"):
        code, out, err = dmx_inside(command, bundle_path)
        assert (code, out, err.count("\n")) == (3, "", 1), err
        assert err.startswith("error: ")


@pytest.mark.parametrize(
    "spoil",
    [case for case in CASES if case is not not_listed],
    ids=lambda case: case.__name__,
)
def test_nor_where_contents_are_not_checked(bundle_path, secret, spoil):
    spoil(bundle_path, secret)
    with pytest.raises(InputError):
        Pipeline.open(bundle_path, "onnxruntime", check_files=False)


def test_a_hard_link_of_what_was_exported_is_as_good(bundle_path):
    """Package managers and OSTree deploy files so; without looking inside, it might be anything."""
    os.link(bundle_path / "model.onnx", bundle_path.parent / "store.onnx")
    Pipeline.open(bundle_path, "onnxruntime").close()
    with pytest.raises(InputError, match="has another name elsewhere"):
        open_bundle(bundle_path, check_files=False)


@pytest.mark.parametrize("name", ["a//b", "./a", "a/../a", "", ".", "a\\b", "a\nb", "a\0b"])
def test_names_are_written_plainly(bundle_path, name):
    body = read_manifest(bundle_path)
    body["files"][name] = body["files"]["model.onnx"]
    seal(bundle_path, body)
    with pytest.raises(InputError, match="names") as caught:
        open_bundle(bundle_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/full", "fifo", "folder"])
def test_a_manifest_that_is_no_file_is_refused_at_once(bundle_path, target):
    path = bundle_path / "manifest.json"
    path.unlink()
    if target == "fifo":
        os.mkfifo(path)
    elif target == "folder":
        path.mkdir()
    else:
        path.symlink_to(target)
    with pytest.raises(InputError, match=r"its manifest\.json cannot be read"):
        open_bundle(bundle_path)


def test_operators_that_are_not_standard_are_refused_before_a_runtime_sees_them(bundle_path):
    def foreign(model):
        model.graph.node[0].domain = "evil.ops"

    edit_graph(bundle_path, foreign)
    with pytest.raises(InputError, match=r"of the domain 'evil\.ops'"):
        open_bundle(bundle_path)


def test_function_bodies_are_refused(bundle_path):
    def define(model):
        function = model.functions.add(name="Relu", domain="")
        function.output.append("y")

    edit_graph(bundle_path, define)
    with pytest.raises(InputError, match="must not define functions"):
        open_bundle(bundle_path)


# Zip files: reference.npz


def zip_of(entries):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return content.getvalue()


def npy(array):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=True)
    return content.getvalue()


def huge_npy():
    """Says that it has 8 TB, and has 16 bytes."""
    content = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        content, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    )
    return content.getvalue() + bytes(16)


@pytest.mark.parametrize(
    "entries",
    [
        [("frame/0.npy", huge_npy())],
        [("../../outside.npy", npy(np.zeros(1))), ("/etc/absolute.npy", npy(np.zeros(1)))],
        [("frame/0.npy", npy(np.array([{"a": 1}], object)))],
        [("frame/0.npy", npy(np.zeros((4, 4, 3))))],
        [("frame/0.npy", b"\x93NUMPY\x01\x00\xff\xff")],
    ],
    ids=["huge", "names", "pickle", "type", "cut"],
)
def test_a_reference_with_zip_tricks_is_one_line(bundle_path, entries, dmx_inside):
    (bundle_path / "reference.npz").write_bytes(zip_of(entries))
    seal(bundle_path)
    before = sorted(bundle_path.parent.rglob("*"))
    code, out, err = dmx_inside("verify", bundle_path)
    assert (code, out, err.count("\n")) == (3, "", 1), err
    assert sorted(bundle_path.parent.rglob("*")) == before


def test_operators_without_their_inputs_are_refused(bundle_path):
    """OpenVINO would read what is not there, and end the process."""

    def starve(model):
        convolution = next(node for node in model.graph.node if node.op_type == "Conv")
        del convolution.input[1:]

    edit_graph(bundle_path, starve)
    with pytest.raises(InputError, match="'Conv' lacks an input"):
        open_bundle(bundle_path)


def test_the_numbers_of_inputs_are_those_of_onnx():
    import onnx

    from depthmask.onnx_scan import _REQUIRED_INPUTS

    latest = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain in ("", "ai.onnx") and schema.since_version <= 18:
            latest[schema.name] = max(
                latest.get(schema.name, (0, 0)), (schema.since_version, schema.min_input)
            )
    assert {name: least for name, (_, least) in latest.items() if least != 1} == _REQUIRED_INPUTS
