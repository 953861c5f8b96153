"""What a service allows."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class ServeSettings:
    """The limits of a service."""

    queue: int = 8
    """Requests that may wait for the one in work."""
    max_upload_bytes: int = 16 * MIB
    max_pixels: int = 25_000_000
    """Of an image, by its header; predicting one takes some 40 bytes a pixel."""
    read_timeout_s: float = 30.0
    """For a whole request, head and body."""
    write_timeout_s: float = 120.0
    """For a client to take its whole answer."""
    drain_timeout_s: float = 30.0

    @property
    def uploads_bytes(self) -> int:
        """What all bodies together may hold: those that wait, the one in work, and one that is being read."""
        return (self.queue + 2) * self.max_upload_bytes
