"""Against servers on loopback: RTSP by gst-rtsp-server, MJPEG by ffmpeg. Skipped where not installed."""

from __future__ import annotations

import http.server
import threading
import time

import numpy as np
import pytest
from PIL import Image

from depthmask.bench.stream_servers import mjpeg_server, rtsp_server, true_age_ms
from depthmask.errors import SourceLostError, UnavailableError
from depthmask.pipeline import Prediction
from depthmask.video.live_source import LiveOptions
from depthmask.video.runner import run
from depthmask.video.sources import open_source
from depthmask.video.statistics import RunStatistics

STALL_S = 1.0


@pytest.fixture(params=[rtsp_server, mjpeg_server], ids=["rtsp", "mjpeg"])
def server(request):
    try:
        made = request.param()
    except UnavailableError as missing:
        pytest.skip(str(missing))
    with made:
        yield made


@pytest.fixture
def events():
    return []


@pytest.fixture
def source(server, events):
    def note(event):
        events.append((time.monotonic(), event))

    with open_source(server.url, live=LiveOptions(STALL_S, on_event=note)) as opened:
        yield opened


def wait_for(condition, seconds):
    deadline_s = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert condition()
    return time.monotonic()


def test_age_stays_bounded_under_a_slow_inference(source):
    ages_ms, statistics = [], RunStatistics()

    def predict(image_HW3):
        time.sleep(0.12)
        return Prediction(np.ones((4, 4), np.float32), np.ones((4, 4), np.float32))

    class Sink:
        is_open = True

        def write(self, frame, prediction):
            ages_ms.append(true_age_ms(frame.image_HW3))

    run(predict, source, Sink(), limit=20, statistics=statistics)
    # A naive reader would be 1.6 s behind by now. (No tight bound here: the machine is shared.)
    assert max(ages_ms[-10:]) < 500
    assert statistics.drops.captured > 20
    assert statistics.age.quantile_ms(0.5) < np.median(ages_ms) + 5


@pytest.mark.parametrize("loss", ["kill", "freeze"])
def test_it_is_noticed_and_comes_back(server, source, events, loss):
    frames = iter(source)
    next(frames)
    began_s = time.monotonic()
    if loss == "kill":
        server.kill()
    else:
        server.freeze()
    noticed_s = wait_for(lambda: events, 5) - began_s
    assert noticed_s < STALL_S + 2
    if loss == "kill":
        server.start()
    else:
        server.thaw()
    returned_s = time.monotonic()
    for frame in frames:
        age_ms = true_age_ms(frame.image_HW3)
        if len(events) == 2 and age_ms is not None and age_ms < 500:
            break
    assert time.monotonic() - returned_s < 8
    assert source.counts.losses == 1
    assert frame.time_s > noticed_s


def test_pictures_that_stop_while_the_server_answers(server, source, events):
    next(iter(source))
    server.toggle_pictures()
    wait_for(lambda: events, STALL_S + 2)
    assert events[0][1].lost


class Handler(http.server.BaseHTTPRequestHandler):
    """MJPEG with a password; the pictures grow and turn on the way, and some are broken."""

    sizes = ((64, 48), (64, 48), (48, 64), (96, 80))

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
        self.end_headers()
        for number in range(24):
            path = self.server.folder / "picture.jpg"
            Image.new("RGB", self.sizes[number // 6], (200, 40, 40)).save(path, quality=95)
            data = path.read_bytes()
            if number % 6 == 3:
                data = data[:4] + b"\xff" * 300
            self.wfile.write(b"--b\r\nContent-Type: image/jpeg\r\n")
            self.wfile.write(b"Content-Length: %d\r\n\r\n%b\r\n" % (len(data), data))
            time.sleep(0.03)
        time.sleep(0.2)

    def log_message(self, *_):
        pass


@pytest.fixture
def changing(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder = tmp_path
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://user:p@ssword@127.0.0.1:{server.server_port}/cam?pwd=hidden"
    server.shutdown()
    server.server_close()


def test_sizes_follow_damage_is_counted_and_the_password_stays_secret(changing):
    frames = []

    def read(source):
        for frame in source:
            frames.append(frame)  # noqa: PERF402  (extend would drop them at the error)

    with open_source(changing, live=LiveOptions(max_reconnects=0)) as source:
        with pytest.raises(SourceLostError, match="was lost after") as lost:
            read(source)
        counts = source.counts
    sizes = [frame.image_HW3.shape[:2] for frame in frames]
    assert list(dict.fromkeys(sizes)) == [(48, 64), (64, 48), (80, 96)]
    assert all(frame.image_HW3[8, 8, 0] > 150 for frame in frames)
    assert counts.decode_errors >= 1
    shown = f"{lost.value} {source.name} {frames[0].name}"
    assert not any(secret in shown for secret in ("p@ss", "word", "user", "hidden", "pwd"))
