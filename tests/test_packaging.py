from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {"depthmask": "depthmask", "export": "depthmask/export", "bench": "depthmask/bench"}
FOLDERS |= {"train": "depthmask/train", "configs": "depthmask/configs"}


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory) -> list[str]:
    # From a copy: an earlier build/ in the checkout would put its own files in.
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"
    skipped = shutil.ignore_patterns(
        ".git", ".venv", "build", "*.egg-info", "demo-out", "__pycache__"
    )
    shutil.copytree(ROOT, source, ignore=skipped)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", "--wheel-dir", out, source),
        ],
        check=True,
        cwd=out,
    )
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_module(wheel_names):
    expected = {
        f"{home}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, home in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
    }
    assert expected - set(wheel_names) == set()


def test_the_wheel_holds_the_shipped_data(wheel_names):
    data = ROOT / "depthmask" / "data"
    expected = {path.relative_to(ROOT).as_posix() for path in data.rglob("*") if path.is_file()}
    assert expected - set(wheel_names) == set()
    for folder, pattern in (("train", "*.txt"), ("configs", "*.yaml"), ("export", "web/*")):
        shipped = {
            f"depthmask/{folder}/{path.relative_to(ROOT / folder).as_posix()}"
            for path in (ROOT / folder).glob(pattern)
        }
        assert shipped
        assert shipped <= set(wheel_names)


def test_depthmask_is_the_only_top_level_package(wheel_names):
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"depthmask"}


def test_every_dependency_has_a_lower_bound():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    requirements = config["options"]["install_requires"].split("\n")
    for extra in config["options.extras_require"].values():
        requirements += extra.split("\n")
    named = [line for line in requirements if line and not line.startswith("%(")]
    assert named
    assert [line for line in named if ">=" not in line] == []


def test_an_edge_install_pulls_in_nothing_for_clusters():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    wanted = (config["options"]["install_requires"] + extras["cpu"]).split()
    names = {re.split(r"[^\w-]", line)[0] for line in wanted}
    assert "onnxruntime" in names
    assert names & {"ray", "fsspec", "s3fs", "moto", "tritonclient", "protobuf"} == set()


def test_nothing_of_a_cluster_is_imported_without_being_asked_for():
    modules = "depthmask.commands.run_command, depthmask.train.materialise, depthmask.video.pieces"
    code = f"import sys, {modules}; print({{'ray', 'fsspec', 's3fs'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
