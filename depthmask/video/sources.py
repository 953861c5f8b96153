"""From what a user writes after `--source` to an iterator of frames."""

from __future__ import annotations

import glob
import re
from pathlib import Path
from typing import TYPE_CHECKING

from depthmask.errors import InputError, UsageError
from depthmask.video.frame import Frame, Source, SourceKind
from depthmask.video.images import ImageSource, images_of_folder, is_image
from depthmask.video.names import without_credentials

if TYPE_CHECKING:
    from depthmask.video.cameras import CameraRequest
    from depthmask.video.live_source import LiveOptions

__all__ = ["Frame", "Source", "SourceKind", "local_paths", "open_source"]

STANDARD_INPUT = "-"


def open_source(
    text: str, *, camera: CameraRequest | None = None, live: LiveOptions | None = None
) -> Source:
    """Open photographs, a video or a live source.

    An image file, folder, glob, video file or named pipe; `-` for a video on standard input; a camera
    (`0`, /dev/video0, /dev/v4l/by-id/...); rtsp:// or http(s)://; `lavfi:GRAPH` for a test pattern. A
    digit is a camera; write `./0` for a file of that name. A name that exists is never a glob.

    Raises:
        InputError: the file or folder is missing, empty, or neither image nor video.
        UnavailableError: there is no such camera, it cannot be opened, or does not offer what `camera` asks
            for.
        SourceLostError: a network source does not answer.
        UsageError: `camera` is given, but the source is not a camera.
    """
    if camera is not None and not _is_camera(text):
        raise UsageError(
            "--camera-format, -size and -fps must go with a camera, but the source is none"
        )
    # Streams import PyAV, which photographs do not need.
    if _is_camera(text):
        from depthmask.video.cameras import open_camera

        return open_camera(Path(f"/dev/video{text}" if text.isdigit() else text), camera, live)
    if _is_address(text):
        return _open_address(text, live)
    if text == STANDARD_INPUT:
        from depthmask.video.video_source import open_pipe

        return open_pipe(None)
    path = Path(text)
    if not _exists(path) and glob.has_magic(text):
        return _open_glob(text)
    return _open_path(path)


def local_paths(text: str) -> list[Path]:
    """The files and folders that a source's text names; none for a camera or an address.

    Raises:
        InputError: the text cannot be a path.
    """
    if _is_camera(text) or _is_address(text) or text == STANDARD_INPUT:
        return []
    if _exists(Path(text)):
        return [Path(text)]
    return _matches(text) if glob.has_magic(text) else []


def _is_camera(text: str) -> bool:
    return bool(re.fullmatch(r"\d{1,3}", text)) or text.startswith(("/dev/video", "/dev/v4l/"))


def _is_address(text: str) -> bool:
    return bool(re.match(r"(rtsps?|https?|rtmps?|udp|tcp|srt)://|lavfi:", text, re.IGNORECASE))


def _open_address(text: str, live: LiveOptions | None) -> Source:
    from depthmask.video.addresses import open_pattern, open_url
    from depthmask.video.live_source import LiveOptions

    opener = open_pattern if text.lower().startswith("lavfi:") else open_url
    return opener(text, live or LiveOptions())


def _open_path(path: Path) -> Source:
    if not _exists(path):
        raise InputError(
            "the source must be a file, folder, glob, camera number or address, but"
            f" {without_credentials(str(path))} does not exist"
        )
    if path.is_dir():
        return ImageSource(images_of_folder(path), str(path))
    if path.is_fifo():
        # Before anything looks into it: what is read is gone.
        from depthmask.video.video_source import open_pipe

        return open_pipe(path)
    if is_image(path):
        return ImageSource([path], str(path))
    from depthmask.video.video_source import open_video

    return open_video(path)


def _matches(pattern: str) -> list[Path]:
    # Path.glob wants the fixed part apart from the pattern.
    found = glob.iglob(pattern, recursive=True)  # noqa: PTH207
    return sorted(Path(match) for match in found)


def _open_glob(pattern: str) -> Source:
    matches = _matches(pattern)
    if len(matches) == 1:
        return _open_path(matches[0])
    images = [path for path in matches if path.is_file() and is_image(path)]
    if not images:
        reason = f"its {len(matches)} matches are not" if matches else "nothing matches"
        raise InputError(f"{pattern} must match images or one video, but {reason}")
    return ImageSource(images, pattern)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in it
        raise InputError(f"{str(path)!r} is not a file name") from error
