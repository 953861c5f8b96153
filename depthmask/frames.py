"""Images in, maps out: one policy for reading, and the geometry to a network's size and back.

A frame is (H,W,3) uint8 RGB. Every reader of images in depthmask (training, calibration, benchmark,
live) goes through `read_image`, so that the same file is the same pixels everywhere:

- EXIF orientation is applied; 16 bit becomes 8 bit; grey, palette and CMYK become RGB;
- transparent pixels are shown on white;
- a file that is cut short is an error, not a picture with a grey lower half.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.errors import InputError, OutputError, UsageError
from depthmask.image_size import size_px
from depthmask.orientation import exif_orientation, upright
from depthmask.untrusted import read_regular

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
SMALLEST_SIDE_PX = 32
LARGEST_SIDE_PX = 4096
LARGEST_IMAGE_PX = 1 << 27
"""Of an image file: 134 megapixels, 400 MB as RGB. A file of a few bytes can ask for any size."""
_LARGEST_FILE_BYTES = 1 << 29

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"


@dataclass(frozen=True, order=True)
class Resolution:
    """The size that a network sees, in pixels."""

    height: int
    width: int

    def __post_init__(self) -> None:
        for side in (self.height, self.width):
            if not SMALLEST_SIDE_PX <= side <= LARGEST_SIDE_PX:
                raise UsageError(
                    f"a resolution's sides must be {SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX} pixels,"
                    f" but got {self}"
                )

    def __str__(self) -> str:
        square = self.height == self.width
        return str(self.height) if square else f"{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Resolution:
        """`224` or `192x256` (height x width).

        Raises:
            UsageError: the text is neither, or a side is out of range.
        """
        match = re.fullmatch(r"\s*(\d{1,6})(?:[xX](\d{1,6}))?\s*", text)
        if match is None:
            raise UsageError(
                f"a resolution must be H or HxW, such as 224 or 192x256, but got {text!r}"
            )
        height = int(match[1])
        return cls(height, int(match[2] or height))

    @classmethod
    def parse_list(cls, text: str) -> tuple[Resolution, ...]:
        """Comma-separated resolutions, smallest first, each once."""
        return tuple(sorted({cls.parse(part) for part in text.split(",")}))


@dataclass(frozen=True)
class Normalisation:
    """image = (frame / 255 - mean) / std, per RGB channel; both in shares of full scale."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read_image(path: Path | str) -> UInt8Array:
    """Read an image file as (H,W,3) uint8 RGB, by the policy at the top of this module.

    Raises:
        InputError: the file is missing, empty, cut short, not an image, or not readable.
    """
    return decode_image(read_bytes(Path(path)), str(path))


def decode_image(data: bytes, name: str) -> UInt8Array:
    """Decode an image file's bytes; `name` is for messages."""
    _check_whole(data, name)
    image_HW3 = decode_stored(data, cv2.IMREAD_COLOR, name)
    bgra_HW4 = _decode_bgra(data, name) if _may_have_alpha(data) else None
    if bgra_HW4 is not None:
        image_HW3 = _on_white(bgra_HW4)
    return np.ascontiguousarray(image_HW3[:, :, ::-1], dtype=np.uint8)


def read_rgba(path: Path) -> UInt8Array:
    """Read an image file as (H,W,4) uint8 RGBA; one without alpha is opaque.

    Raises:
        InputError: as `read_image`.
    """
    data = read_bytes(path)
    _check_whole(data, str(path))
    bgra_HW4 = _decode_bgra(data, str(path))
    if bgra_HW4 is not None:
        return np.asarray(cv2.cvtColor(bgra_HW4, cv2.COLOR_BGRA2RGBA), np.uint8)
    rgb_HW3 = decode_image(data, str(path))
    return np.dstack([rgb_HW3, np.full(rgb_HW3.shape[:2], 255, np.uint8)])


def write_png(path: Path, image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write (H,W) grey, (H,W,3) RGB or (H,W,4) RGBA, 8 or 16 bit.

    Raises:
        OutputError: the file cannot be written.
    """
    data = encode_png(image, str(path))
    try:
        path.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error


def encode_png(image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], name: str) -> bytes:
    """The PNG file of (H,W) grey, (H,W,3) RGB or (H,W,4) RGBA, 8 or 16 bit; `name` is for messages.

    Raises:
        OutputError: the image cannot be encoded.
    """
    bgr = image[:, :, [2, 1, 0, 3][: image.shape[2]]] if image.ndim == 3 else image
    encoded, data = cv2.imencode(".png", bgr)
    if not encoded:
        raise OutputError(f"{name} could not be encoded as PNG: {image.shape} {image.dtype}")
    return data.tobytes()


def resize_weights(size_in: int, size_out: int) -> FloatArray:
    """The triangle filter that resizes `size_in` samples to `size_out`, as a matrix (out, in).

    Half-pixel centres; when shrinking, the triangle is as wide as the scale, so that nothing aliases
    (Turkowski, "Filters for common resampling tasks", 1990; Pillow's BILINEAR; PyTorch's bilinear with
    antialias). Rows sum to 1. Two matrix products resize an image on every runtime alike.
    """
    scale = size_in / size_out
    centres = (np.arange(size_out, dtype=np.float32) + 0.5) * np.float32(scale) - 0.5
    distance = np.abs(np.arange(size_in, dtype=np.float32)[None] - centres[:, None])
    weights = np.maximum(1 - distance / np.float32(max(scale, 1.0)), 0)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def to_network(
    frames_NHW3: UInt8Array, resolution: Resolution, normalisation: Normalisation
) -> FloatArray:
    """Stretch frames to the network's size and normalise them: (N,3,H,W) float32.

    The same as the graph of a bundle with `frame` input does inside.
    """
    rows = resize_weights(frames_NHW3.shape[1], resolution.height)
    columns = resize_weights(frames_NHW3.shape[2], resolution.width)
    scale_3 = 1 / (255 * np.array(normalisation.std, np.float32))
    shift_3 = np.array(normalisation.mean, np.float32) / np.array(normalisation.std, np.float32)
    flat = frames_NHW3.astype(np.float32).reshape(*frames_NHW3.shape[:2], -1)
    tall_NHW3 = (rows @ flat).reshape(flat.shape[0], resolution.height, -1, 3)
    image_N3HW = tall_NHW3.transpose(0, 3, 1, 2) @ columns.T
    return np.asarray(image_N3HW * scale_3[:, None, None] - shift_3[:, None, None], np.float32)


def to_frame(map_HW: FloatArray, height: int, width: int) -> FloatArray:
    """Stretch a network's output map back to the frame's size, bilinearly."""
    if map_HW.shape == (height, width):
        return map_HW
    resized = cv2.resize(map_HW, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)


def read_bytes(path: Path) -> bytes:
    """An image file's bytes.

    Raises:
        InputError: it is missing, no regular file, too large, or cannot be read.
    """
    return read_regular(path, "an image file", _LARGEST_FILE_BYTES)


def _check_whole(data: bytes, name: str) -> None:
    """OpenCV fills in what a short file lacks; we refuse it."""
    if not data:
        raise InputError(f"{name} must be an image, but the file is empty")
    if data.lstrip()[:1] == b"<" and b"<svg" not in data[:512]:
        raise InputError(
            f"{name} must be an image, but it is an HTML or XML page. A download may have failed: fetch it"
            " again"
        )
    truncated = (
        (data.startswith(_PNG) and b"IEND" not in data[-4096:])
        or (data.startswith(_JPEG) and not _jpeg_ends(data))
        or (data[:4] == b"RIFF" and len(data) < int.from_bytes(data[4:8], "little") + 8)
    )
    if truncated:
        raise InputError(f"{name} must be a whole image, but it is cut short at {len(data)} bytes")


def _jpeg_ends(data: bytes) -> bool:
    """Whether an end-of-image marker follows the first scan (ITU T.81, annex B)."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            return True  # not a marker: damaged in another way, which the decoder will name
        marker = data[position + 1]
        if marker == 0xDA:
            return b"\xff\xd9" in data[position:]
        stands_alone = marker == 0xFF or 0xD0 <= marker <= 0xD7
        length = int.from_bytes(data[position + 2 : position + 4], "big") + 2
        position += 1 if marker == 0xFF else 2 if stands_alone else length
    return False


def _may_have_alpha(data: bytes) -> bool:
    return data.startswith(_PNG) or data[:4] in (b"RIFF", b"II*\0", b"MM\0*")


def decode_stored(data: bytes, flags: int, name: str) -> npt.NDArray[np.generic]:
    """What OpenCV makes of a file's bytes with its IMREAD_* `flags`, without the policy above.

    Raises:
        InputError: it cannot be decoded.
    """
    _check_size(data, name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"{name} cannot be decoded: {error.err or error}") from error
    if image is None:
        raise InputError(
            f"{name} must be a JPEG, PNG, WebP, BMP or TIFF image, but it cannot be decoded as one"
        )
    return np.asarray(image)


def _check_size(data: bytes, name: str) -> None:
    """Refuse a picture by its header, before memory is taken for it."""
    size = size_px(data)
    if size is None:
        raise InputError(
            f"{name} must be a JPEG, PNG, WebP, BMP or TIFF image, but it cannot be decoded as one"
        )
    if not 0 < size[0] * size[1] <= LARGEST_IMAGE_PX:
        raise InputError(
            f"{name} must be of 1 to {LARGEST_IMAGE_PX} pixels, but it says that it is"
            f" {size[1]}x{size[0]}. Try a smaller copy"
        )


def _decode_bgra(data: bytes, name: str) -> UInt8Array | None:
    """(H,W,4) uint8 BGRA, upright; None of a file without alpha."""
    raw = decode_stored(data, cv2.IMREAD_UNCHANGED, name)
    if raw.ndim != 3 or raw.shape[2] != 4:
        return None
    return np.ascontiguousarray(upright(_to_uint8(raw), exif_orientation(data)))


def _to_uint8(image: npt.NDArray[np.generic]) -> UInt8Array:
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    if image.dtype == np.uint16:
        levels: UInt8Array = (image.astype(np.uint32) // 257).astype(np.uint8)
        return levels
    return np.asarray(np.clip(image.astype(np.float32) * 255 + 0.5, 0, 255), np.uint8)


def _on_white(bgra_HW4: UInt8Array) -> UInt8Array:
    pixels = bgra_HW4.astype(np.uint16)
    alpha_HW1 = pixels[:, :, 3:]
    shown = (pixels[:, :, :3] * alpha_HW1 + 255 * (255 - alpha_HW1) + 127) // 255
    return shown.astype(np.uint8)
