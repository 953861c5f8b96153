from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from depthmask.bundle import SHIPPED_BUNDLE, open_bundle
from depthmask.frames import Resolution
from depthmask.pipeline import Pipeline, Prediction
from depthmask.serve.server import HttpServer, listen
from depthmask.serve.service import Service
from depthmask.serve.settings import MIB, ServeSettings

TIMEOUT_S = 20
RESOLUTION = Resolution(64, 64)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Served:
    """A server in a thread of this process."""

    port: int
    service: Service
    server: HttpServer
    thread: threading.Thread
    error: BaseException | None = None

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        return ask(self.port, method, path, body, **headers)

    def predict(self, image: bytes, query: str = "") -> Reply:
        return self.ask("POST", f"/v1/predict{query}", image, Content_Type="image/png")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_S)

    def metric(self, name: str) -> float:
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(name + " ")), 0.0)


class SlowPipeline:
    """Stands for a pipeline whose inferences take as long as a test wants."""

    def __init__(self) -> None:
        self.bundle = open_bundle(SHIPPED_BUNDLE, check_files=False)
        self.manifest = self.bundle.manifest
        self.resolution = RESOLUTION
        self.runtime = SimpleNamespace(name="slow", device="cpu")
        self.may_end = threading.Semaphore(0)
        self.begun = 0

    def __call__(self, frame_HW3: np.ndarray) -> Prediction:
        self.begun += 1
        assert self.may_end.acquire(timeout=TIMEOUT_S)
        ones_HW = np.ones(frame_HW3.shape[:2], np.float32)
        return Prediction(ones_HW, ones_HW)

    def __enter__(self) -> SlowPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.begun = -1


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    response = connection.getresponse()
    reply = Reply(response.status, response.headers, response.read())
    connection.close()
    return reply


@contextmanager
def serving(
    open_pipeline: Callable[[], Any], web: Path | None = None, **settings: Any
) -> Iterator[Served]:
    service = Service(open_pipeline, ServeSettings(**settings))
    listener = listen("127.0.0.1", 0)
    server = HttpServer(service, web, listener)
    is_ready = threading.Event()

    def run() -> None:
        try:
            server.run(lambda pipeline: is_ready.set())
        except BaseException as error:
            served.error = error

    thread = threading.Thread(target=run)
    served = Served(listener.getsockname()[1], service, server, thread)
    thread.start()
    try:
        assert is_ready.wait(TIMEOUT_S)
        yield served
    finally:
        server.stop()
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def encoded(frame_HW3: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, frame_HW3[:, :, ::-1])[1].tobytes()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    ends_s = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < ends_s, f"never: {what}"
        time.sleep(0.01)


@dataclass(frozen=True)
class Helpers:
    """conftest.py cannot be imported from."""

    ask = staticmethod(ask)
    encoded = staticmethod(encoded)
    serving = staticmethod(serving)
    wait_until = staticmethod(wait_until)


@pytest.fixture(scope="session")
def helpers() -> Helpers:
    return Helpers()


@pytest.fixture
def slow() -> SlowPipeline:
    return SlowPipeline()


@pytest.fixture
def png(frame_HW3) -> bytes:
    return encoded(frame_HW3, ".png")


@pytest.fixture(scope="session")
def pipeline() -> Iterator[Pipeline]:
    """What the service must agree with."""
    with Pipeline.open(threads=1, resolution=RESOLUTION) as pipeline:
        yield pipeline


@pytest.fixture(scope="session")
def lite() -> Iterator[Served]:
    """The shipped bundle, with small limits."""
    open_pipeline = partial(Pipeline.open, threads=1, resolution=RESOLUTION)
    with serving(open_pipeline, max_upload_bytes=MIB, max_pixels=1_000_000) as served:
        yield served


@pytest.fixture(scope="module")
def slow_module() -> SlowPipeline:
    return SlowPipeline()
