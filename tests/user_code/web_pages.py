"""What the tests of the browser's folder share: a server of files, bundles with a page, a camera's clip."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from depthmask.export import to_web
from depthmask.export.onnxruntime_web import VERSION
from depthmask.export.targets import rebuild

ROOT = Path(__file__).parent.parent.parent
ORT_WEB = ROOT / "build" / "onnxruntime-web" / f"onnxruntime-web-{VERSION}.tgz"
PHOTOS = ROOT / "depthmask" / "data" / "samples" / "photos"
ISOLATED = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


def with_page(bundle_path: Path, path: Path, ort_web: Path, *, webgpu: bool = False) -> Path:
    """A copy of a bundle, with its page; without `.br` files, which `served` does not send."""
    shutil.copytree(bundle_path, path)
    with mock.patch.object(to_web, "compress"):
        rebuild(path, to_web.WebOptions(ort_web=ort_web, webgpu=webgpu))
    return path


@contextmanager
def served(folder: Path, headers: dict[str, str] = ISOLATED) -> Iterator[str]:
    """Serve a folder on a free port of this machine; gives its address."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {
            ".mjs": "text/javascript"
        }

        def end_headers(self) -> None:
            for name, value in headers.items():
                self.send_header(name, value)
            super().end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
