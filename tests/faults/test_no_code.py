"""No code runs from a file: the canary, which each of these files would make, is never there."""

from __future__ import annotations

import functools
import io
import pickle
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch

from depthmask.errors import DepthmaskError
from depthmask.import_pth import read_pth


class Calls:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Builds:
    """Pickles to an object that is built with a state."""

    def __init__(self, canary):
        self.canary = canary

    def __setstate__(self, state):
        open(state["canary"], "w").close()  # noqa: PTH123


def opcodes(text):
    """A pickle by hand, of protocol 0: what scanners of one kind do not look for."""
    return text.encode()


def write(canary):
    return f"open({str(canary)!r}, 'w').write('ran')"


def by_exec(canary):
    return pickle.dumps({"weight": Calls(exec, write(canary))}, 2)


def by_system(canary):
    import os

    return pickle.dumps({"weight": Calls(os.system, f"touch {canary}")}, 2)


def by_state(canary):
    return pickle.dumps({"weight": Builds(str(canary))}, 2)


def by_instance(canary):
    """INST and OBJ instead of REDUCE."""
    return opcodes(f"(S{write(canary)!r}\nibuiltins\nexec\n.")


def by_getattr(canary):
    """The dangerous name is a string, which is looked up: scanners see getattr only."""
    text = (
        "cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR"
        f"(S'touch {canary}'\ntR."
    )
    return opcodes(text)


def by_partial(canary):
    return pickle.dumps({"weight": Calls(functools.partial(exec), write(canary))}, 2)


def by_torch_load(canary):
    """torch's own loader, of a second file, without restriction."""
    inner = canary.parent / "inner.pth"
    inner.write_bytes(by_exec(canary))
    load = functools.partial(torch.load, weights_only=False)
    return pickle.dumps({"weight": Calls(load, str(inner))}, 2)


def by_numpy(canary):
    array = np.array([Calls(exec, write(canary))], object)
    return pickle.dumps({"weight": array}, 4)


def by_extension_code(canary):
    """A stack that is left with more on it, behind a harmless first value."""
    return pickle.dumps({}, 2)[:-1] + b"0" + by_exec(canary)[2:]


def by_broken_end(canary):
    """It has run before a scanner finds that it is cut."""
    return by_system(canary)[:-1]


PICKLES = [
    by_exec, by_system, by_state, by_instance, by_getattr, by_partial, by_torch_load, by_numpy,
    by_extension_code, by_broken_end,
]  # fmt: skip


def bare(content):
    return content


def zipped(content):
    """As torch saves: data.pkl in an archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("weights/data.pkl", content)
        file.writestr("weights/version", "3\n")
        file.writestr("weights/byteorder", "little")
    return archive.getvalue()


def nested(content):
    """The archive within another, and its pickle under two names."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/data.pkl", pickle.dumps({}, 2))
        file.writestr("a/version", "3\n")
        file.writestr("a/inner.zip", zipped(content))
        file.writestr("./a/data.pkl", content)
    return archive.getvalue()


def legacy(content):
    """As torch saved before 1.6: numbers first, then the object."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
    return b"".join(pickle.dumps(one, 2) for one in head) + content + pickle.dumps([], 2)


def tarred(content):
    """As torch saved before 0.1.10."""
    import tarfile

    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return archive.getvalue()


@pytest.mark.parametrize("wrap", [bare, zipped, nested, legacy, tarred], ids=lambda f: f.__name__)
@pytest.mark.parametrize("make", PICKLES, ids=lambda f: f.__name__)
def test_pickles_are_never_run(tmp_path, make, wrap):
    canary = tmp_path / "canary"
    path = tmp_path / "weights.pth"
    path.write_bytes(wrap(make(canary)))
    with pytest.raises(DepthmaskError) as caught:
        read_pth(path)
    assert "\n" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.parametrize("make", PICKLES, ids=lambda f: f.__name__)
def test_the_canaries_would_sing(tmp_path, make):
    """Python's own unpickler makes the canary, but for one that is only built here by name."""
    canary = tmp_path / "canary"
    content = make(canary)
    with suppress(Exception):  # some are no whole pickles
        pickle.loads(content)
    assert canary.exists()


@pytest.mark.parametrize("name", ["model.onnx", "reference.npz", "weights.bin"])
def test_pickles_in_a_bundle_are_never_run(bundle_path, tmp_path, name, dmx_inside):
    from hostile import seal

    canary = tmp_path / "canary"
    (bundle_path / name).write_bytes(by_exec(canary))
    seal(bundle_path)
    code, _, err = dmx_inside("verify", bundle_path)
    assert code != 0 or name == "weights.bin"
    assert "Traceback" not in err
    assert not canary.exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch {canary}']",
        "preset: !!python/object/apply:subprocess.call [['touch', '{canary}']]",
        "preset: !!python/object/new:os.system ['touch {canary}']",
        "preset: !!python/name:os.system",
        "preset: !!python/module:antigravity",
        "? !!python/object/apply:os.system ['touch {canary}']\n: x",
        "a: &a !!python/object/apply:os.system ['touch {canary}']\nb: *a",
        "<<: !!python/object/apply:os.system ['touch {canary}']",
        '!!python/object/apply:builtins.exec [\'open("{canary}", "w")\']',
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\npreset: lite",
    ],
)
def test_tags_in_a_document_are_never_run(tmp_path, text):
    from depthmask.train.config import read_config
    from depthmask.train.documents import read_recipe

    canary, path = tmp_path / "canary", tmp_path / "config.yaml"
    path.write_text(text.format(canary=canary))
    for read in (read_config, read_recipe):
        with pytest.raises(DepthmaskError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
    assert not canary.exists()


def test_a_document_that_multiplies_itself_is_refused_in_time(tmp_path):
    """Nine aliases of nine: 10^9 values, if anybody wrote them out."""
    import time

    from depthmask.train.config import read_config

    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10)]
    (tmp_path / "config.yaml").write_text("\n".join([*lines, "preset: *a9"]))
    begun = time.monotonic()
    with pytest.raises(DepthmaskError):
        read_config(tmp_path / "config.yaml")
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("kind", ["custom operator", "function", "function that takes a name"])
def test_operators_of_others_are_never_run(tmp_path, kind):
    import onnx
    from fuzz_targets import _network

    from depthmask.errors import InputError
    from depthmask.export.from_onnx import read_network

    model = onnx.load_from_string(_network())
    if kind == "custom operator":
        model.graph.node[0].domain = "evil.ops"
        model.graph.node[0].op_type = "PyOp"
        model.opset_import.add(domain="evil.ops", version=1)
    else:
        domain, name = ("evil.ops", "Run") if kind == "function" else ("", "Relu")
        function = model.functions.add(name=name, domain=domain)
        function.input.append("x")
        function.output.append("y")
        function.node.add(op_type="Identity", input=["x"], output=["y"])
        if domain:
            model.graph.node[1].domain, model.graph.node[1].op_type = domain, name
            model.opset_import.add(domain=domain, version=1)
    (tmp_path / "network.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="standard ONNX operators only"):
        read_network(tmp_path / "network.onnx")


@pytest.mark.parametrize(
    "name", ["os:system", "subprocess:run", "builtins:exec", "tiny_networks:TinyMask"]
)
def test_a_checkpoint_names_no_code_to_run(tmp_path, name):
    import json

    from depthmask.checkpoint import load_checkpoint
    from depthmask.presets import shipped_checkpoint

    document = json.loads((shipped_checkpoint("lite") / "checkpoint.json").read_bytes())
    document["chain"]["mask"] = {"network": name, "options": {}}
    (tmp_path / "checkpoint.json").write_text(json.dumps(document))
    with pytest.raises(DepthmaskError, match="not one of our networks"):
        load_checkpoint(tmp_path)
