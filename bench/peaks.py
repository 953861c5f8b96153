"""The machine's own peaks, measured in a few seconds: arithmetic in fp32 and int8, and memory bandwidth.

    python -m depthmask.bench.peaks THREADS MATRIX_SIDES ARRAY_BYTES SECONDS

measures in this process and prints JSON; `measure_peaks` runs it in a process of its own, because BLAS
libraries take their number of threads from the environment, once, when they load.

A peak is the best of several repeats and not their median: the hardware's limit is the same in each of
them, and whatever else happens on the machine can only make one slower. The median and the worst are kept
beside it: far below the best, they say that the machine was busy, and that the best may be low too.
Matrices are multiplied in two sizes: a small one fits between two interruptions (on a busy machine
512x512 still came to 85 GFLOP/s, 1024x1024 to 46), a large one keeps many threads busy.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from depthmask import runtimes
from depthmask.bench.graph import has_onnx
from depthmask.errors import UnavailableError, UsageError
from depthmask.runtimes.onnxruntime_runtime import import_onnxruntime

SECONDS_PER_KERNEL = 0.4
_SIDES, _SIDES_OF_MANY_THREADS = (512, 1024), (1024, 2048)
_MANY_THREADS = 16
_MIN_REPEATS = 5
_TIMEOUT_SECONDS = 300
_CACHES_PER_ARRAY = 4
_SMALLEST_ARRAY_BYTES = 64 << 20
_LARGEST_SHARE_OF_MEMORY = 16
_OPSET = 18
_IR_VERSION = 10
# What the BLAS libraries that NumPy is built with listen to.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """So many of something per second, over several repeats of one kernel."""

    best: float
    median: float
    worst: float
    repeats: int
    how: str
    """Library and kernel."""

    def __repr__(self) -> str:
        return f"Rate({self.best / 1e9:.1f} G/s best of {self.repeats}, {self.how})"


class Peaks(msgspec.Struct, frozen=True, kw_only=True):
    """What this machine does at best with a number of threads."""

    threads: int
    fp32_flop_per_s: Rate
    """Of the fastest library that is installed; a multiply-accumulate is two."""
    int8_op_per_s: Rate | None
    """Likewise; None where onnx or onnxruntime is not installed. Below fp32's on some processors."""
    memory_bytes_per_s: Rate
    """Read and written together."""


def measure_peaks(
    threads: int,
    *,
    matrix_sides: Sequence[int] = (),
    array_bytes: int | None = None,
    seconds: float = SECONDS_PER_KERNEL,
) -> Peaks:
    """Measure in a fresh process, in which every library has the number of threads asked for.

    Args:
        threads: of each kernel.
        matrix_sides: of the square matrices that are multiplied, each in turn.
        array_bytes: of each of the two arrays of the copy; by default four times the last cache.
        seconds: how long each kernel is repeated; there are seven by default.

    Raises:
        UsageError: a setting is out of range.
        UnavailableError: the process ended early, for want of memory perhaps.
    """
    sides = tuple(matrix_sides) or (_SIDES_OF_MANY_THREADS if threads > _MANY_THREADS else _SIDES)
    array_bytes = last_cache_multiple() if array_bytes is None else array_bytes
    for name, value in (("threads", threads), ("side", min(sides)), ("array_bytes", array_bytes)):
        if value < 1:
            raise UsageError(f"{name} must be 1 or more, but got {value}")
    # -P: the user's folder may hold a depthmask of its own.
    command = [sys.executable, "-P", "-m", "depthmask.bench.peaks"]
    command += (str(threads), ",".join(map(str, sides)), str(array_bytes), str(seconds))
    environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
    try:
        done = subprocess.run(
            command, capture_output=True, check=True, timeout=_TIMEOUT_SECONDS, env=environment
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise UnavailableError(
            f"the machine's peaks need a process that ends well, but it ended with {error.returncode}:"
            f" {''.join(said) or 'nothing was said'}. Is there memory for two arrays and a matrix?"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            f"the machine's peaks must be measured within {_TIMEOUT_SECONDS} s, but were not. Is something"
            " else running?"
        ) from error
    # The last line: a library may have printed before it.
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=Peaks)


def last_cache_multiple() -> int:
    """Four times the last cache in bytes, as STREAM's rules ask, and 64 MiB at least.

    At most a sixteenth of the memory. J. McCalpin, "Memory bandwidth and machine balance in current high
    performance computers", 1995.
    """
    caches = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
        if text[:-1].isdigit() and text[-1] in units:
            caches.append(int(text[:-1]) * units[text[-1]])
    wanted = max(_CACHES_PER_ARRAY * max(caches), _SMALLEST_ARRAY_BYTES)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(wanted, memory // _LARGEST_SHARE_OF_MEMORY)


def peaks_of_this_process(
    threads: int, matrix_sides: Sequence[int], array_bytes: int, seconds: float
) -> Peaks:
    """Measure here: NumPy's BLAS has the threads that its environment gave it when it loaded."""
    fp32 = [_numpy_product(side, seconds) for side in matrix_sides]
    int8 = []
    if "onnxruntime" in runtimes.installed() and has_onnx():
        for side in matrix_sides:
            fp32.append(_onnxruntime_product("MatMul", side, threads, seconds))
            int8.append(_onnxruntime_product("MatMulInteger", side, threads, seconds))
    return Peaks(
        threads=threads,
        fp32_flop_per_s=max(fp32, key=_best),
        int8_op_per_s=max(int8, key=_best) if int8 else None,
        memory_bytes_per_s=_copy(array_bytes, threads, seconds),
    )


def _numpy_product(side: int, seconds: float) -> Rate:
    a, b = _factors(side, np.float32), _factors(side, np.float32)
    out = np.empty_like(a)
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    how = f"NumPy {np.__version__} ({blas}) matmul {side}x{side}"
    return _rate(lambda: np.matmul(a, b, out=out), 2 * side**3, seconds, how)


def _onnxruntime_product(op_type: str, side: int, threads: int, seconds: float) -> Rate:
    """MatMul of float32, or MatMulInteger of uint8 by int8 (what quantised activations and weights are)."""
    from onnx import TensorProto, helper, numpy_helper

    ort = import_onnxruntime()
    integer = op_type == "MatMulInteger"
    types = (
        (TensorProto.UINT8, TensorProto.INT32)
        if integer
        else (TensorProto.FLOAT, TensorProto.FLOAT)
    )
    # A constant second factor, as weights are: the library may arrange it beforehand.
    weights = numpy_helper.from_array(_factors(side, np.int8 if integer else np.float32), "b")
    graph = helper.make_graph(
        [helper.make_node(op_type, ["a", "b"], ["c"])],
        "peak",
        [helper.make_tensor_value_info("a", types[0], [side, side])],
        [helper.make_tensor_value_info("c", types[1], [side, side])],
        [weights],
    )
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session: Any = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = {"a": _factors(side, np.uint8 if integer else np.float32)}
    how = f"ONNX Runtime {ort.__version__} {op_type} {side}x{side}"
    return _rate(lambda: session.run(None, inputs), 2 * side**3, seconds, how)


def _copy(array_bytes: int, threads: int, seconds: float) -> Rate:
    """STREAM's copy: each thread its part. What a cache fetches only to overwrite it does not count."""
    source = np.ones(max(array_bytes // 8, threads), np.float64)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    how = f"copy of {source.nbytes / 2**20:.0f} MiB"
    with ThreadPoolExecutor(threads) as pool:  # NumPy copies without the interpreter's lock

        def run() -> None:
            if threads == 1:
                np.copyto(*parts[0])
            else:
                list(pool.map(lambda part: np.copyto(*part), parts))

        return _rate(run, 2 * source.nbytes, seconds, how)


def _rate(run: Callable[[], object], amount: float, seconds: float, how: str) -> Rate:
    """Repeat for `seconds`, and 5 times at least; a first run, which touches the memory, is not counted."""
    run()
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while len(rates) < _MIN_REPEATS or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        rates.append(amount / (time.perf_counter() - started))
    return Rate(
        best=max(rates),
        median=statistics.median(rates),
        worst=min(rates),
        repeats=len(rates),
        how=how,
    )


def _best(rate: Rate) -> float:
    return rate.best


def _factors(side: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Numbers of full mantissa, or from 0 to 100: some processors are faster on zeros."""
    values = np.random.default_rng(0).random((side, side), np.float32)
    return values if dtype == np.float32 else (100 * values).astype(dtype)


def main(arguments: Sequence[str]) -> None:
    """Measure and print; what fails ends with a traceback, for the parent to note."""
    threads, sides, array_bytes, seconds = arguments
    matrix_sides = [int(side) for side in sides.split(",")]
    found = peaks_of_this_process(int(threads), matrix_sides, int(array_bytes), float(seconds))
    print(msgspec.json.encode(found).decode())


if __name__ == "__main__":
    main(sys.argv[1:])
