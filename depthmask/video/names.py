"""How a source is called: in messages, without its password; in file names, without signs that harm."""

from __future__ import annotations

import re
from pathlib import Path


def without_credentials(url: str) -> str:
    """The address as it may be shown: without user, password and query, where cameras take them, too.

    All up to the last @ goes, as a password may hold any sign.
    """
    return re.sub(r"^([\w+.-]+:/+)(?:.*@)?([^?#]*).*", r"\1\2", url, flags=re.DOTALL)


def file_name_part(name: str) -> str:
    """A name for a stream's frames: a file's stem, or an address made harmless."""
    stem = Path(name).stem if "://" not in name else name.split("://", 1)[1]
    return re.sub(r"[^\w.-]+", "_", stem).strip("._") or "frame"
