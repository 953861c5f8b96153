"""What a request is refused with."""

from __future__ import annotations

from collections.abc import Mapping

CLIENT_GONE = 499
"""nginx's code, for metrics only: nobody is there to read it."""


class Refusal(Exception):  # noqa: N818  (an answer, not a fault of the program)
    """A request that is not served: an HTTP status, one line for the client, and a word for the metrics."""

    def __init__(
        self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})
