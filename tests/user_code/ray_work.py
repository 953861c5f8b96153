"""Work for a Ray cluster; a module of its own, because its workers import it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from depthmask.errors import InputError, UnavailableError


@dataclass(frozen=True)
class Scaled:
    """Multiplies what is shared; leaves a file for every call."""

    log: Path
    missing: str | None = None

    def open(self, shared):
        if self.missing:
            raise UnavailableError(f"a runtime must be installed, but {self.missing} is not")
        return lambda task: self._call(shared, task)

    def _call(self, shared, task):
        self.log.joinpath(f"{task}-{time.time_ns()}-{os.getpid()}").touch()
        if task == "bad":
            raise InputError("bad.jpg cannot be read")
        if task == "bug":
            raise ZeroDivisionError("of ours")
        if task == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return shared * task, os.getpid()
