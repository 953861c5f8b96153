"""Opening files that somebody else made: only regular files, never outside their folder, never too large.

What is read this way cannot hang the reader (a FIFO), fill the memory (/dev/zero), or stand for another
file (a link out of the folder).
"""

from __future__ import annotations

import math
import os
import stat
import tokenize
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
import numpy.typing as npt

from depthmask.errors import InputError

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # opening a FIFO does not wait for a writer
_LONGEST_MESSAGE, _LONGEST_REASON = 160, 400
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
DAMAGED_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    TypeError,
    OverflowError,
    EOFError,
    OSError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    RecursionError,
    NotImplementedError,
)
"""What zipfile and NumPy raise of a damaged file; RuntimeError: it is encrypted."""


def read_regular(path: Path, what: str, most_bytes: int) -> bytes:
    """The bytes of a file that a user named; links to it are followed.

    Args:
        path: of the file.
        what: it must be, for messages, such as `an image file`.
        most_bytes: a larger file is refused without being read.

    Raises:
        InputError: it is missing, no regular file, larger, or cannot be read.
    """
    with open_regular(path, what) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > most_bytes:
            raise InputError(
                f"{path} must be {what} of at most {most_bytes} bytes, but it has {size_bytes}"
            )
        return file.read(most_bytes)


def open_regular(path: Path, what: str) -> IO[bytes]:
    """Open a file that a user named, for reading; links to it are followed.

    Raises:
        InputError: it is missing, no regular file, or cannot be opened.
    """
    try:
        descriptor = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise InputError(f"{path} must be {what}, but there is no such file") from None
    except (OSError, ValueError) as error:  # a ValueError where the name holds a zero byte
        raise InputError(f"{path} cannot be read: {_reason(error)}") from error
    return _regular(descriptor, path, what)


def open_inside(folder: Path, name: str, what: str, *, may_be_linked: bool = False) -> IO[bytes]:
    """Open a file that a document in `folder` names. No link is followed below the folder.

    Args:
        folder: where all of it must be; this one may be a link.
        name: relative to it, with slashes.
        what: it must be, for messages.
        may_be_linked: whether the file may have a second name (a hard link), which may be outside: only
            where its contents are checked.

    Raises:
        InputError: the name leads out of the folder, or what it names is missing, a link, or no file.
    """
    require_plain_name(name, folder)
    *parents, last = PurePosixPath(name).parts
    path = folder / name
    at = None
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for parent in parents:
            inner = os.open(
                parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at
            )
            os.close(at)
            at = inner
        descriptor = os.open(last, _FLAGS | os.O_NOFOLLOW, dir_fd=at)
    except FileNotFoundError:
        raise InputError(f"{path} must be {what}, but it is missing") from None
    except OSError as error:
        is_link = any((folder / part).is_symlink() for part in (name, *_parents(name)))
        reason = "it is a link or below one" if is_link else _reason(error)
        raise InputError(f"{path} must be {what}, but {reason}") from error
    finally:
        if at is not None:
            os.close(at)
    file = _regular(descriptor, path, what)
    if not may_be_linked and os.fstat(file.fileno()).st_nlink > 1:
        file.close()
        raise InputError(
            f"{path} must be {what} of its own, but it has another name elsewhere (a hard link). Copy it"
        )
    return file


def require_plain_name(name: str, folder: Path) -> None:
    """Check that a name in a document is one of a file below the document's folder.

    Raises:
        InputError: it is absolute, has `..`, or is written in any other than the plainest way.
    """
    path = PurePosixPath(name)
    plain = name and str(path) == name and not path.is_absolute() and ".." not in path.parts
    if not plain or name == "." or not name.isprintable() or "\\" in name:
        raise InputError(
            f"{folder} names {short(name)}, which is outside the bundle or no plain name"
        )


def read_npz(path: Path, most_bytes: int) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of an .npz file by name. Never a pickle, and no more memory than the file accounts for.

    Args:
        path: of the file.
        most_bytes: that all arrays may have together, unpacked.

    Raises:
        InputError: it is missing, damaged or larger, or holds anything else than plain arrays.
    """
    with open_regular(path, "an .npz file") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if sum(member.file_size for member in members) > most_bytes:
                    raise ValueError(f"it unpacks to more than {most_bytes} bytes")
                return {
                    member.filename.removesuffix(".npy"): _read_npy(archive, member)
                    for member in members
                }
        except DAMAGED_ZIP as error:
            raise InputError(f"{path} must be a whole .npz file, but {one_line(error)}") from error


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[np.generic]:
    """NumPy takes the memory that a header asks for before it looks at what follows."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _NPY_HEADERS:
            raise ValueError(f"{short(member.filename)} is of the format {version}")
        shape, is_fortran, dtype = _NPY_HEADERS[version](stream)
        size_bytes = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or min(shape, default=0) < 0 or size_bytes > member.file_size:
            raise ValueError(f"{short(member.filename)} does not hold {dtype} {shape}")
        content = stream.read()
    if len(content) != size_bytes:
        raise ValueError(f"{short(member.filename)} does not hold {dtype} {shape}")
    array = np.frombuffer(bytearray(content), dtype).reshape(shape[::-1] if is_fortran else shape)
    return array.transpose() if is_fortran else array


def short(value: object) -> str:
    """What a file says, for a message: on one line, and not the whole of it."""
    text = ascii(value)
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."


def one_line(error: BaseException) -> str:
    """What a library says of a bad file, for a message: on one line, and not the whole of it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def _regular(descriptor: int, path: Path, what: str) -> IO[bytes]:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"{path} must be {what}, but it is {kind}")
    return os.fdopen(descriptor, "rb")


def _parents(name: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(name).parents if str(parent) != "."]


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
