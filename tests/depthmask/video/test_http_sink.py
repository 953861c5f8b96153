from __future__ import annotations

import http.client
import socket
import threading
import time

import cv2
import numpy as np
import pytest

from depthmask.errors import OutputError, UsageError
from depthmask.video.frame import Frame
from depthmask.video.http_sink import HttpAddress, HttpSink
from depthmask.video.overlay import Look


@pytest.fixture
def port():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.fixture
def sink(port):
    with HttpSink(HttpAddress("127.0.0.1", port), "mask", Look()) as sink:
        yield sink


@pytest.fixture
def writing(sink, prediction_of):
    """Frames come at 100 a second until the test is over; how many came so far."""
    ended, count = threading.Event(), [0]

    def write():
        while not ended.is_set():
            image_HW3 = np.zeros((48, 64, 3), np.uint8)
            sink.write(Frame(image_HW3, "a", count[0], 0.0), prediction_of(48, 64))
            count[0] += 1
            time.sleep(0.01)

    thread = threading.Thread(target=write)
    thread.start()
    yield count
    ended.set()
    thread.join()


def ask(port, path="/", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def next_picture(response):
    """The part after the boundary that is next."""
    assert response.readline() == b"--depthmask-frame\r\n"
    head = {}
    while line := response.readline().strip():
        name, value = line.decode().split(": ")
        head[name] = value
    assert head["Content-Type"] == "image/jpeg"
    jpeg = response.read(int(head["Content-Length"]))
    response.readline()
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def test_client_reads_frames(port, writing):
    response = ask(port)
    assert response.getheader("Content-Type").startswith("multipart/x-mixed-replace; boundary=")
    for _ in range(2):
        picture = next_picture(response)
        assert picture.shape == (48, 64, 3)
        assert picture[24, 32].min() > 240
        assert picture[2, 2].max() < 15
    response.close()


def test_several_clients_and_one_that_does_not_read(port, writing):
    lazy = ask(port)
    readers = [ask(port) for _ in range(2)]
    before = writing[0]
    for response in readers:
        for _ in range(10):
            next_picture(response)
    assert writing[0] > before
    for response in (lazy, *readers):
        response.close()


def test_nothing_is_drawn_while_nobody_looks(sink, port, prediction_of):
    frame = Frame(np.zeros((48, 64, 3), np.uint8), "a", 0, 0.0)
    assert sink.draw(frame, prediction_of(48, 64)) is None
    response = ask(port)
    deadline = time.monotonic() + 10
    while sink.draw(frame, prediction_of(48, 64)) is None:
        assert time.monotonic() < deadline
    response.close()


def test_other_paths_and_names_of_other_hosts_are_refused(sink, port):
    assert ask(port, "/etc/passwd").status == 404
    assert ask(port, Host="evil.example").status == 403
    assert ask(port, Host=f"evil.example:{port}").status == 403


def test_end_of_the_run_ends_the_stream(port):
    with HttpSink(HttpAddress("127.0.0.1", port), "mask", Look()):
        response = ask(port)
    assert response.read().strip() == b"--depthmask-frame"


def test_port_in_use(sink, port):
    with pytest.raises(OutputError, match=f":{port}/ cannot be listened on.*in use") as error:
        HttpSink(HttpAddress("127.0.0.1", port), "mask", Look()).__enter__()
    assert error.value.exit_code == 6
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1/", "http://127.0.0.1:99999/", "https://127.0.0.1:1/", "http://127.0.0.1:8090/x",
     "http://0.0.0.0:8090/", "http://192.168.1.2:8090/", "http://[::]:8090/", "http://:8090/"],
)  # fmt: skip
def test_addresses_that_are_refused(text):
    with pytest.raises(UsageError, match="an address to listen on must be"):
        HttpAddress.parse(text)


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:8090", "http://localhost:8090/", "http://[::1]:8090/"]
)
def test_addresses_of_this_machine(text):
    assert str(HttpAddress.parse(text)) == text.rstrip("/") + "/"
