"""What the difference between a right and a wrong tensor looks like, and what to try."""

from __future__ import annotations

import numpy as np

from depthmask.export.pieces import Finding
from depthmask.export.precision import FP16_LARGEST

_FIT = 1e-3
"""How well a pattern must explain the wrong values, as a share of their spread."""


def advise(finding: Finding, precision: str) -> str:
    """One sentence or two for people.

    Args:
        finding: arrays of any shape; (N,C,H,W) shows most.
        precision: of the graph.
    """
    expected, found = finding.expected, finding.found
    if found is None:
        return f"{finding.op_type} cannot run: {finding.problem}. Check its attributes and input shapes"
    if found.shape != expected.shape:
        return (
            f"its shape is {found.shape}, not {expected.shape}: check the pads, strides and sizes of"
            f" {finding.op_type}"
        )
    if not np.isfinite(found).all():
        return _not_finite(expected, found, precision)
    if not finding.local:
        return _adds_up(precision)
    pattern = _channels(expected, found) or _scaled(expected, found) or _border(expected, found)
    if pattern:
        return pattern
    if precision == "fp16":
        return "float16 is too coarse here. Try --fp32 for the chain, or keep this node in float32"
    if precision == "int8":
        return _int8(expected, found)
    return (
        f"no simple pattern: check the weights and attributes (pads, strides) of {finding.op_type}"
    )


def _not_finite(expected: np.ndarray, found: np.ndarray, precision: str) -> str:
    share = 1 - float(np.isfinite(found).mean())
    largest = float(np.abs(expected).max())
    said = f"{share:.1%} of its values are NaN or infinity"
    if precision != "fp32" and largest > FP16_LARGEST / 2:
        return (
            f"{said}: its values reach {largest:.3g}, and float16 overflows at {FP16_LARGEST:.0f}. Export in"
            " fp32, or scale the weights of the layers before"
        )
    return f"{said}: look for NaN in the node's weights, a division by zero, or a root or logarithm of less"


def _adds_up(precision: str) -> str:
    said = "every node is right on right inputs, but their small errors add up to here"
    return said if precision == "fp32" else f"{said}. {precision} is too coarse: export in fp32"


def _channels(expected: np.ndarray, found: np.ndarray) -> str:
    """Channels that changed places, or a few that are wrong alone."""
    if expected.ndim != 4 or expected.shape[1] < 2:
        return ""
    spread = max(float(np.ptp(expected)), 1e-30)
    errors_C = np.abs(found - expected).max(axis=(0, 2, 3)) / spread
    wrong = np.flatnonzero(errors_C > _FIT)
    if not 0 < len(wrong) <= 16 or len(wrong) == expected.shape[1] > 2:
        return ""
    apart = found[:, wrong, None] - expected[:, None, wrong]  # a bias of its own does not matter
    alike = np.ptp(apart, axis=(0, 3, 4)) <= _FIT * spread
    takes = alike.any(1) & ~alike.diagonal()
    if takes.all():
        return f"channels {_list(wrong)} changed places: check the order of the weights"
    inner = _scaled(expected[:, wrong], found[:, wrong])
    which = f"only channel{'s' * (len(wrong) > 1)} {_list(wrong)} of {expected.shape[1]}"
    return f"{which}: {inner or 'check their weights'}"


def _scaled(expected: np.ndarray, found: np.ndarray) -> str:
    """Whether found = scale * expected + shift, the shift each channel's own (a bias stays as it is)."""
    channels = expected.shape[1] if expected.ndim == 4 else 1
    x = np.moveaxis(np.atleast_2d(expected), 1, 0).reshape(channels, -1).astype(np.float64)
    y = np.moveaxis(np.atleast_2d(found), 1, 0).reshape(channels, -1).astype(np.float64)
    centred_x, centred_y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    power = float((centred_x**2).sum())
    scale = float((centred_x * centred_y).sum()) / power if power > 0 else 1.0
    if np.abs(scale * centred_x - centred_y).max() > _FIT * max(float(np.ptp(y)), 1e-30):
        return ""
    if abs(scale - 1) > _FIT:
        return (
            f"its values are {scale:.4g} times what they should be: check the weights, or a scale"
        )
    shift = float(np.abs(y - x).max())
    return f"its values are shifted by {shift:.3g}: check the bias, a mean, or a zero point"


def _border(expected: np.ndarray, found: np.ndarray) -> str:
    if expected.ndim != 4 or min(expected.shape[2:]) < 8:
        return ""
    wrong = np.abs(found - expected) > _FIT * max(float(np.ptp(expected)), 1e-30)
    inside = wrong[:, :, 3:-3, 3:-3]
    return "" if inside.any() else "only the border is wrong: check the pads"


def _int8(expected: np.ndarray, found: np.ndarray) -> str:
    if found.max() < expected.max() - 0.05 * np.ptp(expected):
        return (
            "large values are cut off: its calibrated range is too small. Calibrate on more pictures, or keep"
            " this node in float32"
        )
    return "8 bits are too coarse here: keep this node in float32, or its weights per channel"


def _list(numbers: np.ndarray) -> str:
    return ", ".join(map(str, numbers[:4])) + (", ..." if len(numbers) > 4 else "")
