"""A bundle is what was exported: every single-bit flip is found, and what is missing or too much."""

from __future__ import annotations

import random

import pytest

from depthmask.bundle import open_bundle
from depthmask.errors import InputError


def flip_bits(bundle, count, seed):
    """Flip one bit at a time, anywhere; gives where it was not found."""
    rng = random.Random(seed)
    files = sorted(p for p in bundle.rglob("*") if p.is_file() and p.stat().st_size)
    unnoticed = []
    for number in range(count):
        path = files[number % len(files)]
        place, bit = rng.randrange(path.stat().st_size), 1 << rng.randrange(8)
        with path.open("r+b") as file:
            file.seek(place)
            good = file.read(1)
            file.seek(place)
            file.write(bytes([good[0] ^ bit]))
            file.flush()
            try:
                open_bundle(bundle)
                unnoticed.append((path.name, place, bit))
            except InputError:
                pass
            file.seek(place)
            file.write(good)
    open_bundle(bundle)
    return unnoticed


def test_every_flip_is_found(bundle_path):
    assert flip_bits(bundle_path, 1000, seed=0) == []


def test_the_same_number_in_other_letters_is_found(bundle_path):
    """1e-05 for 1E-05: the values, and so the digest, are the same."""
    path = bundle_path / "manifest.json"
    document = path.read_bytes()
    changed = document.replace(b"e-", b"E-", 1)
    assert changed != document
    path.write_bytes(changed)
    with pytest.raises(InputError, match="not as it was written"):
        open_bundle(bundle_path)


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "sub/model.onnx", "libevil.so"])
def test_what_was_not_exported_is_found(bundle_path, name):
    path = bundle_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    with pytest.raises(InputError, match="must hold what was exported only"):
        open_bundle(bundle_path)


def test_each_missing_file_is_found(bundle_path):
    for name in open_bundle(bundle_path).manifest.files:
        content = (bundle_path / name).read_bytes()
        (bundle_path / name).unlink()
        for check_files in (True, False):
            with pytest.raises(InputError, match="it is missing"):
                open_bundle(bundle_path, check_files=check_files)
        (bundle_path / name).write_bytes(content)


def test_an_empty_graph_is_found(bundle_path):
    from hostile import seal

    (bundle_path / "model.onnx").write_bytes(b"")
    seal(bundle_path)
    with pytest.raises(InputError, match="must be an ONNX file"):
        open_bundle(bundle_path)
