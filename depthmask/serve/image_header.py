"""What an image is and how large, from its first bytes: an image bomb is refused before it is decoded.

Sources: PNG (ISO 15948, 11.2.2); JPEG (ITU T.81, annex B.2.2); WebP (RFC 9649, sections 2.5 to 2.7).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_PNG = b"\x89PNG\r\n\x1a\n"
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# C4 (Huffman tables), C8 (reserved) and CC (arithmetic conditioning) lie between the frame headers.
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True)
class ImageHeader:
    """What the first bytes say."""

    media_type: str
    height_px: int
    width_px: int

    @property
    def pixels(self) -> int:
        """The number of pixels that decoding will make."""
        return self.height_px * self.width_px


def read_image_header(data: bytes) -> ImageHeader | None:
    """The header of a JPEG, PNG or WebP image; None of anything else, or of a damaged header."""
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError):
        pass  # cut short in the header
    return None


def _png(data: bytes) -> ImageHeader | None:
    if data[12:16] != b"IHDR":
        return None
    width_px, height_px = struct.unpack_from(">II", data, 16)
    return ImageHeader("image/png", height_px, width_px)


def _jpeg(data: bytes) -> ImageHeader | None:
    position = 2
    while data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAME_HEADERS:
            height_px, width_px = struct.unpack_from(">HH", data, position + 5)
            return ImageHeader("image/jpeg", height_px, width_px)
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return None
        if marker == 0xFF:  # a fill byte
            position += 1
        elif marker in _WITHOUT_LENGTH:
            position += 2
        else:
            position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None


def _webp(data: bytes) -> ImageHeader | None:
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        width_px = 1 + int.from_bytes(data[24:27], "little")
        height_px = 1 + int.from_bytes(data[27:30], "little")
    elif chunk == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width_px, height_px = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif chunk == b"VP8 ":
        width_px, height_px = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        return None
    return ImageHeader("image/webp", height_px, width_px)
