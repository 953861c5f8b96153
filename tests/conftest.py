from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

# tiny_networks.py is there, and imported as a user's module would be. (tests/ itself must not be on
# the path: its folder depthmask/ would shadow the package.)
USER_CODE = Path(__file__).parent / "user_code"
REQUIRE_GPU = os.environ.get("DEPTHMASK_REQUIRE_GPU") == "1"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# At the sizes of these tests a second thread of PyTorch costs more than it computes; in processes that
# tests start too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
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


@pytest.fixture(scope="session", autouse=True)
def _operators_listed_once() -> Iterator[None]:
    """PyTorch's exporter reads the source of its 500 operators anew for every graph; here once."""
    if "torch" not in sys.modules:
        yield
        return
    from torch.onnx._internal._lazy_import import onnxscript_apis

    @cache
    def operators() -> list:
        return onnxscript_apis.__getattr__("get_torchlib_ops")()  # imports onnxscript

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(onnxscript_apis), "get_torchlib_ops", operators)
        yield


@pytest.fixture(autouse=True)
def _short_collections() -> None:
    """What is there already (PyTorch, for the most part) is not looked through by every collection.

    An export collects after each of its steps, and with PyTorch in memory that takes half of a tiny one.
    """
    if gc.get_stats()[-1]["collections"] > _collections[-1]:
        gc.collect()
        gc.freeze()
        _collections.append(gc.get_stats()[-1]["collections"])


_collections = [0]
"""Of everything, up to each freeze."""


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


@pytest.fixture(scope="session")
def s3_server() -> Iterator[None]:
    """An S3 server on this machine, which everything that knows S3 then talks to."""
    server_module = pytest.importorskip("moto.server", reason="needs moto[server]")
    pytest.importorskip("s3fs", reason="needs the extra s3")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "for-tests")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield
    server.stop()


@pytest.fixture(scope="session")
def s3_bucket(s3_server) -> str:
    """A bucket in which everything is allowed."""
    import boto3

    boto3.client("s3").create_bucket(Bucket="work")
    return "work"


@pytest.fixture(scope="session")
def s3_denied(s3_server) -> str:
    """A bucket in which nothing is."""
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="denied")
    resources = ["arn:aws:s3:::denied", "arn:aws:s3:::denied/*"]
    rule = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": resources}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
    client.put_bucket_policy(Bucket="denied", Policy=policy)
    return "denied"


@pytest.fixture(scope="session")
def ray_cluster(s3_server) -> Iterator[ModuleType]:
    """A Ray cluster of two nodes with a CPU each, on this machine, and this process connected to it.

    Its workers know the S3 server, because that was there first.
    """
    pytest.importorskip("ray", reason="needs the extra ray")
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 200_000_000, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        # Workers import what tests define.
        patch.setenv("PYTHONPATH", str(USER_CODE))
        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(**node)
        ray.init(cluster.address, log_to_driver=False, logging_level="CRITICAL")
        yield ray
        ray.shutdown()
        cluster.shutdown()
