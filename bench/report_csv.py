"""A benchmark as CSV: a row per cell, every single value, with its unit in the column's name.

What there is not is empty, never NaN. Lists (samples, turns) are in the JSON only. The columns are the
same for every benchmark, but for the parts of a call and the rates of arrivals, which are as measured.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from depthmask.accuracy import AccuracyResult, DepthAccuracy
from depthmask.bench.latency import LatencyResult
from depthmask.bench.machine import PACKAGES, Machine
from depthmask.bench.open_loop import OpenLoopResult
from depthmask.bench.recordings import PERCENTILES, Intervals, percentile_intervals
from depthmask.bench.result import Agreement, BenchResult, Cell
from depthmask.flicker import FlickerResult
from depthmask.metrics import DepthMetrics, MaskMetrics

_SINGLE = (str, int, float, bool, NoneType)
_LENGTHS = {"mse": "mse_{}2", "rmse": "rmse_{}", "mae": "mae_{}"}
"""Of a depth: its metrics that have a unit."""

Values = dict[str, Any]


def report_csv(result: BenchResult) -> str:
    """The whole file, with a heading."""
    rows = [
        _of_result(result) | _of_cell(result, cell, intervals)
        for cell, intervals in zip(result.cells, percentile_intervals(result), strict=True)
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    written = io.StringIO()
    writer = csv.DictWriter(written, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()


def _of_result(result: BenchResult) -> Values:
    machine = _single("machine_", Machine, result.machine)
    versions = dict.fromkeys(PACKAGES) | result.machine.packages
    machine |= {f"{name.replace('-', '_')}_version": text for name, text in versions.items()}
    values = _single("", BenchResult, result) | {"complete": result.complete}
    return values | {"frame_sizes_px": " ".join(result.frame_sizes)} | machine


def _of_cell(result: BenchResult, cell: Cell, intervals: Intervals) -> Values:
    latency, accuracy = cell.latency, cell.accuracy
    values = _single("", Cell, cell) | _single("latency_", LatencyResult, latency)
    for share in PERCENTILES:
        interval = intervals.get(share)
        values[f"latency_p{100 * share:g}_lower_ms"] = interval and interval.lower
        values[f"latency_p{100 * share:g}_upper_ms"] = interval and interval.upper
    stages = dict.fromkeys(
        name for one in result.cells if one.latency for name in one.latency.stage_p50_ms
    )
    for name in stages:
        values[f"latency_{name}_p50_ms"] = latency and latency.stage_p50_ms.get(name)
    values["latency_spoilt_by"] = latency and "; ".join(latency.spoilt_by)
    values |= _of_accuracy(accuracy)
    values |= _single("agreement_", Agreement, cell.agreement)
    values |= _single("flicker_", FlickerResult, cell.flicker)
    measured = {one.arrivals_per_s: one for one in cell.load}
    for rate in result.arrivals_per_s:
        values |= _single(f"at_{rate:g}_per_s_", OpenLoopResult, measured.get(rate))
    return values


def _of_accuracy(accuracy: AccuracyResult | None) -> Values:
    values = _single("accuracy_", AccuracyResult, accuracy)
    parts: dict[str, tuple[type, Any]] = {"mask": (MaskMetrics, accuracy and accuracy.mask)}
    for region in ("depth_in_mask", "depth_frame"):
        depth: DepthAccuracy | None = getattr(accuracy, region, None)
        for form in ("unaligned", "median_scaled"):
            parts[f"{region}.{form}"] = (DepthMetrics, getattr(depth, form, None))
    for part, (kind, metrics) in parts.items():
        unit = "m" if part.endswith("unaligned") else "data_unit"
        for name, value in _single("", kind, metrics).items():
            column = f"{part.replace('.', '_')}_{name}"
            if part != "mask" and name in _LENGTHS:
                column = f"{part.replace('.', '_')}_{_LENGTHS[name].format(unit)}"
            values[column] = value
            if name != "pixels":
                interval = accuracy.intervals.get(f"{part}.{name}") if accuracy else None
                values[f"{column}_lower"], values[f"{column}_upper"] = interval or (None, None)
    return values


def _single(prefix: str, kind: type, value: object) -> Values:
    """The fields of a struct or dataclass that hold one value each; empty where there is no struct."""
    fields = (
        [field.name for field in dataclasses.fields(kind)]
        if dataclasses.is_dataclass(kind)
        else [field.name for field in msgspec.structs.fields(kind)]
    )
    hints = get_type_hints(kind)
    return {prefix + name: getattr(value, name, None) for name in fields if _is_single(hints[name])}


def _is_single(hint: Any) -> bool:  # noqa: ANN401  (a type, or what looks like one)
    if get_origin(hint) in (Union, UnionType):
        return all(map(_is_single, get_args(hint)))
    return hint in _SINGLE or get_origin(hint) is Literal
