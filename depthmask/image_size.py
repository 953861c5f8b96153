"""What a picture is and how large, from its file's header alone: known before any memory is taken for it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TIFF_SIDES = {256: "width", 257: "height"}
_TIFF_SHORT, _TIFF_LONG = 3, 4
_NO_FRAME_HEADERS = (0xC4, 0xC8, 0xCC)  # tables and extensions among the JPEG markers C0 to CF


def media_type(data: bytes) -> str | None:
    """`image/jpeg`, `image/png` or `image/webp`, by how the file begins; None of any other."""
    if data.startswith(_PNG):
        return "image/png"
    if data.startswith(_JPEG):
        return "image/jpeg"
    return "image/webp" if _is_webp(data) else None


def size_px(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG, PNG, WebP, BMP or TIFF file, upright or not.

    None where the header is damaged or the file is of another format. Of several sizes that a file
    names, the largest.
    """
    try:
        if data.startswith(_PNG):
            width, height = struct.unpack_from(">2I", data, 16)
        elif data.startswith(_JPEG):
            height, width = _largest(_jpeg_sizes(data))
        elif _is_webp(data):
            height, width = _largest(_webp_sizes(data))
        elif data[:2] == b"BM":
            height, width = _bmp_size(data)
        elif data[:4] in _TIFF_ORDERS:
            height, width = _largest(_tiff_sizes(data, _TIFF_ORDERS[data[:4]]))
        else:
            return None
    except (struct.error, ValueError):
        return None
    return height, width


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _largest(sizes: Iterator[tuple[int, int]]) -> tuple[int, int]:
    return max(sizes, key=lambda size: size[0] * size[1])


def _jpeg_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Of each frame header before the first scan (ITU T.81, B.2.2)."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return
        if marker == 0xFF or 0xD0 <= marker <= 0xD7 or marker == 0x01:
            position += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME_HEADERS:
            yield struct.unpack_from(">2H", data, position + 5)
        (length,) = struct.unpack_from(">H", data, position + 2)
        position += 2 + length


def _webp_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Of each picture or canvas (developers.google.com/speed/webp/docs/riff_container)."""
    position = 12
    while position + 8 <= len(data):
        kind, size_bytes = struct.unpack_from("<4sI", data, position)
        start = position + 8
        if kind == b"VP8X":
            width, height = (
                int.from_bytes(data[start + at : start + at + 3], "little") for at in (4, 7)
            )
            yield height + 1, width + 1
        elif kind == b"VP8L":
            (bits,) = struct.unpack_from("<I", data, start + 1)
            yield (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
        elif kind == b"VP8 ":
            width, height = struct.unpack_from("<2H", data, start + 6)
            yield height & 0x3FFF, width & 0x3FFF
        position = start + size_bytes + size_bytes % 2


def _bmp_size(data: bytes) -> tuple[int, int]:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<2H" if header_bytes == 12 else "<2i", data, 18)
    return abs(height), abs(width)


def _tiff_sizes(data: bytes, order: str) -> Iterator[tuple[int, int]]:
    """Of the first picture (TIFF 6.0, section 2)."""
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    sides = {}
    for index in range(count):
        entry = start + 2 + 12 * index
        tag, kind = struct.unpack_from(f"{order}2H", data, entry)
        if tag in _TIFF_SIDES and kind in (_TIFF_SHORT, _TIFF_LONG):
            letter = "H" if kind == _TIFF_SHORT else "I"
            (sides[_TIFF_SIDES[tag]],) = struct.unpack_from(f"{order}{letter}", data, entry + 8)
    if sides.keys() == set(_TIFF_SIDES.values()):
        yield sides["height"], sides["width"]
