from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

# tiny_networks.py is there, and imported as a user's module would be. (tests/ itself must not be on
# the path: its folder depthmask/ would shadow the package.)
USER_CODE = Path(__file__).parent / "user_code"
REQUIRE_GPU = os.environ.get("DEPTHMASK_REQUIRE_GPU") == "1"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# A runner started in the background may have Ctrl-C ignored, and our processes would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(USER_CODE))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from depthmask.devices import cuda_problem

    problem = cuda_problem()
    if problem is None or REQUIRE_GPU:
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=f"no GPU here: {problem}"))


@pytest.fixture(scope="session")
def tiny_chain():
    import tiny_networks

    from depthmask.chain import MaskDepthChain

    return MaskDepthChain(tiny_networks.TinyMask(), tiny_networks.TinyDepth()).eval()


@pytest.fixture(scope="session")
def trace():
    """`to_onnx`, once for each chain and options: tracing takes most of an export's time."""
    from depthmask.export.to_onnx import to_onnx

    return cache(to_onnx)


@pytest.fixture(scope="session")
def tiny_bundle_path(tiny_chain, trace, tmp_path_factory) -> Path:
    """A verified bundle of two resolutions; read-only by agreement."""
    from depthmask.export import export_chain
    from depthmask.frames import Resolution

    out = tmp_path_factory.mktemp("bundles") / "tiny"
    export_chain(tiny_chain, out, resolution=[Resolution(32, 32), Resolution(48, 64)], trace=trace)
    return out


@pytest.fixture(scope="session")
def untrained_lite(tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """What `dmx export` of untrained lite says, and the folder that it ran in; read-only by agreement."""
    folder = tmp_path_factory.mktemp("untrained")
    options = ("--preset", "lite", "--init", 0, "--resolution", 32, "--json")
    return run_dmx("export", *options, timeout_s=300, folder=folder), folder


@pytest.fixture(scope="session")
def ort_web() -> Path:
    """npm's archive of onnxruntime-web, which `make test` fetches."""
    from web_pages import ORT_WEB, ROOT

    if not ORT_WEB.exists():
        pytest.skip(f"no {ORT_WEB.relative_to(ROOT)} here: make {ORT_WEB.relative_to(ROOT)}")
    return ORT_WEB


@pytest.fixture
def frame_HW3() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


@pytest.fixture
def dmx(tmp_path, monkeypatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `dmx` as a user does, in a fresh folder; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    return run_dmx


@pytest.fixture
def dmx_inside(capsys) -> Callable[..., tuple[int, str, str]]:
    """Run `dmx` in this process, which has imported PyTorch already; gives the same."""
    from depthmask.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        return caught.value.code, *capsys.readouterr()

    return run


def run_dmx(
    *arguments: object, timeout_s: float = 120, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from depthmask.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(USER_CODE), "COLUMNS": "200"},
        check=False,
    )
