"""What TensorRT-RTX compiled when an engine was first run, kept so that the second start is not as slow.

TensorRT compiles when it builds, and has nothing of the kind.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from depthmask.cache import cache_folder
from depthmask.output_files import write_output


class KernelCache:
    """A file of compiled kernels; it must live as long as the execution context that uses it."""

    def __init__(self, runtime_config: Any, path: Path) -> None:  # noqa: ANN401
        """`runtime_config` is TensorRT-RTX's, of which no context has been made yet."""
        self._path = path
        self._cache = runtime_config.create_runtime_cache()
        # One of another driver or GPU is refused, and replaced by `save`: it is a cache.
        self._saved = path.read_bytes() if path.exists() else b""
        if self._saved and not self._cache.deserialize(self._saved):
            self._saved = b""
        runtime_config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write what has been compiled since, if anything was.

        Raises:
            OutputError: the file cannot be written.
        """
        serialized = self._cache.serialize()
        content = b"" if serialized is None else bytes(serialized)  # None: it has nothing to keep
        if content and content != self._saved:
            write_output(self._path, content)
            self._saved = content


def kernel_cache_path(plan: bytes, version: str, architecture: str) -> Path:
    """One file for each engine, TensorRT-RTX and GPU architecture.

    Raises:
        OutputError: the cache folder cannot be written.
    """
    folder = cache_folder("tensorrt-rtx", version, architecture)
    return folder / f"{hashlib.sha256(plan).hexdigest()}.kernels"
