"""Where depthmask keeps what only makes the next start faster, and may be deleted at any time."""

from __future__ import annotations

import os
from pathlib import Path

from depthmask.errors import OutputError

CACHE_VARIABLE = "DEPTHMASK_CACHE"


def cache_root() -> Path:
    """`DEPTHMASK_CACHE`, else `depthmask` in the user's folder for caches (by the XDG specification)."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "depthmask"


def cache_folder(*parts: str) -> Path:
    """A folder in the cache, made where it is missing; `parts` say what its content depends on.

    Raises:
        OutputError: it cannot be written.
    """
    folder = cache_root().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror}. Try {CACHE_VARIABLE}=FOLDER"
        ) from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} must be writable, but is not. Try {CACHE_VARIABLE}=FOLDER")
    return folder
