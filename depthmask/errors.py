"""The errors that a user can cause, and the exit code that each one ends `dmx` with.

A message is one line: what must be, what was found, what to do. Anything that is not a
`DepthmaskError` is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence

_LONGEST = 1900
"""Characters of a message: a bad file can repeat its faults, or what they name, without end."""


class DepthmaskError(Exception):
    """Base of every error that is not a bug; its message is one line, fit for the user's eyes."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        # Names of files and what libraries say may have line ends in them.
        text = " ".join(line.strip() for line in message.splitlines() if line.strip())
        if len(text) > _LONGEST:
            text = f"{text[: _LONGEST // 2]} [...] {text[-_LONGEST // 3 :]}"
        super().__init__(text)


class CheckFailedError(DepthmaskError):
    """Parity, accuracy or a regression check did not hold; `details` are lines on where and why."""

    exit_code = 1

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class UsageError(DepthmaskError):
    """An option or argument cannot be used, or an output exists already."""

    exit_code = 2


class InputError(DepthmaskError):
    """An input file, folder or artefact is missing or bad."""

    exit_code = 3


class UnavailableError(DepthmaskError):
    """A device, driver or Python package is missing."""

    exit_code = 4


class SourceLostError(DepthmaskError):
    """A video source was lost or ended early."""

    exit_code = 5


class OutputError(DepthmaskError):
    """An output cannot be written."""

    exit_code = 6


class InterruptedWorkError(DepthmaskError):
    """Ctrl-C or a signal ended the work before it was done."""

    exit_code = 130
