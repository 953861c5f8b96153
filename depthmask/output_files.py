"""Single files that a user asked for: checked before the work, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from depthmask.atomic import write_file
from depthmask.errors import OutputError, UsageError


def write_output(path: Path, content: bytes) -> None:
    """Write a file that the user asked for, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        write_file(path, content)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output file that exists or cannot be written, before any work is done for it.

    Raises:
        UsageError: it exists and `overwrite` is off, or it is a folder.
        OutputError: the folder that would hold it is missing or cannot be written.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path} must be a file, but it is a folder. Try a name in it")
        if path.exists() and not overwrite:
            raise UsageError(
                f"{path} must not exist yet, but it does. Try --overwrite or another name"
            )
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise OutputError(f"{path} cannot be written: {path.parent} is not a writable folder")
        # Permissions do not tell all: a file system may be read-only or full, a name too long.
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
