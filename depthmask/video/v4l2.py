"""What cameras there are and what they offer, asked of the Linux kernel (linux/videodev2.h)."""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CAPTURE = 0x1
_STREAMING = 0x0400_0000
_OF_THIS_NODE = 0x8000_0000
_BUFFER_TYPE = 1  # V4L2_BUF_TYPE_VIDEO_CAPTURE
_DISCRETE = 1
# By the kernel's four letters: what libavdevice calls the format. It can read no others.
_FORMAT_NAMES = {
    "MJPG": "mjpeg", "JPEG": "mjpeg", "H264": "h264", "HEVC": "hevc",
    "YUYV": "yuyv422", "UYVY": "uyvy422", "YU12": "yuv420p", "YV12": "yvu420p", "NV12": "nv12",
    "NV21": "nv21", "RGB3": "rgb24", "BGR3": "bgr24", "GREY": "gray",
}  # fmt: skip


@dataclass(frozen=True)
class CameraMode:
    """A format and size that a camera offers, and that we can read."""

    format: str
    """As `--camera-format` takes it."""
    width: int
    height: int
    rates_hz: tuple[float, ...]
    """Frames per second, fastest first; empty where the camera does not say."""

    def __str__(self) -> str:
        rates = ", ".join(f"{rate:g}" for rate in self.rates_hz)
        return f"{self.format} {self.width}x{self.height}" + (f" at {rates} fps" if rates else "")


@dataclass(frozen=True)
class Camera:
    """A video device that captures."""

    device: Path
    name: str
    modes: tuple[CameraMode, ...]
    problem: str | None = None
    """Why it could not be asked."""


def list_cameras() -> tuple[Camera, ...]:
    """The capture devices under /dev, in the order of their numbers."""
    devices = sorted(Path("/dev").glob("video*"), key=_number)
    return tuple(camera for device in devices if (camera := describe_camera(device)) is not None)


def describe_camera(device: Path) -> Camera | None:
    """What a device offers; None where it captures no pictures (a camera's metadata, a decoder)."""
    try:
        with _opened(device) as descriptor:
            # v4l2_capability: driver, card, bus, version, capabilities, device_caps, reserved
            fields = _ask(descriptor, "R", 0, "16s32s32sIII12x", (b"", b"", b"", 0, 0, 0))
            capabilities = fields[5] if fields[4] & _OF_THIS_NODE else fields[4]
            if not capabilities & _CAPTURE or not capabilities & _STREAMING:
                return None
            name = fields[1].split(b"\0")[0].decode("utf-8", "replace")
            return Camera(device, name, tuple(_modes(descriptor)))
    except OSError as error:
        return Camera(device, "", (), error.strerror or str(error))


def _number(device: Path) -> tuple[int, str]:
    digits = re.search(r"\d+$", device.name)
    return (int(digits[0]) if digits else -1, device.name)


@contextmanager
def _opened(device: Path) -> Iterator[int]:
    descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _modes(descriptor: int) -> Iterator[CameraMode]:
    # v4l2_fmtdesc: index, type, flags, description, pixelformat, mbus_code, reserved
    for fields in _each(descriptor, 2, "III32sII12x", (_BUFFER_TYPE, 0, b"", 0, 0)):
        code = fields[4]
        letters = struct.pack("<I", code).decode("ascii", "replace")
        name = _FORMAT_NAMES.get(letters)
        if name is None:
            continue
        # v4l2_frmsizeenum: index, pixel_format, type, then width and height or a range of them, reserved
        for size in _each(descriptor, 74, "III6I8x", (code, 0, 0, 0, 0, 0, 0, 0)):
            # Of a range: the largest.
            width, height = size[3:5] if size[2] == _DISCRETE else (size[4], size[7])
            yield CameraMode(name, width, height, _rates_hz(descriptor, code, width, height))


def _rates_hz(descriptor: int, code: int, width: int, height: int) -> tuple[float, ...]:
    # v4l2_frmivalenum: index, pixel_format, width, height, type, then a fraction or a range of them, reserved
    start = (code, width, height, 0, 0, 0, 0, 0, 0, 0)
    intervals = _each(descriptor, 75, "IIIII6I8x", start)
    rates = {round(row[6] / row[5], 3) for row in intervals if row[5]}
    return tuple(sorted(rates, reverse=True))


def _each(
    descriptor: int, number: int, layout: str, start: tuple[int | bytes, ...]
) -> Iterator[tuple[Any, ...]]:
    """The rows of a list that the kernel gives by index, until it says that there are no more."""
    for index in range(256):
        try:
            yield _ask(descriptor, "RW", number, layout, (index, *start))
        except OSError:
            return


def _ask(
    descriptor: int, direction: str, number: int, layout: str, values: tuple[int | bytes, ...]
) -> tuple[Any, ...]:
    """One ioctl of V4L2 with a structure, given and returned."""
    size_bytes = struct.calcsize(f"={layout}")
    request = (2 if direction == "R" else 3) << 30 | size_bytes << 16 | ord("V") << 8 | number
    data = bytearray(struct.pack(f"={layout}", *values))
    fcntl.ioctl(descriptor, request, data)
    return struct.unpack(f"={layout}", data)
