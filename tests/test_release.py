from __future__ import annotations

import importlib.util
import json
import subprocess
import zipfile
from pathlib import Path

from depthmask.version import __version__

SCRIPT = Path(__file__).parent.parent / ".ci" / "release.py"


def test_a_release_has_sums_and_a_bill_of_materials(tmp_path):
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    release = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(release)
    wheel = tmp_path / f"depthmask-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("depthmask/data/lite/weights.safetensors", b"weights")
    bill = json.loads(release.write_sbom(tmp_path).read_text())
    release.write_sums(tmp_path)
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True)

    assert bill["bomFormat"] == "CycloneDX"
    parts = {part["name"].lower(): part for part in bill["components"]}
    assert {"numpy", "click", "msgspec", "onnxruntime", "torch"} <= parts.keys()
    assert not {"pytest", "ruff"} & parts.keys()
    assert parts["depthmask/data/lite/weights.safetensors"]["type"] == "machine-learning-model"
    known = {part["bom-ref"] for part in bill["components"]}
    known.add(bill["metadata"]["component"]["bom-ref"])
    for edge in bill["dependencies"]:
        assert {edge["ref"], *edge["dependsOn"]} <= known
