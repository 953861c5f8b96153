"""The range of every tensor that int8 rounds, from real images.

Three calibrators. `minmax`: the largest magnitude seen. `percentile`: the magnitude that 99.99 % of the
values do not exceed. `entropy`: the range whose rounded histogram loses least against the true one
(Kullback-Leibler; Migacz, "8-bit inference with TensorRT", GTC 2017). Where the values seen end before that
magnitude, on one side, so does the range.

A chain is calibrated in two passes: first the mask network, then the depth network behind the mask network
in int8, so on images masked as the bundle will mask them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from depthmask.errors import InputError
from depthmask.export.quantise import INT8_LARGEST, Range, input_tensors, quantise, sites
from depthmask.export.sessions import GraphSession
from depthmask.export.unsigned import held_tensors
from depthmask.runtimes import Tensors

Calibrator = Literal["minmax", "percentile", "entropy"]
CALIBRATORS: tuple[Calibrator, ...] = get_args(Calibrator)
LEAST_IMAGES = 4
_PERCENTILE = 99.99
_BINS = 2048
# Of the tensors of one image that are held at a time; a large network is run several times instead.
_HELD_BYTES = 256 * 2**20

Histogram = npt.NDArray[np.int64]
"""Counts of magnitudes, in `_BINS` even bins from 0 to the largest."""


def calibrate(
    model: ir.Model, batches: Sequence[Tensors], calibrator: Calibrator = "percentile"
) -> dict[str, Range]:
    """The range of each tensor that `quantise` or `quantise_unsigned` rounds, by name.

    Args:
        model: the chain's float32 graph.
        batches: its inputs, one image each.
        calibrator: how the range follows from the values.

    Raises:
        InputError: there are fewer than `LEAST_IMAGES` images, or a tensor is not finite.
    """
    if len(batches) < LEAST_IMAGES:
        raise InputError(
            f"the calibration data must hold {LEAST_IMAGES} images or more, but got {len(batches)}."
            " Try --calibration with a folder of photographs"
        )
    ranges = _ranges(model, _tensors(model, "mask"), batches, calibrator)
    deployed = quantise(model, ranges, keep_fp32=frozenset(sites(model, "depth")))
    depth_tensors = [name for name in _tensors(model, "depth") if name not in ranges]
    return ranges | _ranges(deployed, depth_tensors, batches, calibrator)


def _tensors(model: ir.Model, stage: str) -> list[str]:
    """What either spelling rounds in a stage."""
    return list(dict.fromkeys((*input_tensors(model, stage), *held_tensors(model, stage))))


def _ranges(
    model: ir.Model, tensors: Sequence[str], batches: Sequence[Tensors], calibrator: Calibrator
) -> dict[str, Range]:
    found: dict[str, Range] = {}
    for group in _groups(model, tensors):
        session = _session_giving(model, group)
        seen = dict.fromkeys(group, Range(0.0, 0.0))
        for inputs in batches:
            for name, values in zip(group, session.run(list(group), inputs), strict=True):
                seen[name] = _widened(seen[name], name, values)
        if calibrator == "minmax":
            found |= seen
            continue
        largest = {name: span.magnitude for name, span in seen.items()}
        counts = {name: np.zeros(_BINS, np.int64) for name in group}
        for inputs in batches:
            for name, values in zip(group, session.run(list(group), inputs), strict=True):
                counts[name] += histogram(values, largest[name])
        choose = percentile_range if calibrator == "percentile" else entropy_range
        for name, span in seen.items():
            kept = choose(counts[name], largest[name])
            found[name] = Range(max(span.low, -kept), min(span.high, kept))
    return found


def histogram(values: npt.NDArray[Any], largest: float) -> Histogram:
    """Magnitudes in `_BINS` bins up to the largest; zeros are left out, since every scale holds them."""
    magnitudes = np.abs(values[values != 0])
    if largest <= 0:
        return np.zeros(_BINS, np.int64)
    bins = np.minimum(magnitudes * (_BINS / largest), _BINS - 1).astype(np.int32)
    return np.bincount(bins, minlength=_BINS)


def percentile_range(counts: Histogram, largest: float) -> float:
    """The magnitude that 99.99 % of the values do not exceed."""
    if not counts.any():
        return largest
    reached = np.searchsorted(np.cumsum(counts), counts.sum() * _PERCENTILE / 100)
    return largest * min(int(reached) + 1, _BINS) / _BINS


def entropy_range(counts: Histogram, largest: float) -> float:
    """The range at which rounding to int8 loses the least information."""
    if not counts.any():
        return largest
    ends = range(INT8_LARGEST + 1, _BINS + 1, 8)
    divergences = [_divergence(counts, end) for end in ends]
    return largest * ends[int(np.argmin(divergences))] / _BINS


def _divergence(counts: Histogram, end: int) -> float:
    """Of the histogram cut at bin `end`, in nats, from what int8 makes of it."""
    true = counts[:end].astype(np.float64)
    held = true > 0
    step = np.arange(end) * (INT8_LARGEST + 1) // end
    totals = np.bincount(step, true)
    filled = np.bincount(step, held)
    rounded = np.where(held, (totals / np.maximum(filled, 1))[step], 0)
    true[-1] += counts[end:].sum()  # what is cut off is rounded to the largest step
    p, q = true / true.sum(), rounded / max(rounded.sum(), 1)
    both = p > 0
    # The last bin may hold only what was cut off: then nothing of it is in the rounded histogram.
    return float(np.sum(p[both] * np.log(p[both] / np.maximum(q[both], 1e-9))))


def _widened(span: Range, name: str, values: npt.NDArray[Any]) -> Range:
    """The range with these values in it."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not np.isfinite(low) or not np.isfinite(high):
        raise InputError(
            f"every tensor must be finite on the calibration data, but {name} holds NaN or infinity."
            " Check the weights"
        )
    return Range(min(span.low, low), max(span.high, high))


def _groups(model: ir.Model, tensors: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Tensors that fit into memory together."""
    values = _values(model)
    group: list[str] = []
    held = 0
    for name in tensors:
        size = _bytes(values[name])
        if group and held + size > _HELD_BYTES:
            yield tuple(group)
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield tuple(group)


def _bytes(value: ir.Value) -> int:
    """Of one image; a side that is open counts as 1."""
    sides = value.shape or ()
    return 4 * int(np.prod([side if isinstance(side, int) else 1 for side in sides], dtype=int))


def _session_giving(model: ir.Model, tensors: Sequence[str]) -> GraphSession:
    probed = model.clone()
    values = _values(probed)
    already = {output.name for output in probed.graph.outputs}
    probed.graph.outputs.extend(values[name] for name in tensors if name not in already)
    return GraphSession(probed)


def _values(model: ir.Model) -> dict[str, ir.Value]:
    graph = model.graph
    made = (value for node in graph for value in node.outputs)
    return {value.name or "": value for value in (*graph.inputs, *made)}
