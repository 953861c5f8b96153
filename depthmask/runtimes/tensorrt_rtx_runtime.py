"""TensorRT-RTX: as TensorRT, with engines of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from depthmask.bundle import Bundle
from depthmask.frames import Resolution
from depthmask.runtimes.tensorrt_runtime import open_engine

if TYPE_CHECKING:
    from depthmask.runtimes.engine_session import EngineSession


def open_runtime(
    bundle: Bundle, resolution: Resolution, device: str, threads: int | None
) -> EngineSession:
    """Load the engine of a resolution; see `open_engine`."""
    return open_engine("tensorrt-rtx", bundle, resolution, device)
