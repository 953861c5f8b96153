"""Importing TensorRT, which can fail in ways of its own, and hearing what it says."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from depthmask.engine import PRODUCTS, Flavour
from depthmask.errors import UnavailableError

_LONGEST_MESSAGE = 400


def import_tensorrt(flavour: Flavour) -> Any:  # noqa: ANN401
    """The module of a flavour.

    Raises:
        UnavailableError: its libraries are missing or do not load.
    """
    try:
        return importlib.import_module(flavour.replace("-", "_"))
    except (ImportError, OSError, RuntimeError) as error:
        raise UnavailableError(
            f"{PRODUCTS[flavour]} is installed but cannot be loaded: {error}. `dmx doctor` says what is"
            " missing"
        ) from error


def collecting_log(trt: Any) -> Any:  # noqa: ANN401
    """A logger that keeps `warnings` and `errors`, each once, and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.warnings: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            kept: Mapping[Any, list[str]] = {
                trt.ILogger.Severity.WARNING: self.warnings,
                trt.ILogger.Severity.ERROR: self.errors,
                trt.ILogger.Severity.INTERNAL_ERROR: self.errors,
            }
            lines = kept.get(severity)
            if lines is not None and message not in lines:
                lines.append(message)

    return Log()


def one_line(text: str) -> str:
    """A message of TensorRT's, which may have many, cut where it grows long."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_MESSAGE else line[: _LONGEST_MESSAGE - 3] + "..."
