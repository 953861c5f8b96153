"""The files of a web page: which one a path means, what it is, and whether a compressed sibling goes out."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass
from pathlib import Path

from depthmask.serve.accept import weights

HEADERS = {
    # Both are what browsers ask for before they give a page shared memory, and so threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
INDEX = "index.html"

# Not from this machine's mime.types, which may lack them or say otherwise.
_MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
_SUFFIX_OF = {"br": ".br", "gzip": ".gz"}  # the better one first


@dataclass(frozen=True)
class WebFile:
    """A file to send."""

    path: Path
    media_type: str
    encoding: str | None
    """`br` or `gzip` where `path` is a compressed sibling."""


def find_file(folder: Path, url_path: str, accept_encoding: str) -> WebFile | None:
    """The file that a URL's decoded path means; None where there is none in the folder.

    A path that leads out of the folder, by `..` or by a link, means none.
    """
    try:
        return _find(folder.resolve(), url_path, accept_encoding)
    except (OSError, ValueError):  # too long a name, or a zero byte
        return None


def _find(root: Path, url_path: str, accept_encoding: str) -> WebFile | None:
    path = _inside(root, url_path)
    # Not without the slash: the page's relative addresses would mean others.
    if path is not None and path.is_dir() and url_path.endswith("/"):
        path = _inside(root, f"{url_path}{INDEX}")
    if path is None or not path.is_file():
        return None
    media_type = _MEDIA_TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0]
    media_type = media_type or "application/octet-stream"
    accepted = weights(accept_encoding)
    for encoding, suffix in _SUFFIX_OF.items():
        sibling = _inside(root, f"{path.relative_to(root)}{suffix}")
        if accepted.get(encoding, 0.0) > 0 and sibling is not None and sibling.is_file():
            return WebFile(sibling, media_type, encoding)
    return WebFile(path, media_type, None)


def _inside(root: Path, relative: str) -> Path | None:
    path = (root / relative.lstrip("/")).resolve()
    return path if path.is_relative_to(root) else None
