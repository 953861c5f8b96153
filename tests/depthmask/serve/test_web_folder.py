from __future__ import annotations

from pathlib import Path

import pytest

from depthmask.serve.web_folder import find_file

FILES = {
    "index.html": b"<!doctype html>",
    "app.mjs": b"export {}",
    "app.js": b"0",
    "ort.wasm": b"wasm, not compressed",
    "ort.wasm.br": b"wasm, brotli",
    "ort.wasm.gz": b"wasm, gzip",
    "model.onnx": b"onnx",
    "deep/index.html": b"deep",
    "with space ü.txt": b"text",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.txt").write_bytes(b"secret")
    (outside / "web-secret.txt").write_bytes(b"secret")
    web = outside / "web"
    for name, content in FILES.items():
        (web / name).parent.mkdir(parents=True, exist_ok=True)
        (web / name).write_bytes(content)
    (web / "link.txt").symlink_to(outside / "secret.txt")
    (web / "app.js.br").symlink_to(outside / "secret.txt")
    (web / "inner.txt").symlink_to(web / "app.js")
    return web


@pytest.fixture(scope="module")
def served(helpers, folder, slow_module):
    with helpers.serving(lambda: slow_module, web=folder) as served:
        yield served


@pytest.mark.parametrize(
    ("path", "media_type", "name"),
    [
        ("/", "text/html; charset=utf-8", "index.html"),
        ("/index.html", "text/html; charset=utf-8", "index.html"),
        ("/app.mjs", "text/javascript; charset=utf-8", "app.mjs"),
        ("/app.js", "text/javascript; charset=utf-8", "app.js"),
        ("/ort.wasm", "application/wasm", "ort.wasm"),
        ("/model.onnx", "application/octet-stream", "model.onnx"),
        ("/deep/", "text/html; charset=utf-8", "deep/index.html"),
        ("/with%20space%20%C3%BC.txt", "text/plain; charset=utf-8", "with space ü.txt"),
        ("/inner.txt", "text/javascript; charset=utf-8", "app.js"),
    ],
)
def test_a_file_has_its_type_and_the_headers_that_threads_need(served, path, media_type, name):
    reply = served.ask("GET", path)
    assert (reply.status, reply.body) == (200, FILES[name])
    assert reply.headers["Content-Type"] == media_type
    assert reply.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert reply.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert reply.headers["Content-Encoding"] is None
    head = served.ask("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(FILES[name]))


@pytest.mark.parametrize(
    ("accept", "encoding", "name"),
    [
        ("gzip, deflate, br", "br", "ort.wasm.br"),
        ("gzip", "gzip", "ort.wasm.gz"),
        ("gzip, br;q=0", "gzip", "ort.wasm.gz"),
        ("identity", None, "ort.wasm"),
    ],
)
def test_a_compressed_sibling_goes_to_who_accepts_it(served, accept, encoding, name):
    reply = served.ask("GET", "/ort.wasm", Accept_Encoding=accept)
    assert (reply.status, reply.body) == (200, FILES[name])
    assert reply.headers["Content-Encoding"] == encoding
    assert reply.headers["Content-Type"] == "application/wasm"
    assert reply.headers["Vary"] == "Accept-Encoding"


def test_what_the_client_has_already_is_not_sent_again(served):
    etag = served.ask("GET", "/app.js").headers["ETag"]
    again = served.ask("GET", "/app.js", If_None_Match=etag)
    assert (again.status, again.body) == (304, b"")
    assert again.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert served.ask("GET", "/app.js", If_None_Match='"other"').status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/deep/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "//../secret.txt",
        "/..%5csecret.txt",
        "/../web-secret.txt",
        "/link.txt",
        "/secret.txt%00.js",
        "/%00",
        pytest.param("/" + "a" * 5000, id="long"),
        "/nothing.js",
        "/deep",
        "/index.html/x",
    ],
)
def test_a_path_does_not_lead_out_of_the_folder(served, path):
    # By hand, as clients tidy paths up.
    with served.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'{"error": ' in answer
    assert b"\r\n\r\nsecret" not in answer


def test_a_sibling_that_is_a_link_to_elsewhere_is_not_sent(served):
    reply = served.ask("GET", "/app.js", Accept_Encoding="br")
    assert (reply.body, reply.headers["Content-Encoding"]) == (b"0", None)


def test_an_absolute_path_is_one_in_the_folder(folder):
    assert find_file(folder, str(folder.parent / "secret.txt"), "") is None
    assert find_file(folder, "//etc/passwd", "") is None


def test_the_service_is_there_beside_the_page(served):
    assert served.ask("GET", "/health/ready").status == 200
    assert served.ask("GET", "/v1/model").json["preset"] == "lite"
    assert served.ask("POST", "/index.html").status == 405
