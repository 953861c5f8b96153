from __future__ import annotations

import ctypes
import json
import os
import site
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest

from depthmask import devices, doctor, doctor_probe, runtimes
from depthmask.errors import UnavailableError

ROOT = Path(__file__).parents[2]
BASE = (
    *("click", "rich", "markdown_it", "mdurl", "pygments", "msgspec"),
    *("numpy", "numpy.libs", "cv2", "opencv_python.libs", "av", "av.libs"),
)
"""What depthmask installs without any extra."""


def by_name(document):
    return {finding["name"]: finding for finding in document["findings"]}


@pytest.fixture(scope="module")
def here():
    """What `dmx doctor --json` says on this machine."""
    done = doctor_of(sys.executable)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def doctor_of(python, **environment):
    return subprocess.run(
        [python, "-c", "from depthmask.cli import main; main()", "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
        check=False,
    )


def test_every_part_is_named_once_and_what_is_not_ok_has_a_way_to_mend(here):
    names = [finding["name"] for finding in here["findings"]]
    assert len(names) == len(set(names))
    assert set(names) >= {"Python", "CPU", "NVIDIA driver", "GPU", "cameras", "display", "disk"}
    assert set(names) >= set(runtimes.names())
    for finding in here["findings"]:
        assert finding["detail"]
        assert "\n" not in finding["detail"]
        assert (finding["state"] == "ok") or finding["mend"]


def test_runtimes_that_are_here_are_truly_run(here):
    found = by_name(here)
    for name in ("onnxruntime", "openvino", "torch"):
        assert found[name]["state"] == "ok"
        assert "ran the shipped bundle" in found[name]["detail"]
    assert here["holds"] == all(f["state"] != "broken" for f in here["findings"])


def test_tensorrt_rtx_builds_here_and_is_not_called_tensorrt(here):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    detail = by_name(here)["tensorrt-rtx"]["detail"]
    assert "built the shipped bundle's engine" in detail
    if devices.cuda_problem() is not None:
        assert "it cannot run one: there is no NVIDIA driver" in detail


def test_libraries_in_the_python_package_are_found(monkeypatch, tmp_path):
    package = tmp_path / "tensorrt_libs"
    package.mkdir()
    (package / "__init__.py").touch()
    source = tmp_path / "empty.c"
    source.touch()
    for name in ("libnvinfer.so.11", "libnvonnxparser.so.11"):
        subprocess.run(["cc", "-shared", "-fPIC", "-o", package / name, source], check=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = doctor_probe.probe("tensorrt-libraries")
    assert found == {"state": "ok", "detail": "libnvinfer.so.11, libnvonnxparser.so.11"}


def test_both_wheels_of_onnxruntime_are_a_clash(tmp_path):
    folder = tmp_path / "onnxruntime_gpu-1.30.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: onnxruntime-gpu\nVersion: 1.30.0\n")
    done = doctor_of(sys.executable, PYTHONPATH=str(tmp_path))
    found = by_name(json.loads(done.stdout))
    wheels = found["onnxruntime wheels"]
    assert wheels["state"] == "broken"
    assert "onnxruntime-gpu 1.30.0" in wheels["detail"]
    assert wheels["mend"].startswith("pip uninstall onnxruntime onnxruntime-gpu")
    assert found["onnxruntime"]["state"] == "broken"
    assert found["openvino"]["state"] == "ok"
    assert done.returncode == 1
    assert done.stderr.strip().startswith("error: broken on this machine: onnxruntime wheels")


def test_a_machine_without_any_runtime_is_healthy_and_told_what_to_install(tmp_path):
    venv.create(tmp_path / "v", with_pip=False, symlinks=True)
    library = next((tmp_path / "v/lib").glob("python3*")) / "site-packages"
    for name in BASE:
        source = Path(site.getsitepackages()[0]) / name
        if source.exists():
            (library / name).symlink_to(source)
    package = library / "depthmask"
    package.mkdir()
    for path in [*(ROOT / "depthmask").iterdir(), ROOT / "export", ROOT / "bench", ROOT / "train"]:
        (package / path.name).symlink_to(path)
    extension = next(Path(site.getsitepackages()[0]).glob("typing_extensions.py"))
    (library / extension.name).symlink_to(extension)
    done = doctor_of(str(tmp_path / "v/bin/python"), PYTHONPATH="")
    found = by_name(json.loads(done.stdout))
    assert found["onnxruntime wheels"]["state"] == "not there"
    for name in runtimes.names():
        assert found[name]["state"] == "not there", found[name]
        assert found[name]["mend"].startswith("pip install 'depthmask[")
    assert done.returncode == 0, done.stderr


def test_a_runtime_that_crashes_or_hangs_is_a_finding(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nkill -SEGV $$\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    found = doctor._runtime("onnxruntime")
    assert (found.state, found.detail) == ("broken", "it crashes (SIGSEGV)")
    python.write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr(doctor, "_PROBE_TIMEOUT_S", 0.5)
    assert "does not answer" in doctor._runtime("onnxruntime").detail
    python.write_text("#!/bin/sh\necho 'ImportError: libx.so' >&2\nexit 1\n")
    monkeypatch.setattr(doctor, "_PROBE_TIMEOUT_S", 30)
    found = doctor._runtime("onnxruntime")
    assert (found.state, found.detail) == ("broken", "ImportError: libx.so")


def test_a_package_without_its_libraries_is_broken(monkeypatch):
    def fail(flavour):
        raise UnavailableError("TensorRT is installed but cannot be loaded: libnvinfer.so.10")

    monkeypatch.setattr(doctor_probe, "is_installed", lambda name: True)
    monkeypatch.setattr(doctor_probe, "_tensorrt", lambda: fail("tensorrt"))
    assert doctor_probe.probe("tensorrt") == {
        "state": "broken",
        "detail": "TensorRT is installed but cannot be loaded: libnvinfer.so.10",
    }


@pytest.mark.parametrize(
    ("there", "state", "words"),
    [
        ((), "not there", "libnvinfer and libnvonnxparser cannot be loaded"),
        (("libnvinfer.so.10",), "broken", "but no libnvonnxparser"),
        (("libnvinfer.so.10", "libnvonnxparser.so.10"), "ok", "libnvonnxparser.so.10"),
    ],
)
def test_tensorrts_libraries_are_loaded_to_know(monkeypatch, there, state, words):
    def load(name):
        if name not in there:
            raise OSError(name)

    monkeypatch.setattr(doctor_probe.ctypes, "CDLL", load)
    found = doctor_probe.probe("tensorrt-libraries")
    assert found["state"] == state
    assert words in found["detail"]


STUB = """
int cuInit(unsigned f) { return INIT; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDriverGetVersion(int *v) { *v = 12040; return 0; }
int cuDeviceGet(int *d, int i) { *d = 0; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 9 : -1; return 0; }
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A libcuda of our own."""

    def make(init=0, count=1):
        (tmp_path / "cuda.c").write_text(
            STUB.replace("INIT", str(init)).replace("COUNT", str(count))
        )
        library = tmp_path / f"libcuda-{init}-{count}.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "cuda.c"], check=True)
        real = ctypes.CDLL
        monkeypatch.setattr(devices.ctypes, "CDLL", lambda name: real(str(library)))

    return make


def test_the_driver_is_asked_for_the_architecture(driver):
    driver()
    assert devices.cuda_problem() is None
    assert devices.cuda_architecture() == "sm89"
    assert doctor._driver().state == "ok"
    assert "serves CUDA up to 12.4" in doctor._driver().detail
    assert (doctor._gpu().state, doctor._gpu().detail) == ("ok", "sm89")


@pytest.mark.parametrize(
    ("init", "count", "words"),
    [
        (35, 1, "older than this CUDA needs (error 35)"),
        (100, 1, "(error 100)"),
        (0, 0, "(error 100)"),
    ],
)
def test_a_driver_that_does_not_work_is_broken(driver, init, count, words):
    driver(init, count)
    found = doctor._driver()
    assert found.state == "broken"
    assert words in found.detail
    with pytest.raises(UnavailableError, match="a GPU is needed"):
        devices.cuda_architecture()


def test_cameras_without_permission_and_displays_without_a_server_are_broken(monkeypatch, tmp_path):
    (tmp_path / "video0").touch()
    monkeypatch.setattr(doctor, "Path", lambda path: tmp_path if path == "/dev" else Path(path))
    assert doctor._cameras().state == "ok"
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    found = doctor._cameras()
    assert (found.state, "usermod -aG video" in found.mend) == ("broken", True)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":4321")
    assert "no X server is there" in doctor._display().detail
    monkeypatch.delenv("DISPLAY")
    assert doctor._display().state == "not there"


def test_a_full_disk_is_broken(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert doctor._disk().state == "broken"


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def fail():
        raise OSError("gone")

    monkeypatch.setattr(doctor, "_checks", lambda: iter([("disk", fail)]))
    (found,) = doctor.examine()
    assert (found.name, found.state, found.detail) == ("disk", "broken", "OSError: gone")


def test_the_command_prints_a_line_for_each(dmx_inside, monkeypatch):
    findings = [
        doctor.Finding(name="a", state="ok", detail="[x]"),
        doctor.Finding(name="b", state="not there", detail="none", mend="buy one"),
        doctor.Finding(name="c", state="broken", detail="bad", mend="mend it"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: iter(findings))
    code, out, error = dmx_inside("doctor")
    assert code == 1
    assert out.splitlines() == [
        "ok        a: [x]",
        "not there b: none. Try: buy one",
        "broken    c: bad. Try: mend it",
    ]
    assert "error: broken on this machine: c" in error


def test_a_gpu_that_tensorrt_rtx_has_no_engines_for_is_not_a_broken_tensorrt_rtx(monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra tensorrt-rtx")
    monkeypatch.setattr(doctor_probe, "cuda_problem", lambda: None)
    monkeypatch.setattr(doctor_probe, "cuda_architecture", lambda: "sm90")
    answer = doctor_probe.probe("tensorrt-rtx")
    assert answer["state"] == "ok"
    assert (
        "for sm89; it cannot run one: TensorRT-RTX has none for the GPU here, sm90"
        in answer["detail"]
    )
