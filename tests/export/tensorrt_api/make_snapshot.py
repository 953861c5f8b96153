"""Writes what a TensorRT's Python bindings offer, as `VERSION.json` beside this file.

The bindings come alone from the package index; the libraries that they want are stood in for by empty ones,
which is enough to import them (nothing is ever called). To make the snapshot of a version:

    pip download --no-deps -d /tmp/w tensorrt-cu13-bindings==11.4.0.106
    python tests/export/tensorrt_api/make_snapshot.py /tmp/w/tensorrt_cu13_bindings-11.4.0.106-*.whl

Needs a C compiler. A class is its attributes; a method is its overloads, from pybind11's own docstrings.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_SIGNATURE = re.compile(
    r"^(?:\d+\. )?\w+\(self: [\w.]+(?:, (?P<parameters>.*))?\) -> (?P<returns>.+)$"
)
_PARAMETER = re.compile(r"(?:^|, )(\w+): ")


def snapshot(module: ModuleType) -> dict[str, Any]:
    """Every public name: None for a plain one, a class as its attributes."""
    return {
        name: _members(value) if isinstance(value, type) else None
        for name, value in sorted(vars(module).items())
        if not name.startswith("_")
    }


def _members(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in dir(kind):
        if name.startswith("_"):
            continue
        value = getattr(kind, name, None)
        found[name] = _members(value) if isinstance(value, type) else _overloads(value)
    return found


def _overloads(value: Any) -> list[dict[str, Any]] | None:
    """The parameters and result of each overload of a method; None of what is none."""
    if not callable(value):
        return None
    matches = map(_SIGNATURE.match, (value.__doc__ or "").splitlines())
    return [
        {
            "parameters": _PARAMETER.findall(match["parameters"] or ""),
            "returns": re.split(r"[.:]", match["returns"])[-1].strip(),
        }
        for match in matches
        if match
    ]


def main(wheel: Path) -> None:
    """Import the bindings of a wheel in a process of its own, and write their snapshot."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zipfile.ZipFile(wheel).extractall(folder)
        major = wheel.name.split("-")[1].split(".")[0]
        source = folder / "stub.c"
        source.write_text("".join(f"void *{f}(void) {{ return 0; }}\n" for f in _FUNCTIONS))
        for library in _LIBRARIES:
            so_name = f"lib{library}.so.{major}"
            subprocess.run(
                [
                    "cc",
                    "-shared",
                    "-fPIC",
                    "-o",
                    folder / so_name,
                    source,
                    f"-Wl,-soname,{so_name}",
                ],
                check=True,
            )
        environment = {**os.environ, "LD_LIBRARY_PATH": name, "PYTHONPATH": name}
        subprocess.run([sys.executable, __file__, "--inside"], env=environment, check=True)


def _inside() -> None:
    import tensorrt_bindings as trt

    version = ".".join(trt.__version__.split(".")[:2])
    document = json.dumps({"version": trt.__version__, "names": snapshot(trt)}, sort_keys=True)
    (Path(__file__).parent / f"{version}.json").write_text(document + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--inside"]:
        _inside()
    else:
        main(Path(sys.argv[1]))
