"""Request bodies, held within two limits: one for each, one for all together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from depthmask.serve.refusal import CLIENT_GONE, Refusal
from depthmask.serve.settings import MIB

Receive = Callable[[], Awaitable[Any]]
"""ASGI's."""


class Uploads:
    """Reads bodies; used on one event loop."""

    def __init__(self, max_upload_bytes: int, all_bytes: int) -> None:
        self._max_upload_bytes, self._all_bytes = max_upload_bytes, all_bytes
        self._held_bytes = 0

    def check_length(self, headers: Mapping[str, str]) -> None:
        """Refuse by Content-Length, before anything is read.

        Raises:
            Refusal: 413.
        """
        if int(headers.get("content-length", "0")) > self._max_upload_bytes:
            raise self._too_large()

    @asynccontextmanager
    async def read(self, receive: Receive) -> AsyncIterator[bytes]:
        """A body, as long as the block lasts.

        Raises:
            Refusal: it is too large (413), there is no room for it now (429), or the client left.
        """
        chunks: list[bytes] = []
        read_bytes = 0
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(CLIENT_GONE, "gone", "the client left")
                chunk: bytes = message.get("body", b"")
                if read_bytes + len(chunk) > self._max_upload_bytes:
                    raise self._too_large()
                if self._held_bytes + len(chunk) > self._all_bytes:
                    raise Refusal(429, "uploads", "too many uploads at once", {"Retry-After": "1"})
                read_bytes += len(chunk)
                self._held_bytes += len(chunk)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    break
            body = b"".join(chunks)
            chunks.clear()
            yield body
        finally:
            self._held_bytes -= read_bytes

    def _too_large(self) -> Refusal:
        limit_mib = self._max_upload_bytes / MIB
        return Refusal(
            413, "too_large", f"the body must be {limit_mib:g} MiB at most, but it is larger"
        )
