"""Folders by URL (s3://, gs://, file://, ...), through fsspec: where the machines share no disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from depthmask.errors import DepthmaskError, InputError, OutputError, UnavailableError, UsageError

_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
# botocore's errors and those of other stores' clients are no OSErrors.
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "adlfs", "azure")


def is_url(text: str) -> bool:
    """Whether a text names a store rather than a local path."""
    return bool(_URL.match(text))


@dataclass(frozen=True)
class Storage:
    """A folder in a store. Files appear whole: an upload that is cut short leaves none."""

    url: str

    def check(self) -> None:
        """See that the store is known and its package is here.

        Raises:
            UsageError: fsspec knows no such store.
            UnavailableError: fsspec or the store's package is not installed.

        """
        self._open()

    def names(self) -> frozenset[str]:
        """The files in it; none where it does not exist.

        Raises:
            InputError: it cannot be listed.

        """
        files, root = self._open()
        with _one_line(InputError, f"{self.url} cannot be listed"):
            try:
                files.invalidate_cache()
                return frozenset(path.rsplit("/", 1)[-1] for path in files.ls(root, detail=False))
            except FileNotFoundError:
                return frozenset()

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            InputError: it cannot be read.

        """
        files, root = self._open()
        with _one_line(InputError, f"{self.url}/{name} cannot be read"):
            return bytes(files.cat_file(f"{root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it.

        Raises:
            OutputError: it cannot be written.

        """
        files, root = self._open()
        with _one_line(OutputError, f"{self.url}/{name} cannot be written"):
            if "file" in files.protocol:
                self._write_local(root, name, content)
            else:
                files.pipe_file(f"{root}/{name}", content)

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            OutputError: it cannot be removed.

        """
        files, root = self._open()
        with _one_line(OutputError, f"{self.url}/{name} cannot be removed"):
            files.rm_file(f"{root}/{name}")

    @staticmethod
    def _write_local(root: str, name: str, content: bytes) -> None:
        from pathlib import Path

        from depthmask.atomic import write_file

        Path(root).mkdir(parents=True, exist_ok=True)
        write_file(Path(root) / name, content)

    def _open(self) -> tuple[Any, str]:
        try:
            import fsspec
        except ImportError as error:
            raise UnavailableError(
                f"{self.url} needs fsspec, which is not installed. Try pip install 'depthmask[ray]'"
            ) from error
        try:
            files, root = fsspec.core.url_to_fs(self.url.rstrip("/"))
        except ValueError as error:
            raise UsageError(f"{self.url} must be of a store that fsspec knows: {error}") from error
        except ImportError as error:
            raise UnavailableError(f"{self.url} needs a package: {error}") from error
        return files, str(root)


@contextmanager
def _one_line(kind: type[DepthmaskError], what: str) -> Iterator[None]:
    """Turn a store's failure into an error of a kind; anything else is a bug and stays what it is."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith(_CLIENTS):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = ". Try other credentials" if isinstance(error, PermissionError) else ""
        raise kind(f"{what}: {reason}{hint}") from error
