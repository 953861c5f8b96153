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

import cv2
import numpy as np

from depthmask.export import to_web
from depthmask.export.onnxruntime_web import VERSION
from depthmask.export.targets import rebuild

ROOT = Path(__file__).parent.parent.parent
ORT_WEB = ROOT / "build" / "onnxruntime-web" / f"onnxruntime-web-{VERSION}.tgz"
PHOTOS = ROOT / "depthmask" / "data" / "samples" / "photos"
CAMERA_HEIGHT, CAMERA_WIDTH = 480, 640
QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
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


def write_clip(path: Path, photo_HW3: np.ndarray, frames: int = 30) -> None:
    """YUV4MPEG2 at 30 frames a second."""
    scale = 1.15 * max(CAMERA_HEIGHT / photo_HW3.shape[0], CAMERA_WIDTH / photo_HW3.shape[1])
    large_HW3 = cv2.resize(photo_HW3, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    rest_y, rest_x = large_HW3.shape[0] - CAMERA_HEIGHT, large_HW3.shape[1] - CAMERA_WIDTH
    with path.open("wb") as file:
        file.write(b"YUV4MPEG2 W%d H%d F30:1 Ip A1:1 C420jpeg\n" % (CAMERA_WIDTH, CAMERA_HEIGHT))
        for index in range(frames):
            share = 0.5 - 0.5 * np.cos(2 * np.pi * index / frames)
            y, x = round(share * rest_y), round(share * rest_x)
            part_HW3 = large_HW3[y : y + CAMERA_HEIGHT, x : x + CAMERA_WIDTH]
            file.write(b"FRAME\n" + cv2.cvtColor(part_HW3, cv2.COLOR_RGB2YUV_I420).tobytes())
