"""No network call that nobody asked for, whatever is opened."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading

import pytest

from depthmask.errors import InputError
from depthmask.video.sources import open_source

WATCHED = """
import socket, sys
called = []
def connect(self, address):
    called.append(address)
    raise OSError("no network")
class Watched(socket.socket):
    connect = connect_ex = connect
socket.socket = Watched
socket.create_connection = lambda address, *rest, **more: connect(None, address)
socket.getaddrinfo = lambda *address, **more: connect(None, address)
import numpy as np
from depthmask import Pipeline
with Pipeline.open(None, sys.argv[1], "cpu") as pipeline:
    pipeline(np.zeros((32, 32, 3), np.uint8))
import threading
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        print("thread", thread.name)
print("called", called, [name for name in sys.modules if name.split(".")[0] == "openvino_telemetry"])
"""


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_runtimes_call_nobody(runtime, tmp_path):
    """OpenVINO would tell Google Analytics that it was imported, from a thread and a child process."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, runtime],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "called [] []\n", done.stdout


@pytest.fixture
def server():
    """An address, and what was asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}/a.ts\n#EXT-X-ENDLIST\n"),
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}/a.ts\n#EXT-X-ENDLIST\n"),
        ("b.mp4", "ffconcat version 1.0\nfile {url}/b.mp4\n"),
        ("c.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 26\n"),
        ("d.asx", '<asx><entry><ref href="{url}/d.mp4"/></entry></asx>'),
        ("e.svg", '<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}/e.png"/></svg>'),
    ],
)  # fmt: skip
def test_files_that_name_addresses_call_nobody(tmp_path, server, name, content):
    url, asked = server
    (tmp_path / name).write_text(content.format(url=url))
    with pytest.raises(InputError), open_source(str(tmp_path / name)) as source:
        next(iter(source))
    assert asked == []
