"""Depth for the eye: near bright, far dark."""

from __future__ import annotations

import numpy as np

from depthmask.frames import FloatArray


def nearness(depth_HW: FloatArray, near: float, far: float) -> FloatArray:
    """1 at `near` and nearer, 0 at `far` and farther, evenly in the logarithm; NaN stays NaN."""
    steps = max(float(np.log(far / near)), 1e-6)
    share_HW = np.log(np.maximum(depth_HW, 1e-6 * near) / near) / steps
    return np.asarray(np.clip(1 - share_HW, 0, 1), np.float32)
