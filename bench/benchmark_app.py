"""OpenVINO's own meter, `benchmark_app`, as a program beside us."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from depthmask.errors import UnavailableError

_MEDIAN = re.compile(r"Median:\s*([\d.]+)\s*ms")


def find_benchmark_app() -> str:
    """Where the program is.

    Raises:
        UnavailableError: it is not installed.
    """
    app = shutil.which("benchmark_app", path=str(Path(sys.executable).parent))
    if app is None:
        raise UnavailableError(
            "this needs OpenVINO's benchmark_app, which is not installed. Try `pip install openvino`"
        )
    return app


def benchmark_app_ms(
    app: str, graph: Path, threads: int, seconds: float, more: Sequence[str] = ()
) -> float:
    """The median latency that it prints of an ONNX file, one request after the other, in float32.

    Args:
        app: of `find_benchmark_app`.
        graph: the ONNX file.
        threads: for inference.
        seconds: it measures in whole seconds, one at least.
        more: further arguments; `-shape` where the graph leaves it open.

    Raises:
        UnavailableError: it printed none.
    """
    command = [app, "-m", str(graph), "-d", "CPU", "-infer_precision", "f32"]
    command += ["-api", "sync", "-hint", "none", "-nstreams", "1", "-nthreads", str(threads)]
    command += ["-t", str(max(1, round(seconds))), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    printed = _MEDIAN.search(done.stdout)
    if printed is None:
        raise UnavailableError(
            f"benchmark_app must print a median, but it ended with {done.returncode}:"
            f" {(done.stderr or done.stdout).strip()[-300:]}"
        )
    return float(printed.group(1))
