"""From what a user writes after `--source` to an iterator of frames."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from depthmask.errors import InputError
from depthmask.video.frame import Frame, Source, SourceKind
from depthmask.video.images import ImageSource, images_of_folder, is_image

__all__ = ["Frame", "Source", "SourceKind", "local_paths", "open_source"]


def open_source(text: str) -> Source:
    """Open an image file, folder, glob, video file, camera (`0` or /dev/video0), rtsp:// or http(s)://.

    A digit is a camera; write `./0` for a file of that name. A name that exists is never a glob.

    Raises:
        InputError: the file or folder is missing, empty, or neither image nor video.
        UnavailableError: there is no such camera, or it cannot be opened.
        SourceLostError: a network source does not answer.
    """
    # Streams import PyAV, which photographs do not need.
    if _is_camera(text):
        from depthmask.video.streams import open_camera

        return open_camera(Path(f"/dev/video{text}" if text.isdigit() else text))
    if _is_address(text):
        from depthmask.video.streams import open_url

        return open_url(text)
    path = Path(text)
    if not _exists(path) and glob.has_magic(text):
        return _open_glob(text)
    return _open_path(path)


def local_paths(text: str) -> list[Path]:
    """The files and folders that a source's text names; none for a camera or an address.

    Raises:
        InputError: the text cannot be a path.
    """
    if _is_camera(text) or _is_address(text):
        return []
    if _exists(Path(text)):
        return [Path(text)]
    return _matches(text) if glob.has_magic(text) else []


def _is_camera(text: str) -> bool:
    return bool(re.fullmatch(r"\d{1,3}", text)) or text.startswith("/dev/video")


def _is_address(text: str) -> bool:
    return bool(re.match(r"(rtsps?|https?)://", text, re.IGNORECASE))


def _open_path(path: Path) -> Source:
    if not _exists(path):
        raise InputError(
            f"the source must be a file, folder, glob, camera number or address, but {path} does not exist"
        )
    if path.is_dir():
        return ImageSource(images_of_folder(path), str(path))
    if is_image(path):
        return ImageSource([path], str(path))
    from depthmask.video.streams import open_video

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
