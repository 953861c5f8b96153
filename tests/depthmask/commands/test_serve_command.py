from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from depthmask.bundle import SHIPPED_BUNDLE, open_bundle, record_files, write_manifest

MIB = 1024 * 1024
PHOTO = Path(__file__).parents[3] / "depthmask" / "data" / "samples" / "photos" / "cat.jpg"


@contextmanager
def serve(*options: object) -> Iterator[tuple[subprocess.Popen, int]]:
    """`dmx serve` as a user runs it, and its port."""
    code = "from depthmask.cli import main; main()"
    fixed = ("--port", "0", "--threads", "1", "--resolution", "64")
    command = [sys.executable, "-c", code, "serve", *fixed, *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline()
        assert address.startswith("http://"), process.communicate(timeout=10)
        yield process, int(address.rpartition(":")[2])
    finally:
        process.kill()
        process.communicate(timeout=10)


def ask(port, method, path, body=None, headers=None, host="127.0.0.1"):
    connection = http.client.HTTPConnection(host, port, timeout=20)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found


def peak_memory_bytes(process: subprocess.Popen) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def test_a_bundle_is_served_on_two_ports_and_ends_on_sigterm():
    photo = PHOTO.read_bytes()
    headers = {"Content-Type": "image/jpeg"}
    with serve() as (first, port), serve() as (second, other_port):
        assert port != other_port
        one, two = (ask(p, "POST", "/v1/predict", photo, headers) for p in (port, other_port))
        assert one[0] == 200
        assert one == two
        for process, number in ((first, signal.SIGTERM), (second, signal.SIGINT)):
            process.send_signal(number)
            said, remarks = process.communicate(timeout=10)
            assert (process.returncode, said) == (0, "")
            assert remarks.splitlines() == [f"serving {SHIPPED_BUNDLE} on onnxruntime cpu at 64"]


def test_50_mb_uploads_take_no_memory():
    headers = {"Content-Type": "image/png"}
    with serve("--max-upload-mib", 1) as (process, port):
        assert ask(port, "POST", "/v1/predict", b"0", headers)[0] == 400
        before_bytes = peak_memory_bytes(process)
        for form in ({"Content-Length": str(50 * MIB)}, {}, {"Connection": "close"}):
            blocks = (bytes(MIB) for _ in range(50))
            chunked = {} if "Content-Length" in form else {"Transfer-Encoding": "chunked"}
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request(
                "POST",
                "/v1/predict",
                blocks,
                headers | form | chunked,
                encode_chunked=bool(chunked),
            )
            assert connection.getresponse().status == 413
            connection.close()
        assert peak_memory_bytes(process) - before_bytes < 8 * MIB


def test_a_drain_under_load_loses_no_accepted_request():
    import threading

    photo = PHOTO.read_bytes()
    replies: list[int | str] = []

    def load(port: int) -> None:
        while True:
            try:
                status, _ = ask(port, "POST", "/v1/predict", photo, {"Content-Type": "image/jpeg"})
            except ConnectionRefusedError:
                return  # it has ended
            except OSError as error:
                replies.append(repr(error))
                return
            replies.append(status)

    with serve() as (process, port):
        clients = [threading.Thread(target=load, args=(port,)) for _ in range(4)]
        for client in clients:
            client.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0
        for client in clients:
            client.join(20)
    assert 200 in replies
    # One that connected in the instant in which the listener closed is reset: it was never accepted.
    assert [
        reply for reply in replies if reply not in (200, 503) and "reset" not in str(reply)
    ] == []


def test_a_port_in_use_is_one_line_and_exit_6(dmx):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said, remarks = dmx("serve", "--port", port)
    assert (code, said) == (6, "")
    assert remarks == (
        f"error: 127.0.0.1:{port} cannot be listened on: Address already in use. Try another --port, or 0"
        " for a free one\n"
    )


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["nowhere", "--port", 0], 3, "nowhere must be a bundle"),
        (["--port", 0, "--device", "cuda"], 4, "--device cuda"),
        (["--port", 0, "--web", "."], 3, "it has no index.html"),
        (["--port", 70000], 2, "--port"),
        (["--port", 0, "--resolution", "64,128"], 2, "must be one here"),
        (["--port", 0, "--host", "not.an.address.invalid"], 6, "cannot be listened on"),
    ],
)
def test_mistakes_are_one_line(dmx, tmp_path, monkeypatch, arguments, exit_code, said):
    from depthmask.devices import cuda_problem

    if "cuda" in arguments and cuda_problem() is None:
        pytest.skip("there is a GPU here")
    monkeypatch.chdir(tmp_path)
    code, _, remarks = dmx("serve", *arguments)
    assert code == exit_code, remarks
    assert len(remarks.splitlines()) == 1
    assert said in remarks


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "prometheus_client"])
def test_without_its_packages_it_says_what_to_install(package):
    code = f"import sys; sys.modules[{package!r}] = None; from depthmask.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr == (
        f"error: this needs the package {package}, which is not installed. Try `pip install"
        " 'depthmask[serve]'`\n"
    )


def test_every_module_imports_without_its_packages():
    from depthmask import serve as package

    names = [path.stem for path in Path(package.__file__).parent.glob("*.py")]
    assert len(names) > 10
    lines = [f"import depthmask.serve.{name}" for name in names if name != "__init__"]
    blocked = ("starlette", "uvicorn", "prometheus_client")
    code = "import sys\n" + "\n".join([f"sys.modules[{name!r}] = None" for name in blocked] + lines)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_it_warns_where_others_can_reach_it():
    with serve("--host", "0.0.0.0") as (process, port):
        assert ask(port, "GET", "/health/ready")[0] == 200
        os.kill(process.pid, signal.SIGTERM)
        _, remarks = process.communicate(timeout=10)
    assert remarks.startswith("warning: others can reach 0.0.0.0, and the service has no login")


def test_the_page_of_a_bundle_is_served(tmp_path):
    bundle = tmp_path / "b"
    shutil.copytree(SHIPPED_BUNDLE, bundle)
    manifest = open_bundle(bundle).manifest
    (bundle / "web").mkdir()
    (bundle / "web" / "index.html").write_text("a page")
    write_manifest(bundle, msgspec.structs.replace(manifest, files=record_files(bundle)))
    with serve(bundle) as (_, port):
        assert ask(port, "GET", "/") == (200, b"a page")


def test_a_second_signal_ends_it_in_the_midst_of_an_inference():
    image = cv2.imencode(".png", np.zeros((4000, 4000, 3), np.uint8))[1].tobytes()
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(image)}"
    with serve() as (process, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + b"\r\n\r\n" + image)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, remarks = process.communicate(timeout=10)
    assert process.returncode == 130
    assert remarks.splitlines()[1:] == [
        "error: a second signal came before 1 accepted requests were answered"
    ]
