"""Every name of TensorRT that our code uses exists in TensorRT 10.16, in 11.4 and in TensorRT-RTX.

Without a GPU, TensorRT's own code is never run here; its names and keywords can be looked up all the same.
The code is read, not run: what a call gives follows from the signatures in the snapshots
(tensorrt_api/make_snapshot.py), so that a new use is found without being listed anywhere.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNAPSHOTS = Path(__file__).parent / "tensorrt_api"
FILES = (
    "export/tensorrt_builder.py",
    "export/engines.py",
    "depthmask/tensorrt_module.py",
    "depthmask/doctor_probe.py",
    "depthmask/runtimes/engine_session.py",
    "depthmask/runtimes/onnxruntime_tensorrt_runtime.py",
    "depthmask/runtimes/kernel_cache.py",
    "depthmask/runtimes/tensorrt_runtime.py",
    "depthmask/runtimes/tensorrt_rtx_runtime.py",
)
"""What touches TensorRT; a test finds what is missing here."""
PARAMETERS = {
    "trt": "module",
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "runtime_config": "IRuntimeConfig",
}
"""What our functions are handed; a test finds what is missing here."""
NOT_TENSORRT = {"severity"}
RTX_ONLY = {
    ("module", "ComputeCapability"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("IExecutionContext", "is_stream_capturable"),
    ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "set_runtime_cache"),
}
"""Used only where the flavour is tensorrt-rtx."""
ALIASES = {"IParserError": "ParserError"}


def load(version):
    return json.loads((SNAPSHOTS / f"{version}.json").read_text())["names"]


def make_snapshot_module():
    spec = importlib.util.spec_from_file_location("make_snapshot", SNAPSHOTS / "make_snapshot.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rtx_names():
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    return make_snapshot_module().snapshot(trt)


class Reader(ast.NodeVisitor):
    """Collects uses as (owner, name), and keywords of calls as (owner, method, keyword)."""

    def __init__(self, names):
        self.names = names
        self.uses = set()
        self.keywords = set()
        self.scopes = [{}]
        self.attributes = {}
        self.any_parameters = set()

    def look_up(self, owner):
        found = self.names
        if owner != "module":
            for part in owner.split("."):
                found = (found or {}).get(part)
        return found if isinstance(found, dict) else {}

    def kind(self, node):
        """`module`, `class NAME`, `method OWNER NAME`, an instance's class, `[class]`, or None."""
        if isinstance(node, ast.Name):
            return next((scope[node.id] for scope in self.scopes[::-1] if node.id in scope), None)
        if isinstance(node, ast.ListComp):
            self.bind_loops(node.generators)
            element = self.kind(node.elt)
            return f"[{element}]" if element else None
        if isinstance(node, ast.Call):
            called = self.kind(node.func)
            if called and called.startswith("class "):
                return called.removeprefix("class ")
            if called and called.startswith("method "):
                _, owner, method = called.split()
                self.keywords |= {(owner, method, k.arg) for k in node.keywords}
                overloads = self.look_up(owner).get(method) or [{}]
                given = overloads[0].get("returns", "")
                given = ALIASES.get(given, given)
                return given if isinstance(self.names.get(given), dict) else None
            return None
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return self.attributes.get(node.attr)
            owner = self.kind(node.value)
            if owner is None or owner.startswith(("[", "method ")):
                return None
            owner = owner.removeprefix("class ")
            self.uses.add((owner, node.attr))
            member = self.look_up(owner).get(node.attr)
            if isinstance(member, dict):
                return f"class {node.attr}" if owner == "module" else f"class {owner}.{node.attr}"
            return f"method {owner} {node.attr}" if isinstance(member, list) else None
        return None

    def bind(self, target, kind):
        if isinstance(target, ast.Name):
            self.scopes[-1][target.id] = kind
        elif isinstance(target, ast.Attribute) and ast.unparse(target).startswith("self."):
            self.attributes[target.attr] = kind or self.attributes.get(target.attr)

    def bind_loops(self, loops):
        for loop in loops:
            kind = self.kind(loop.iter)
            self.bind(loop.target, kind[1:-1] if kind and kind.startswith("[") else None)

    def visit_FunctionDef(self, node):
        scope = {}
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            if argument.annotation is not None and ast.unparse(argument.annotation) == "Any":
                self.any_parameters.add(argument.arg)
                scope[argument.arg] = PARAMETERS.get(argument.arg)
        self.scopes.append(scope)
        self.generic_visit(node)
        self.scopes.pop()

    def visit_ClassDef(self, node):
        for base in node.bases:
            kind = self.kind(base)
            if kind and kind.startswith("class "):
                own = [item.name for item in node.body if isinstance(item, ast.FunctionDef)]
                self.uses |= {(kind.removeprefix("class "), n) for n in own if n != "__init__"}
        self.generic_visit(node)

    def visit_Assign(self, node):
        kind = self.kind(node.value)
        self.generic_visit(node)
        for target in node.targets:
            self.bind(target, kind)

    def visit_For(self, node):
        self.bind_loops([node])
        self.generic_visit(node)

    def generic_visit(self, node):
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            self.bind_loops(node.generators)
        if isinstance(node, (ast.Attribute, ast.Call)):
            self.kind(node)
        super().generic_visit(node)


def read(source, names):
    reader = Reader(names)
    reader.visit(ast.parse(source))
    return reader


def read_all(names):
    readers = [read((ROOT / file).read_text(), names) for file in FILES]
    uses = set().union(*(reader.uses for reader in readers))
    keywords = set().union(*(reader.keywords for reader in readers))
    return uses, keywords, set().union(*(reader.any_parameters for reader in readers))


def missing(uses, keywords, names):
    reader = Reader(names)
    absent = {use for use in uses if use[1] not in reader.look_up(use[0])}
    absent |= {
        (owner, method, keyword)
        for owner, method, keyword in keywords
        if not any(
            keyword in overload["parameters"] for overload in reader.look_up(owner).get(method, [])
        )
    }
    return {use for use in absent if not use[1].startswith("__")}


@pytest.mark.parametrize("version", ["10.16", "11.4"])
def test_tensorrt_has_what_we_use(version):
    uses, keywords, _ = read_all(load(version))
    # What only RTX has is typed by RTX, and what is common by this version.
    assert not missing(uses, keywords, load(version)) - RTX_ONLY


def test_tensorrt_rtx_has_what_we_use():
    names = rtx_names()
    uses, keywords, _ = read_all(names)
    assert not missing(uses, keywords, names)
    assert uses >= RTX_ONLY


def test_what_is_for_rtx_alone_is_not_in_tensorrt():
    for version in ("10.16", "11.4"):
        uses, keywords, _ = read_all(load(version))
        assert missing(uses, keywords, load(version)) == RTX_ONLY & uses
        assert uses >= RTX_ONLY


def test_the_reader_follows_objects_through_calls_lists_and_attributes():
    uses, _, _ = read_all(load("11.4"))
    assert uses >= {
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("ParserError", "node_name"),
        ("ITensor", "shape"),
        ("ILayer", "name"),
        ("IOptimizationProfile", "set_shape"),
        ("IBuilderConfig", "progress_monitor"),
        ("IProgressMonitor", "step_complete"),
        ("ILogger.Severity", "WARNING"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "get_tensor_mode"),
        ("IExecutionContext", "execute_async_v3"),
        ("TensorIOMode", "INPUT"),
    }


@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", ("BuilderFlag", "FP16")),
        ("trt.Runtime(1).deserialize(b'')", ("Runtime", "deserialize")),
        ("builder.build_serialized_network(network, options=config)", None),
        ("[network.get_layer(i) for i in range(3)][0]; x = network.get_input(0).size", None),
    ],
)
def test_a_new_use_of_what_a_version_lacks_is_found(line, absent):
    source = f"def f(trt: Any, builder: Any, network: Any, config: Any):\n    {line}\n"
    reader = read(source, load("11.4"))
    found = missing(reader.uses, reader.keywords, load("11.4"))
    assert len(found) == 1
    assert absent is None or found == {absent}
    if absent == ("BuilderFlag", "FP16"):
        reader = read(source, load("10.16"))
        assert not missing(reader.uses, reader.keywords, load("10.16"))


def test_every_parameter_that_may_be_tensorrts_is_known():
    _, _, parameters = read_all(load("11.4"))
    other = {"stream", "graph", "device", "value", "ort", "session"}
    assert parameters <= set(PARAMETERS) | NOT_TENSORRT | other


def test_every_file_that_touches_tensorrt_is_read():
    touching = re.compile(r"\btrt\b|import_tensorrt|\btensorrt_rtx\b")
    known = set(FILES)
    for folder in ("depthmask", "export", "bench", "train"):
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if touching.search(path.read_text()) and name != "depthmask/runtimes/__init__.py":
                assert name in known


def test_cuda_has_what_we_call_with_as_many_arguments():
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="needs the extra tensorrt-rtx")
    tree = ast.parse((ROOT / "depthmask/runtimes/cuda.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("cudart."):
            found = cudart
            for name in ast.unparse(node).split(".")[1:]:
                found = getattr(found, name)
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("cudart.")
    ]
    assert len(calls) > 15
    for call in calls:
        name = ast.unparse(call.func).removeprefix("cudart.")
        signature = getattr(cudart, name).__doc__.strip().splitlines()[0]
        inside = signature[signature.index("(") + 1 : signature.rindex(")")]
        assert len(call.args) == len([part for part in inside.split(",") if part.strip()]), (
            signature
        )
        assert not call.keywords
