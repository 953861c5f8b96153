"""Passwords and tokens go nowhere: not into logs, statistics, manifests, results or reports."""

from __future__ import annotations

import http.server
import threading

import pytest
from fuzz_targets import _videos, make_bundle

SECRETS = ("hunter2pass", "t0kenInQuery", "t0kenInEnvironment")


@pytest.fixture
def camera():
    """An address with secrets in it, which serves a clip; and all that was asked for."""
    clip = _videos()[1]
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            if "/clip" not in self.path:
                self.send_error(404)
                return
            if not self.headers.get("Authorization"):
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="x"')
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(clip)))
            self.end_headers()
            self.wfile.write(clip)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        user = f"http://admin:{SECRETS[0]}@127.0.0.1:{running.server_port}"
        yield user, asked
        running.shutdown()


@pytest.fixture(autouse=True)
def tokens(monkeypatch):
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, SECRETS[2])


def leaks(*texts, folder):
    """Where a secret stands."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    contents = {str(path): path.read_bytes() for path in files}
    contents |= {f"text {k}": text.encode() for k, text in enumerate(texts)}
    contents["names"] = "\n".join(map(str, files)).encode()
    return [
        (where, secret)
        for where, content in contents.items()
        for secret in SECRETS
        if secret.encode() in content
    ]


def test_addresses_of_cameras_leave_no_password(camera, tmp_path, monkeypatch, dmx_inside):
    address, asked = camera
    monkeypatch.chdir(tmp_path)
    bundle = make_bundle(tmp_path)
    texts = []
    for place, expected in ((f"/clip.mkv?token={SECRETS[1]}", 0), (f"/no?token={SECRETS[1]}", 3)):
        code, out, err = dmx_inside(
            "run", bundle, "--source", address + place, "--out", f"out{expected}.mp4",
            "--stats", f"stats{expected}.json", "--json",
        )  # fmt: skip
        texts += [out, err]
        assert (code == 0) == (expected == 0), err
    assert "127.0.0.1" in "".join(texts) + (tmp_path / "stats0.json").read_text()
    assert any(authorization for _, authorization in asked)  # the secrets were used
    assert leaks(*texts, folder=tmp_path) == []


def test_exports_leave_no_token(tmp_path, tiny_chain, trace, dmx_inside):
    from depthmask.export import export_chain
    from depthmask.frames import Resolution

    export_chain(tiny_chain, tmp_path / "b", resolution=Resolution(32, 32), trace=trace)
    _, out, err = dmx_inside("inspect", tmp_path / "b", "--json")
    assert out.startswith("{")
    assert leaks(out, err, folder=tmp_path) == []


@pytest.mark.slow
def test_benchmarks_and_reports_leave_no_token(tmp_path, dmx):
    bundle = make_bundle(tmp_path)
    result = dmx(
        "bench", bundle, "--runtimes", "onnxruntime", "--seconds", 0.05, "--min-runs", 5, "--rounds", 3,
        "--limit", 2, "--out", "bench.json", "--report", "bench.html", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "bench.html").exists()
    doctor = dmx("doctor", "--json").stdout
    assert doctor.startswith("{")
    assert leaks(result.stdout, result.stderr, doctor, folder=tmp_path) == []
