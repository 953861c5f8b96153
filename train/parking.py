"""Pictures for worker processes: in one file, mapped by each, so that all share one copy.

Sending the pictures themselves would block for ever if a worker died while it starts: more than a
pipe holds, and the sender keeps the reading end open, too (multiprocessing's spawn).
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from depthmask.errors import OutputError
from depthmask.train.material import Assets, Cutout

PARKED = ".depthmask-"


@dataclass(frozen=True)
class ParkedAssets:
    """Assets in a file; small when pickled."""

    file: Path
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    backgrounds: int

    def open(self) -> Assets:
        """Map the file."""
        if not self.shapes:
            return Assets((), ())
        flat = np.memmap(self.file, np.uint8, mode="r")
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        parts = np.split(flat, ends[:-1])
        pictures = [part.reshape(s) for part, s in zip(parts, self.shapes, strict=True)]
        count = len(self.names)
        cutouts = tuple(map(Cutout, self.names, pictures[:count]))
        middle = count + self.backgrounds
        return Assets(cutouts, tuple(pictures[count:middle]), tuple(pictures[middle:]))


@contextmanager
def parked(assets: Assets, parent: Path | None = None) -> Iterator[ParkedAssets]:
    """Write the pictures to a temporary file, which goes when the block ends.

    After a SIGKILL it stays: `parent` puts it where the next run finds it, under a name that begins
    with `PARKED`; by default it is in the system's folder for temporary files.

    Raises:
        OutputError: the folder for temporary files cannot be written.
    """
    cutouts = [cutout.premultiplied_HW4 for cutout in assets.foregrounds]
    pictures = [*cutouts, *assets.backgrounds, *assets.photos]
    try:
        temporary = tempfile.TemporaryDirectory(prefix=PARKED, dir=parent)
    except OSError as error:
        raise _no_room(str(parent or tempfile.gettempdir()), error) from error
    with temporary as folder:
        file = Path(folder) / "pictures"
        try:
            with file.open("wb") as stream:
                for picture in pictures:
                    stream.write(np.ascontiguousarray(picture).tobytes())
        except OSError as error:
            raise _no_room(folder, error) from error
        yield ParkedAssets(
            file,
            tuple(cutout.name for cutout in assets.foregrounds),
            tuple(picture.shape for picture in pictures),
            len(assets.backgrounds),
        )


def _no_room(folder: str, error: OSError) -> OutputError:
    return OutputError(
        f"{folder} must hold the pictures for the workers, but got: {error.strerror}. Try without"
        " --workers, or another disk (TMPDIR, --out)"
    )
