from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from depthmask.errors import InputError, InterruptedWorkError
from depthmask.serve.server import HttpServer, listen
from depthmask.serve.service import Service
from depthmask.serve.settings import ServeSettings


def test_a_drain_answers_what_was_accepted_and_accepts_no_more(helpers, slow, png):
    with helpers.serving(lambda: slow) as served, ThreadPoolExecutor(3) as clients:
        replies = [clients.submit(served.predict, png) for _ in range(3)]
        helpers.wait_until(lambda: served.service.worker.waiting == 2, "two wait")
        served.server.stop()
        helpers.wait_until(lambda: served.service.is_draining, "it drains")
        time.sleep(0.5)  # it goes on to listen meanwhile
        ready = served.ask("GET", "/health/ready")
        refused = served.predict(png)
        assert served.ask("GET", "/health/live").status == 200
        slow.may_end.release(3)
        assert [reply.result().status for reply in replies] == [200, 200, 200]
        served.thread.join(10)
        assert not served.thread.is_alive()
    assert served.error is None
    assert slow.begun == -1  # the pipeline is closed
    assert (ready.status, ready.json) == (503, {"error": "the service is stopping"})
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    with pytest.raises(ConnectionRefusedError):
        served.connect()


@pytest.mark.parametrize("how", ["time is over", "second signal"])
def test_a_drain_that_is_cut_short_says_so(helpers, slow, png, how, caplog):
    limit_s = 0.3 if how == "time is over" else 30
    with helpers.serving(lambda: slow, drain_timeout_s=limit_s) as served:
        with ThreadPoolExecutor(1) as clients:
            reply = clients.submit(served.predict, png)
            helpers.wait_until(lambda: slow.begun == 1, "it is in work")
            served.server.stop()
            helpers.wait_until(lambda: served.service.is_draining, "it drains")
            if how == "second signal":
                served.server.stop()
            assert reply.result().status == 503
            assert reply.result().json == {"error": "the service stopped before this was done"}
        served.thread.join(10)
        slow.may_end.release()
    assert isinstance(served.error, InterruptedWorkError)
    said = {"time is over": "0.3 s were over", "second signal": "a second signal came"}[how]
    assert str(served.error) == f"{said} before 1 accepted requests were answered"
    assert caplog.text == ""


def test_a_drain_waits_for_who_takes_his_answer_slowly_but_not_for_ever(helpers, slow):
    slow.may_end.release()
    image = helpers.encoded(np.zeros((2000, 2000, 3), np.uint8), ".png")  # 32 MB of npz
    head = f"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(image)}"
    with helpers.serving(lambda: slow, drain_timeout_s=0.5) as served, served.connect() as client:
        client.sendall(head.encode() + b"\r\n\r\n" + image)
        assert client.recv(12) == b"HTTP/1.1 200"
        served.server.stop()
        served.thread.join(10)
        assert not served.thread.is_alive()
    assert str(served.error) == "0.5 s were over before 1 clients took their answers"


@pytest.fixture
def opening(slow):
    """A server whose bundle opens when `may_open` is set: its port, its thread, itself and that event."""
    may_open = threading.Event()
    service = Service(lambda: may_open.wait(20) and slow, ServeSettings())
    listener = listen("127.0.0.1", 0)
    server = HttpServer(service, None, listener)
    thread = threading.Thread(target=server.run, args=(lambda pipeline: None,))
    thread.start()
    yield listener.getsockname()[1], thread, server, may_open
    may_open.set()
    server.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_while_the_bundle_opens_it_is_live_but_not_ready(helpers, opening, png):
    port, _, _, may_open = opening
    assert helpers.ask(port, "GET", "/health/live").status == 200
    ready = helpers.ask(port, "GET", "/health/ready")
    assert (ready.status, ready.json) == (503, {"error": "the service is starting"})
    assert helpers.ask(port, "GET", "/v1/model").status == 503
    assert helpers.ask(port, "POST", "/v1/predict", png, Content_Type="image/png").status == 503
    may_open.set()
    helpers.wait_until(
        lambda: helpers.ask(port, "GET", "/health/ready").status == 200, "it is ready"
    )


def test_an_end_while_the_bundle_opens_waits_for_it(helpers, opening, slow):
    port, thread, server, may_open = opening
    assert helpers.ask(port, "GET", "/health/live").status == 200
    server.stop()
    time.sleep(1)  # an end may leave the thread alone after 0.3 s, where it is cut short
    assert thread.is_alive()
    may_open.set()
    thread.join(10)
    assert not thread.is_alive()
    assert slow.begun == -1  # the pipeline is closed


def test_a_bundle_that_cannot_be_opened_ends_the_server():
    def fail():
        raise InputError("damaged")

    server = HttpServer(Service(fail, ServeSettings()), None, listen("127.0.0.1", 0))
    with pytest.raises(InputError, match="damaged"):
        server.run(lambda pipeline: None)
