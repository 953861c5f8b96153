"""Photographs as a source of frames."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from depthmask.errors import InputError
from depthmask.frames import IMAGE_SUFFIXES, read_image
from depthmask.video.frame import Frame, SourceCounts, SourceKind

_LABEL = re.compile(r"(.+)\.(mask|depth)\.png", re.IGNORECASE)
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")


class ImageSource:
    """Image files, one frame each. One that cannot be read is left out and listed in `unreadable`."""

    kind: SourceKind = "images"
    fps: float | None = None
    counts = SourceCounts()

    def __init__(
        self, paths: Sequence[Path], name: str, names: Sequence[str] | None = None
    ) -> None:
        """`names` are the frames'; by default from the paths."""
        self.name = name
        self._paths = tuple(paths)
        self._names = tuple(names if names is not None else unique_names(self._paths))
        self._unreadable: list[InputError] = []

    @property
    def count(self) -> int:
        """The number of files."""
        return len(self._paths)

    @property
    def unreadable(self) -> tuple[InputError, ...]:
        """One error, naming its file, for each that was left out so far."""
        return tuple(self._unreadable)

    def __iter__(self) -> Iterator[Frame]:
        """Frames in the order of the files; a gap in `index` is a file that could not be read."""
        for index, (path, name) in enumerate(zip(self._paths, self._names, strict=True)):
            try:
                image_HW3 = read_image(path)
            except InputError as error:
                self._unreadable.append(error)
                continue
            yield Frame(image_HW3, name, index)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def is_image(path: Path) -> bool:
    """Whether a file is to be read as an image: by its first bytes, else by its suffix."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        head = b""
    is_webp = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    return is_webp or head.startswith(_MAGIC) or has_image_suffix(path)


def has_image_suffix(path: Path) -> bool:
    """Whether the name is an image's."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def images_of_folder(folder: Path) -> list[Path]:
    """The image files of a folder (not of folders in it), sorted by name.

    Hidden files are left out, and so are NAME.mask.png and NAME.depth.png beside a photo NAME: in a
    data set these are its labels.

    Raises:
        InputError: the folder cannot be read, or has no image in it.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from error
    images = [path for path in files if has_image_suffix(path) and not path.name.startswith(".")]
    stems = {path.stem for path in images}
    photos = [path for path in images if not _is_label(path, stems)]
    if not photos:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{folder} must hold images ({suffixes}), but there are none in it")
    return photos


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file's outputs: its stem, and where that is not unique, more of its path.

    `a.jpg` and `a.png` become `a.jpg` and `a.png`; `x/a.jpg` and `y/a.jpg` become `x_a` and `y_a`.
    Names that differ only in case count as the same, as some file systems take them for the same.
    """

    def unique(names: Sequence[str]) -> set[int]:
        counts = Counter(name.casefold() for name in names)
        return {index for index, name in enumerate(names) if counts[name.casefold()] == 1}

    names = [path.stem for path in paths]
    for longer in (
        lambda path: path.name,
        lambda path: f"{path.parent.name}_{path.stem}",
        lambda path: f"{path.parent.name}_{path.name}",
    ):
        alone = unique(names)
        names = [
            name if index in alone else longer(path)
            for index, (name, path) in enumerate(zip(names, paths, strict=True))
        ]
    alone = unique(names)
    return [name if index in alone else f"{name}-{index + 1}" for index, name in enumerate(names)]


def _is_label(path: Path, stems: set[str]) -> bool:
    label = _LABEL.fullmatch(path.name)
    return label is not None and label[1] in stems
