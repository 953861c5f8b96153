from __future__ import annotations

import http.client
import io
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

MIB = 1024 * 1024
BIG_BYTES = 50 * MIB
HEAD = (
    b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
)


def test_a_full_queue_is_429_and_says_when_to_come_back(helpers, slow, png):
    with helpers.serving(lambda: slow, queue=2) as served, ThreadPoolExecutor(3) as clients:
        replies = [clients.submit(served.predict, png) for _ in range(3)]
        helpers.wait_until(lambda: served.metric("depthmask_queue_length") == 2, "two wait")
        assert served.metric("depthmask_in_flight") == 3
        refused = served.predict(png)
        slow.may_end.release(3)
        assert [reply.result().status for reply in replies] == [200, 200, 200]
        helpers.wait_until(lambda: served.metric("depthmask_in_flight") == 0, "all are answered")
        assert served.metric('depthmask_rejected_total{reason="queue_full"}') == 1
    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.json == {"error": "2 requests wait already"}


def test_uploads_that_end_together_do_not_overfill_the_queue(helpers, slow, png):
    with helpers.serving(lambda: slow, queue=1) as served:
        clients = [served.connect() for _ in range(4)]
        for client in clients:
            client.sendall(HEAD % len(png) + png[:-1])
        helpers.wait_until(lambda: served.metric("depthmask_in_flight") == 4, "all are read")
        for client in clients:
            client.sendall(png[-1:])
        refused = 'depthmask_rejected_total{reason="queue_full"}'
        helpers.wait_until(lambda: served.metric(refused) == 2, "two are refused")
        slow.may_end.release(2)
        statuses = sorted(client.recv(12) for client in clients)
        assert statuses == 2 * [b"HTTP/1.1 200"] + 2 * [b"HTTP/1.1 429"]
        for client in clients:
            client.close()


def test_a_client_that_leaves_gives_its_place_to_another(helpers, slow, png):
    with helpers.serving(lambda: slow, queue=1) as served, ThreadPoolExecutor(2) as clients:
        first = clients.submit(served.predict, png)
        helpers.wait_until(lambda: slow.begun == 1, "the first is in work")
        head = HEAD % len(png)
        with served.connect() as leaving:
            leaving.sendall(head + png)
            helpers.wait_until(lambda: served.service.worker.is_full, "the second waits")
        helpers.wait_until(lambda: not served.service.worker.is_full, "the second is forgotten")
        third = clients.submit(served.predict, png)
        slow.may_end.release(2)
        assert first.result().status == third.result().status == 200
        assert slow.begun == 2
        left = 'depthmask_requests_total{code="499",endpoint="predict"}'
        helpers.wait_until(lambda: served.metric(left) == 1, "it is counted")


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize("how", ["Content-Length", "chunked"])
def test_a_large_upload_is_refused_and_its_client_can_read_why(lite, how, connection):
    client = http.client.HTTPConnection("127.0.0.1", lite.port, timeout=20)
    blocks = (bytes(MIB) for _ in range(BIG_BYTES // MIB))
    headers = {"Content-Type": "image/png", "Connection": connection}
    if how == "Content-Length":
        headers["Content-Length"] = str(BIG_BYTES)
    client.request("POST", "/v1/predict", blocks, headers, encode_chunked=how == "chunked")
    response = client.getresponse()
    assert response.status == 413
    assert json.loads(response.read()) == {
        "error": "the body must be 1 MiB at most, but it is larger"
    }
    if connection == "keep-alive":
        client.request("GET", "/health/live")
        assert client.getresponse().status == 200
    client.close()


def test_all_uploads_together_are_limited(helpers, slow, png):
    # Room for three bodies: one that waits, one in work, one that is being read.
    with helpers.serving(lambda: slow, queue=1, max_upload_bytes=MIB) as served:
        uploads = [served.connect() for _ in range(4)]
        for upload in uploads:
            upload.sendall(HEAD % MIB + bytes(MIB - 1))
        for upload in uploads:
            upload.setblocking(False)

        def answered() -> list[socket.socket]:
            return [upload for upload in uploads if has_answer(upload)]

        helpers.wait_until(lambda: len(answered()) == 1, "one is refused")
        (refused,) = answered()
        assert b" 429 " in refused.recv(1000)
        for upload in uploads:
            upload.close()
        helpers.wait_until(lambda: served.metric("depthmask_in_flight") == 0, "all have left")
        slow.may_end.release()
        assert served.predict(png).status == 200


def has_answer(upload: socket.socket) -> bool:
    try:
        return bool(upload.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def test_metrics_are_prometheus_text(helpers, slow, png):
    slow.may_end.release(2)
    with helpers.serving(lambda: slow) as served:
        assert [served.predict(png).status for _ in range(2)] == [200, 200]
        assert served.predict(b"damaged").status == 400
        helpers.wait_until(lambda: served.metric("depthmask_in_flight") == 0, "all are counted")
        reply = served.ask("GET", "/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain; version=")
    families = {
        family.name: family for family in text_string_to_metric_families(reply.body.decode())
    }
    counts = {
        (sample.labels["endpoint"], sample.labels["code"]): sample.value
        for sample in families["depthmask_requests"].samples
        if sample.name.endswith("_total")
    }
    assert counts["predict", "200"] == 2
    assert counts["predict", "400"] == 1
    (rejected,) = [
        sample
        for sample in families["depthmask_rejected"].samples
        if sample.name.endswith("_total")
    ]
    assert (rejected.labels, rejected.value) == ({"reason": "corrupt"}, 1)
    for name in ("depthmask_request_seconds", "depthmask_inference_seconds"):
        assert families[name].type == "histogram"
        samples = {sample.name: sample.value for sample in families[name].samples}
        assert samples[f"{name}_count"] == 2
    assert {"depthmask_queue_length", "process_resident_memory_bytes"} <= set(families)


def test_many_clients_at_once_get_their_own_answers(lite, pipeline, helpers):
    random = np.random.default_rng(1)
    frames = [random.integers(0, 256, (40 + i, 50, 3), np.uint8) for i in range(8)]
    barrier = threading.Barrier(len(frames))

    def predict(frame_HW3):
        barrier.wait()
        return lite.predict(helpers.encoded(frame_HW3, ".png"))

    with ThreadPoolExecutor(len(frames)) as clients:
        replies = list(clients.map(predict, frames))
    for frame_HW3, reply in zip(frames, replies, strict=True):
        assert reply.status == 200
        with np.load(io.BytesIO(reply.body)) as found:
            np.testing.assert_array_equal(found["mask"], pipeline(frame_HW3).mask_HW)


def test_connections_are_limited(helpers, slow, monkeypatch):
    monkeypatch.setattr("depthmask.serve.server._MOST_CONNECTIONS", 3)
    with helpers.serving(lambda: slow) as served:
        held = [served.connect() for _ in range(3)]
        assert served.ask("GET", "/health/live").status == 503
        for connection in held:
            connection.close()
        helpers.wait_until(
            lambda: served.ask("GET", "/health/live").status == 200, "there is room again"
        )
