"""Files and folders that are the old one or the new one, never half of either."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from depthmask.errors import InputError, OutputError, UsageError

OUR_FILES = frozenset(
    {
        "manifest.json",
        "checkpoint.json",
        "dataset.json",
        "assets.json",
        "networks.json",
        "depth.json",
        "bench.json",
    }
)
"""A folder with one of these was made by depthmask."""

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_TEMPORARY = ".depthmask-tmp"
_ASIDE = ".depthmask-old"


def write_file(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    """Write to a temporary name beside `path`, sync, then replace `path`.

    What a killed writer of the same file left is removed.

    Raises:
        OSError: the file cannot be written; `path` is as it was.

    """
    for leftover in _temporaries(path):
        _remove_if_abandoned(leftover)
    descriptor, temporary_name = tempfile.mkstemp(_TEMPORARY, f".{path.name}.", path.parent)
    temporary = Path(temporary_name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: somebody is at it
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o666 & ~umask())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def new_folder(
    target: Path, *, overwrite: bool = False, check_owner: bool = True
) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends without an error.

    One process at a time makes a folder of this name, from before the block to its end. What a killed
    one left is removed.

    Raises:
        UsageError: `target` exists and `overwrite` is off, or is not a folder; or another process makes it.
        OutputError: it cannot be written.

    """
    check_target(target, overwrite=overwrite, check_owner=check_owner)
    target = target.absolute()  # "." has no name of its own
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _only_maker(target):
            # Another process may have ended it meanwhile.
            check_target(target, overwrite=overwrite, check_owner=check_owner)
            for leftover in _temporaries(target):
                _recover(leftover, target)
            temporary = Path(tempfile.mkdtemp(_TEMPORARY, f".{target.name}.", target.parent))
            try:
                yield temporary
                temporary.chmod(0o777 & ~umask())
                _sync_tree(temporary)
                _put_in_place(temporary, target)
            finally:
                # What is still under the temporary name: an unfinished folder, or the old one.
                shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error


@contextmanager
def only_writer(folder: Path, mark: Path) -> Iterator[None]:
    """Let no second process write into a folder, by a lock on one of its files.

    The lock goes with the process, however that ends: none is ever stale.

    Args:
        folder: for messages.
        mark: the file, which exists.

    Raises:
        UsageError: another process is at it, or replaced the file meanwhile.
        InputError: the file cannot be opened.
    """
    try:
        file = mark.open("rb")
    except OSError as error:
        raise InputError(f"{mark} cannot be read: {error.strerror}") from error
    with file:
        if not _lock(file.fileno()) or not _is_still(mark, file.fileno()):
            raise _busy(folder)
        yield


@contextmanager
def _only_maker(target: Path) -> Iterator[None]:
    """As `only_writer`, of a folder that may not exist yet: the lock is a file beside it."""
    path = target.parent / f".{target.name}.lock{_TEMPORARY}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        if not _lock(descriptor) or not _is_still(path, descriptor):
            raise _busy(target)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _busy(target: Path) -> UsageError:
    return UsageError(
        f"{target} must be written by one command at a time, but another one is at it. Try another --out, or"
        " wait for its end"
    )


def _temporaries(target: Path) -> list[Path]:
    """Files and folders that were to become `target`."""
    name = re.compile(rf"\.{re.escape(target.name)}\.\w{{8}}{re.escape(_TEMPORARY)}")
    return [path for path in target.parent.glob(f".*{_TEMPORARY}") if name.fullmatch(path.name)]


def _remove_if_abandoned(path: Path) -> None:
    with suppress(OSError), path.open("rb") as file:
        if _lock(file.fileno()):
            path.unlink()


def _recover(leftover: Path, target: Path) -> None:
    """Remove what a killed process left; if it was killed between two renames, the old folder goes back."""
    old = leftover / _ASIDE
    if old.is_dir() and not target.exists():
        old.rename(target)
    shutil.rmtree(leftover, ignore_errors=True)


def check_target(target: Path, *, overwrite: bool, check_owner: bool = True) -> None:
    """Refuse an output that exists, before any work is done for it.

    With `overwrite`, what is replaced must be empty or hold one of `OUR_FILES`; `check_owner` is off
    where the caller knows better what it may replace.

    Raises:
        UsageError: it exists and `overwrite` is off, it is not ours, or it is not a folder.
        OutputError: the folder that would hold it cannot be written.

    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target} must be a folder, but it is a file. Try another --out")
    if target.exists() and not overwrite:
        raise UsageError(
            f"{target} must not exist yet, but it does. Try --overwrite or another --out"
        )
    if target.exists() and check_owner:
        _check_replaceable(target)
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not os.access(parent, os.W_OK) or not parent.is_dir():
        raise OutputError(f"{target} cannot be written: {parent} is not a writable folder")


def _check_replaceable(target: Path) -> None:
    """--overwrite replaces an empty folder or one that depthmask wrote; never somebody's own files."""
    if target.resolve() in Path.cwd().resolve().parents:
        raise UsageError(f"{target} must not be above the working folder, but it is")
    names = {path.name for path in target.iterdir()}
    if names and not names & OUR_FILES:
        raise UsageError(
            f"{target} must be empty or made by depthmask for --overwrite to replace it, but it holds"
            f" {min(names)!r} and none of {', '.join(sorted(OUR_FILES))}. Try another --out"
        )


def _put_in_place(temporary: Path, target: Path) -> None:
    """Rename, or exchange with what is there (a plain rename over a full folder fails)."""
    if not target.exists():
        temporary.rename(target)
    elif not _exchange(temporary, target):
        _move_aside(temporary, target)
    _sync_folder(target.parent)


def _move_aside(temporary: Path, target: Path) -> None:
    """Exchange in two steps; where the second one fails, what was there goes back."""
    aside = Path(tempfile.mkdtemp(_TEMPORARY, f".{target.name}.", target.parent))
    old = aside / _ASIDE
    try:
        target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        # Only an empty folder: if even going back failed, `old` is all that there is.
        with suppress(OSError):
            aside.rmdir()


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step (renameat2, Linux); False where that does not exist."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    arguments = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if libc.renameat2(*arguments) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL):  # an old kernel, or a file system without it
        return False
    raise OSError(number, os.strerror(number), str(second))


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir():
            _sync_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """The process's file mode mask; reading it is setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
