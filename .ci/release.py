"""What a release is accompanied by: SHA256SUMS and an SBOM of what the wheel needs.

    python .ci/release.py DIST

DIST holds one sdist and one wheel (`python -m build`). The SBOM is CycloneDX 1.6 JSON
(cyclonedx.org/docs/1.6/json): the wheel with its sha256, the weights inside it, and every package that it
and its extras need, in the versions of the environment that ran this, which are those of constraints.txt.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import sys
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXTRAS = ("", "cpu", "export", "train", "render", "openvino", "report")
"""What can be installed beside each other on any machine; the GPU's packages come from NVIDIA."""


def write_sbom(dist: Path) -> Path:
    """Write `NAME-VERSION.cdx.json` beside the wheel."""
    (wheel,) = dist.glob("*.whl")
    own = importlib.metadata.distribution("depthmask")
    version = own.version
    if f"-{version}-" not in wheel.name:
        raise SystemExit(f"error: {wheel} must be of version {version}, which is installed here")
    needed = dict(sorted(_needed(own).items()))
    sha256 = _sha256(wheel.read_bytes())
    root = f"pkg:pypi/depthmask@{version}"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, sha256)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "depthmask",
                "version": version,
                "purl": root,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
                "hashes": [{"alg": "SHA-256", "content": sha256}],
            }
        },
        "components": [_library(one) for one in needed.values()] + list(_weights(wheel)),
        "dependencies": [
            {"ref": _purl(one), "dependsOn": sorted(_purl(needed[name]) for name in names)}
            for one, names in _edges(own, needed)
        ],
    }
    path = dist / f"depthmask-{version}.cdx.json"
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def write_sums(dist: Path) -> Path:
    """Write SHA256SUMS, as `sha256sum --check` reads it."""
    files = sorted(path for path in dist.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{_sha256(path.read_bytes())}  {path.name}\n" for path in files]
    path = dist / "SHA256SUMS"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def _requirements(distribution: importlib.metadata.Distribution, extras: set[str]) -> set[str]:
    """Names of what is needed with some extras; markers but for the extra's are taken for true."""
    names = set()
    for line in distribution.requires or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        if extra is None or extra[1] in extras:
            name = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
            assert name is not None
            names.add(_normal(name[0]))
    return names


def _needed(
    own: importlib.metadata.Distribution,
) -> dict[str, importlib.metadata.Distribution]:
    """All that depthmask needs, directly or not, as far as it is installed here."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = _requirements(own, set(EXTRAS))
    while waiting:
        name = waiting.pop()
        if name in found or name == "depthmask":
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform or Python
        waiting |= _requirements(found[name], set())
    return found


def _edges(
    own: importlib.metadata.Distribution,
    needed: dict[str, importlib.metadata.Distribution],
) -> Iterator[tuple[importlib.metadata.Distribution, list[str]]]:
    yield own, [name for name in _requirements(own, set(EXTRAS)) if name in needed]
    for one in needed.values():
        yield one, [name for name in _requirements(one, set()) if name in needed]


def _library(one: importlib.metadata.Distribution) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(one),
        "name": one.metadata["Name"],
        "version": one.version,
        "purl": _purl(one),
    }
    expression = one.metadata.get("License-Expression")
    name = (one.metadata.get("License") or "").strip().splitlines()
    if expression:
        entry["licenses"] = [{"expression": expression}]
    elif name:
        entry["licenses"] = [{"license": {"name": name[0][:100]}}]
    return entry


def _weights(wheel: Path) -> Iterator[dict[str, Any]]:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith((".safetensors", ".onnx", "/weights.bin")):
                yield {
                    "type": "machine-learning-model",
                    "bom-ref": name,
                    "name": name,
                    "hashes": [{"alg": "SHA-256", "content": _sha256(archive.read(name))}],
                }


def _purl(one: importlib.metadata.Distribution) -> str:
    return f"pkg:pypi/{_normal(one.metadata['Name'])}@{one.version}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    print(write_sbom(Path(sys.argv[1])))
    print(write_sums(Path(sys.argv[1])))
