from __future__ import annotations

import pickle
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from depthmask import models
from depthmask.checkpoint import load_checkpoint, read_info
from depthmask.errors import InputError, UsageError
from depthmask.import_pth import import_chain, load_network, read_pth

STATE = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.tensor([1.0, 2.0]))


class Python2Pickler(pickle._Pickler):
    """Writes str as Python 2 did: bytes without an encoding (here latin-1)."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_str(self, text):
        data = text.encode("latin-1")
        self.write(pickle.SHORT_BINSTRING + bytes([len(data)]) + data)
        self.memoize(text)

    dispatch[str] = save_str


PYTHON2 = types.SimpleNamespace(
    __name__="pickle of Python 2",
    Pickler=Python2Pickler,
    dump=lambda value, file, protocol: Python2Pickler(file, protocol).dump(value),
)


class Canary:
    """Pickles to a call that writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (exec, (f"open({str(self.path)!r}, 'w').write('ran')",))


def assert_state(found):
    assert found.keys() == STATE.keys()
    for key, tensor in STATE.items():
        assert torch.equal(found[key], tensor)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "stored",
    [
        STATE,
        {f"module.{key}": tensor for key, tensor in STATE.items()},
        {"state_dict": STATE, "epoch": 3, "best": 0.5},
        {"model": {f"module.{key}": tensor for key, tensor in STATE.items()}},
        {b"state_dict": {key.encode(): tensor for key, tensor in STATE.items()}},
        {key: nn.Parameter(tensor) for key, tensor in STATE.items()},
    ],
    ids=["plain", "module", "wrapped", "both", "bytes", "parameters"],
)
def test_what_is_published_is_read(tmp_path, zipped, stored):
    path = tmp_path / "weights.pth"
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    found = read_pth(path)
    assert_state(found)
    assert not any(tensor.requires_grad for tensor in found.values())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("comment", ["plain", "caf\xe9"])
def test_files_of_python_2_are_read(tmp_path, zipped, comment, recwarn):
    path = tmp_path / "weights.pth"
    torch.save(
        {"state_dict": STATE, "comment": comment},
        path,
        pickle_module=PYTHON2,
        pickle_protocol=2,
        _use_new_zipfile_serialization=zipped,
    )
    content = path.read_bytes()
    assert b"U\x07comment" in content  # SHORT_BINSTRING, which Python 3 never writes
    assert_state(read_pth(path))
    assert not list(recwarn)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_never_run(tmp_path, zipped):
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    stored = {"state_dict": STATE, "extra": Canary(canary)}
    torch.save(stored, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"holds code to run \((builtins\.)?exec\)") as caught:
        read_pth(path)
    assert "\n" not in str(caught.value)
    assert not canary.exists()
    torch.load(path, weights_only=False)  # the canary itself works
    assert canary.exists()


def test_a_bare_pickle_with_code_is_refused_and_never_run(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Canary(canary), protocol=2))
    with pytest.raises(InputError):
        read_pth(path)
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore")
def test_whole_modules_scripts_and_arrays_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(nn.Linear(3, 2), path)
    with pytest.raises(InputError, match=r"code to run \(torch\.nn\.modules\.linear\.Linear\)"):
        read_pth(path)
    torch.jit.script(nn.Linear(3, 2)).save(path)
    with pytest.raises(InputError, match="TorchScript"):
        read_pth(path)
    torch.save({"weight": np.ones(3)}, path)
    with pytest.raises(InputError, match="code to run"):
        read_pth(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>Not found</html>", "HTML"),
        (b"\n  <?xml version='1.0'?>", "HTML or XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"a":{}}', "safetensors"),
        (b"just text", "cannot be read|weights only"),
        (b"\x80\x02}q\x00.", "cannot be read|weights only"),
        (b"PK\x03\x04 no zip", "cannot be read"),
    ],
)
def test_what_is_no_pth_file_is_named(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_pth(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_file_cut_short_is_an_input_error(tmp_path, zipped, share):
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.randn(50, 50)}, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"weights\.pth"):
        read_pth(path)


def test_a_zip_of_something_else_is_an_input_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="cannot be read"):
        read_pth(tmp_path / "a.zip")


def test_folders_and_missing_files_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="it is a folder"):
        read_pth(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        read_pth(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (torch.ones(3), "of type Tensor"),
        ([1, 2], "of type list"),
        ({}, "it holds none"),
        ({"weight": 3}, "weight is of type int"),
        ({"state_dict": {}}, "it holds none"),
    ],
)
def test_a_file_without_named_tensors_is_an_input_error(tmp_path, stored, message):
    path = tmp_path / "weights.pth"
    torch.save(stored, path)
    with pytest.raises(InputError, match=message):
        read_pth(path)


@pytest.fixture(scope="module")
def lite_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lite")
    for name in ("lite_mask", "lite_depth"):
        state = models.build(name).state_dict()
        stored = {f"module.{key}": tensor for key, tensor in state.items()}
        torch.save({"state_dict": stored}, folder / f"{name}.pth")
    return folder


def test_two_files_make_a_checkpoint(lite_files, tmp_path):
    out = tmp_path / "checkpoint"
    chain = import_chain("lite", lite_files / "lite_mask.pth", lite_files / "lite_depth.pth", out)
    loaded = load_checkpoint(out)
    assert torch.equal(loaded.depth.head.weight, chain.depth.head.weight)
    stored = read_pth(lite_files / "lite_mask.pth")
    assert torch.equal(loaded.mask.head.weight, stored["head.weight"])
    sources = {"mask": "lite_mask.pth", "depth": "lite_depth.pth"}
    assert read_info(out).training == {"imported": sources}


def test_an_existing_output_is_refused_first(tmp_path):
    with pytest.raises(UsageError, match="--overwrite"):
        import_chain("lite", tmp_path / "none", tmp_path / "none", tmp_path)


def test_a_network_that_does_not_fit_names_the_keys(lite_files, tmp_path):
    state = read_pth(lite_files / "lite_mask.pth")
    del state["head.bias"]
    path = tmp_path / "partial.pth"
    torch.save({**state, "extra": torch.ones(1)}, path)
    with pytest.raises(InputError, match=r"1 missing \(head\.bias\); 1 unexpected \(extra\)"):
        load_network("lite_mask", path)
    with pytest.raises(InputError, match="of another shape"):
        load_network("lite_depth", lite_files / "lite_mask.pth")


def test_weights_that_are_not_finite_are_refused(lite_files, tmp_path):
    state = read_pth(lite_files / "lite_mask.pth")
    state["head.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(InputError, match=r"head\.bias has NaN"):
        load_network("lite_mask", tmp_path / "nan.pth")
