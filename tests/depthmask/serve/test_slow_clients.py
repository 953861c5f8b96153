from __future__ import annotations

import socket
import time

import numpy as np
import pytest

LIMIT_S = 0.4
HEAD = (
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n"
)


@pytest.fixture
def served(helpers, slow):
    with helpers.serving(lambda: slow, read_timeout_s=LIMIT_S, write_timeout_s=LIMIT_S) as served:
        yield served


def dripped(client: socket.socket, data: bytes) -> tuple[float, bytes]:
    """Send a byte every 0.05 s until the server ends it; when that was, and what it said."""
    began_s = time.monotonic()
    client.settimeout(0.05)
    for byte in data:
        try:
            client.send(bytes([byte]))
            said = client.recv(1000)
        except TimeoutError:
            continue
        except ConnectionError:
            said = b""
        return time.monotonic() - began_s, said
    raise AssertionError("never cut off")


def whole_answer(client: socket.socket) -> bytes:
    answer = b""
    while not answer.endswith(b"}\n"):
        answer += client.recv(1000)
    return answer


def assert_cut_off(served, took_s: float, said: bytes) -> None:
    assert LIMIT_S * 0.9 < took_s < LIMIT_S + 2
    assert said.startswith(b"HTTP/1.1 408 ")
    assert said.endswith(b'{"error": "a request must arrive within 0.4 s"}\n')
    assert served.metric('depthmask_rejected_total{reason="read_timeout"}') == 1


def test_a_head_that_drips_is_cut_off(served):
    with served.connect() as client:
        assert_cut_off(served, *dripped(client, HEAD))


def test_a_body_that_drips_is_cut_off(served, helpers):
    with served.connect() as client:
        client.sendall(HEAD + b"\r\n")
        assert_cut_off(served, *dripped(client, bytes(100)))
    helpers.wait_until(lambda: served.metric("depthmask_in_flight") == 0, "it is forgotten")


def test_a_chunked_body_that_drips_is_cut_off(served):
    with served.connect() as client:
        client.sendall(
            HEAD.replace(b"Content-Length: 100000", b"Transfer-Encoding: chunked") + b"\r\n"
        )
        assert_cut_off(served, *dripped(client, b"1\r\n0\r\n" * 20))


def test_one_that_connects_and_says_nothing_is_cut_off(served):
    with served.connect() as client:
        began_s = time.monotonic()
        said = client.recv(1000)
        assert_cut_off(served, time.monotonic() - began_s, said)


def test_the_second_request_of_a_connection_is_limited_too(served):
    with served.connect() as client:
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        whole_answer(client)
        took_s, _ = dripped(client, HEAD)
        assert LIMIT_S * 0.9 < took_s < LIMIT_S + 2


def test_each_request_of_a_connection_has_the_whole_time(served):
    with served.connect() as client:
        for _ in range(3):
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
            time.sleep(0.6 * LIMIT_S)
            client.sendall(b"\r\n")
            assert whole_answer(client).startswith(b"HTTP/1.1 200 ")


def test_a_connection_may_rest_between_requests(served):
    with served.connect() as client:
        for _ in range(2):
            client.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert whole_answer(client).startswith(b"HTTP/1.1 200 ")
            time.sleep(2 * LIMIT_S)


def test_the_request_after_a_refused_body_has_the_whole_time(served):
    with served.connect() as client:
        client.sendall(HEAD.replace(b"image/png", b"text/xml") + b"\r\n" + bytes(50_000))
        assert whole_answer(client).startswith(b"HTTP/1.1 415 ")
        time.sleep(0.4 * LIMIT_S)
        client.sendall(
            bytes(50_000) + b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n."
        )
        assert whole_answer(client).startswith(b"HTTP/1.1 415 ")
        time.sleep(0.8 * LIMIT_S)
        client.sendall(b".GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert whole_answer(client).startswith(b"HTTP/1.1 200 ")


def test_an_inference_may_take_longer(served, slow, png):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as clients:
        reply = clients.submit(served.predict, png)
        time.sleep(2 * LIMIT_S)
        slow.may_end.release()
        assert reply.result().status == 200


def test_one_that_does_not_take_its_answer_is_cut_off(served, slow, helpers):
    slow.may_end.release()
    image = helpers.encoded(np.zeros((2000, 2000, 3), np.uint8), ".png")  # 32 MB of npz
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", served.port))
        head = HEAD.replace(b"100000", str(len(image)).encode())
        client.sendall(head + b"\r\n" + image)
        refused = 'depthmask_rejected_total{reason="write_timeout"}'
        helpers.wait_until(lambda: served.metric(refused) == 1, "it is cut off")
        taken_bytes = 0
        while part := client.recv(1 << 20):
            taken_bytes += len(part)
        assert taken_bytes < 32_000_000
