"""Makes bundles and files as somebody would who means harm: consistent, with right digests."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import onnx


def read_manifest(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "manifest.json").read_bytes())


def seal(bundle: Path, body: dict[str, Any] | None = None, files: bool = True) -> None:
    """Write a manifest whose digests are right; `files` records those that its names lead to."""
    body = read_manifest(bundle) if body is None else body
    if files:
        for name in body["files"]:
            path = bundle / name
            if path.is_file():
                content = path.read_bytes()
                body["files"][name] = {
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "size_bytes": len(content),
                }
    body.pop("digest", None)
    body["digest"] = hashlib.sha256(msgspec.json.encode(body, order="sorted")).hexdigest()
    document = msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"
    (bundle / "manifest.json").write_bytes(document)


def rename_in_manifest(bundle: Path, old: str, new: str) -> None:
    """Have the manifest call a graph by another name, with its digests right."""
    body = read_manifest(bundle)
    body["files"][new] = body["files"].pop(old)
    for graph in body["graphs"]:
        if graph["file"] == old:
            graph["file"] = new
    seal(bundle, body)


def edit_graph(bundle: Path, edit: Any) -> None:
    """Change `model.onnx` by a function of its protobuf, and seal the bundle again."""
    path = bundle / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    edit(model)
    path.write_bytes(model.SerializeToString())
    seal(bundle)


def point_weights(model: onnx.ModelProto, **entries: str) -> None:
    """Have the first weight of a graph read from elsewhere."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    kept = {"location": "weights.bin", "offset": "0", "length": "4"} | entries
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)
