"""Importing TensorRT, which can fail in ways of its own."""

from __future__ import annotations

import importlib
from typing import Any

from depthmask.engine import PRODUCTS, Flavour
from depthmask.errors import UnavailableError


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
