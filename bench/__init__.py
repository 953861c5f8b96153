"""Latency and accuracy, measured on this machine and recorded with it."""

from depthmask.bench.compare import Comparison, compare
from depthmask.bench.grid import run_grid
from depthmask.bench.latency import LatencyResult, measure
from depthmask.bench.result import BenchResult, Cell, read_result, write_result

__all__ = [
    "BenchResult",
    "Cell",
    "Comparison",
    "LatencyResult",
    "compare",
    "measure",
    "read_result",
    "run_grid",
    "write_result",
]
