"""Which way up a picture is, by its EXIF data; for PNG and WebP files with alpha.

OpenCV turns what it reads upright, except where it is asked to keep the alpha channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_TAG = 0x0112
_TIFF_HEADERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}


def exif_orientation(data: bytes) -> int:
    """The orientation, 1 (upright) to 8, of a PNG or WebP file; 1 where it has none or another format."""
    if data.startswith(_PNG):
        chunks, name = _chunks(data, 8, "big"), b"eXIf"
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        chunks, name = _chunks(data, 12, "little"), b"EXIF"
    else:
        return 1
    for kind, content in chunks:
        if kind == name:
            return _tiff_orientation(content.removeprefix(b"Exif\0\0"))
    return 1


def upright(image: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Turn and mirror (H,W,...) as the orientation says (EXIF 2.32, 4.6.4)."""
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: -1, 7: -1, 8: 1}.get(orientation, 0)
    turned = np.rot90(image, quarter_turns)
    if orientation in (2, 4):
        return turned[:, ::-1]
    return turned[::-1] if orientation in (5, 7) else turned


def _chunks(
    data: bytes, position: int, order: Literal["little", "big"]
) -> Iterator[tuple[bytes, bytes]]:
    """The names and contents of the chunks of a PNG (big-endian) or RIFF (little-endian) file."""
    while position + 8 <= len(data):
        head = data[position : position + 8]
        size, kind = (head[:4], head[4:]) if order == "big" else (head[4:], head[:4])
        size_bytes = int.from_bytes(size, order)
        yield kind, data[position + 8 : position + 8 + size_bytes]
        # A PNG chunk ends with a checksum, a RIFF chunk is filled up to an even size.
        position += 8 + size_bytes + (4 if order == "big" else size_bytes % 2)


def _tiff_orientation(exif: bytes) -> int:
    order = _TIFF_HEADERS.get(exif[:4])
    if order is None:
        return 1
    start = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[start : start + 2], order)
    for index in range(min(count, 1000)):
        entry = exif[start + 2 + 12 * index :][:12]
        if int.from_bytes(entry[:2], order) == _ORIENTATION_TAG:
            value = int.from_bytes(entry[8:10], order)
            return value if 1 <= value <= 8 else 1
    return 1
