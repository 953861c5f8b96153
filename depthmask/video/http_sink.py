"""A view as Motion JPEG over HTTP, for a browser on this machine."""

from __future__ import annotations

import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import cv2

from depthmask.errors import OutputError, UsageError
from depthmask.video.frame import Frame
from depthmask.video.overlay import DepthRange, Look, next_range, render
from depthmask.video.sinks import STEADY_SHARE

if TYPE_CHECKING:
    from depthmask.pipeline import Prediction

_BOUNDARY = "depthmask-frame"
_PART_ENDS = f"--{_BOUNDARY}\r\n".encode()
_JPEG_QUALITY = 85
_CLIENT_TIMEOUT_S = 10.0
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class HttpAddress:
    """Where to listen: on this machine's loopback only, so that nobody else sees the camera's picture."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> HttpAddress:
        """`http://HOST:PORT/`.

        Raises:
            UsageError: the text is no such address, or is not this machine's own.
        """
        found = re.fullmatch(
            r"http://(?:\[([0-9a-f:]+)\]|([^\[\]/:@?#]+)):([0-9]{1,5})/?", text, re.IGNORECASE
        )
        if found is None or not 0 < int(found[3]) < 65536:
            raise UsageError(
                f"an address to listen on must be http://HOST:PORT/, but got {text}. Try"
                " http://127.0.0.1:8090/"
            )
        host, port = (found[1] or found[2]).lower(), int(found[3])
        if host not in _LOOPBACK:
            raise UsageError(
                "an address to listen on must be this machine's own, 127.0.0.1, localhost or [::1], but got"
                f" {host}. To look from elsewhere, try ssh -L {port}:127.0.0.1:{port}"
            )
        return cls(host, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"


class HttpSink:
    """Serves the newest view to any number of clients, each at its own pace.

    A client that reads slowly misses frames, and holds nothing up; without clients nothing is drawn.
    """

    is_open = True

    def __init__(self, address: HttpAddress, view: str, look: Look) -> None:
        self._address, self._view, self._look = address, view, look
        self._range: DepthRange | None = None
        self._newest = _Newest()
        self._server: _Server | None = None

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Show a frame to those who look."""
        self.put(self.draw(frame, prediction))

    def draw(self, frame: Frame, prediction: Prediction) -> bytes | None:
        """The view as JPEG; None while nobody looks."""
        self._range = next_range(self._range, prediction, self._look.kind, STEADY_SHARE)
        if not self._newest.clients:
            return None
        shown_HW3 = render(self._view, frame.image_HW3, prediction, self._range, self._look)
        bgr_HW3 = cv2.cvtColor(shown_HW3, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", bgr_HW3, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))[1].tobytes()

    def put(self, drawn: bytes | None) -> None:
        """Hand over what `draw` made."""
        if drawn is not None:
            self._newest.put(drawn)

    def __enter__(self) -> Self:
        try:
            self._server = _server(self._address, self._newest)
        except OSError as error:
            raise OutputError(
                f"{self._address} cannot be listened on: {error.strerror or error}. Try another port"
            ) from error
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._newest.close()
        self._server.shutdown()
        self._server.server_close()


class _Newest:
    """The newest JPEG, with a number by which a client knows whether it has it already."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number, self._jpeg, self._closed = 0, b"", False
        self.clients = 0

    def put(self, jpeg: bytes) -> None:
        with self._changed:
            self._number, self._jpeg = self._number + 1, jpeg
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def after(self, number: int) -> tuple[int, bytes] | None:
        """Wait for a newer one than `number`; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._number > number)
            return None if self._closed else (self._number, self._jpeg)

    @contextmanager
    def client(self) -> Iterator[int]:
        """Count a client while it looks; gives the number of the last frame before it came."""
        with self._changed:
            self.clients += 1
            number = self._number
        try:
            yield number
        finally:
            with self._changed:
                self.clients -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # The end of a run does not wait for a client that has stopped reading.
    block_on_close = False

    def server_bind(self) -> None:
        """Without the look-up of this machine's full name that HTTPServer does."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """A client that went away, or stopped reading, is no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _server(address: HttpAddress, newest: _Newest) -> _Server:
    class Handler(BaseHTTPRequestHandler):
        timeout = _CLIENT_TIMEOUT_S

        def do_GET(self) -> None:
            if not _may_ask(self.headers.get("Host", "")):
                self.send_error(403, "This server answers to the name of its own machine only")
            elif urlsplit(self.path).path != "/":
                self.send_error(404)
            else:
                self._stream()

        def _stream(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(_PART_ENDS)
            with newest.client() as number:
                while (found := newest.after(number)) is not None:
                    number, jpeg = found
                    head = f"Content-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    # With the next part's boundary at once: browsers show a part when they see its end.
                    self.wfile.write(head.encode() + jpeg + b"\r\n" + _PART_ENDS)

        def log_message(self, *_: Any) -> None:  # noqa: ANN401
            pass

    class Server(_Server):
        address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET

    return Server((address.host, address.port), Handler)


def _may_ask(host_header: str) -> bool:
    """Only by this machine's own names: another site's name may be pointed here (DNS rebinding)."""
    host = re.sub(r":\d*$", "", host_header).strip("[]").lower()
    return host in _LOOPBACK
