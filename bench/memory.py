"""The memory that one cell needs, measured in a process of its own.

    python -m depthmask.bench.memory BUNDLE RESOLUTION RUNTIME DEVICE THREADS BATCH

opens the pipeline, predicts a few 640x480 frames and prints a `PeakMemory` as JSON. `host_bytes` is the
whole process at its largest, as an application would hold it: the interpreter, NumPy, OpenCV, the
runtime's library, the device's (CUDA's on the host's side) and the networks. A GPU's own memory is in
`device_bytes`: all that the driver counts for the process, CUDA's own share included. It is read once the
frames are predicted, since runtimes keep what they once took. THREADS is 0 for the runtime's choice.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from depthmask.bench.nvml import memory_since, open_gpu
from depthmask.frames import Resolution
from depthmask.pipeline import Pipeline

_CALLS = 4


class PeakMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What a process needed at most; None: not known, or no GPU."""

    host_bytes: int | None = None
    device_bytes: int | None = None


def predict_some(
    bundle: Path, resolution: Resolution, runtime: str, device: str, threads: int | None, batch: int
) -> int | None:
    """Open a bundle and predict 640x480 frames of noise, `batch` of them per call.

    Returns:
        Bytes of the GPU's memory that this process held after that; None where it used none.

    Raises:
        DepthmaskError: as `Pipeline.open` and the pipeline's call.
    """
    gpu = None if device == "cpu" else open_gpu()
    before = gpu.memory_by_process() if gpu else {}
    opened = Pipeline.open(
        bundle, runtime, device, threads, resolution=resolution, check_files=False
    )
    frame_HW3 = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    with opened as pipeline:
        for _ in range(_CALLS):
            pipeline.run_batch([frame_HW3] * batch)
        if gpu is None or pipeline.runtime.device != "cuda":
            return None
        return memory_since(before, gpu.memory_by_process())


def peak_rss_bytes() -> int:
    """The most resident memory that this process has held so far."""
    # On Linux ru_maxrss of a child starts at its parent's, which is what we mean to leave out.
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # Linux counts kibibytes


def main(arguments: Sequence[str]) -> None:
    """Measure and print; what fails ends with a traceback, for the parent to note."""
    bundle, size, runtime, device, threads, batch = arguments
    height, _, width = size.partition("x")
    resolution = Resolution(int(height), int(width or height))
    device_bytes = predict_some(
        Path(bundle), resolution, runtime, device, int(threads) or None, int(batch)
    )
    found = PeakMemory(host_bytes=peak_rss_bytes(), device_bytes=device_bytes)
    print(msgspec.json.encode(found).decode("ascii"))


if __name__ == "__main__":
    main(sys.argv[1:])
