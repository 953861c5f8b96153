"""Which depths the ends of a colour scale stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from depthmask.presets import Kind

if TYPE_CHECKING:
    from depthmask.frames import FloatArray
    from depthmask.pipeline import Prediction

_PERCENTILES = (2.0, 98.0)
_MOST_SAMPLES = 65536


@dataclass(frozen=True)
class DepthRange:
    """The depths that the ends of the colour scale stand for, in the bundle's unit; near < far."""

    near: float
    far: float

    def __post_init__(self) -> None:
        if not self.near < self.far:
            raise ValueError(f"near must be less than far, but got {self.near} and {self.far}")

    @classmethod
    def of(cls, prediction: Prediction, kind: Kind) -> DepthRange | None:
        """The middle 96 % of a frame's depths; of a foreground chain, of those in the mask.

        None where there is nothing to measure: an empty mask.
        """
        values = counted_depths(prediction, kind)
        if not values.size:
            return None
        near, far = (float(value) for value in np.percentile(values, _PERCENTILES))
        # A flat surface would otherwise show its noise in full contrast.
        margin = max(0.0, 0.05 * max(abs(near), abs(far), 1e-3) - (far - near)) / 2
        return cls(near - margin, far + margin)

    def moved_towards(self, other: DepthRange, share: float) -> DepthRange:
        """The range with each end moved by a share (0 to 1) of its way to the other's."""
        return DepthRange(
            self.near + share * (other.near - self.near), self.far + share * (other.far - self.far)
        )


def counted_depths(prediction: Prediction, kind: Kind) -> FloatArray:
    """The finite depths that count, flat: of a foreground chain those in the mask, else all.

    Of a large frame every second (third, ...) row and column, so that there are some 65,000 at most.
    """
    depth_HW, mask_HW = prediction.depth_HW, prediction.mask_HW
    step = max(1, int(np.sqrt(depth_HW.size / _MOST_SAMPLES)))
    values = depth_HW[::step, ::step]
    counted = np.isfinite(values)
    if kind == "foreground":
        counted &= mask_HW[::step, ::step] >= 0.5
    return values[counted]


def next_range(
    previous: DepthRange | None, prediction: Prediction, kind: Kind, share: float = 1.0
) -> DepthRange:
    """The range for a frame, given the one before it.

    A share of 1 takes each frame's own range (photographs); a small one holds a video's colours steady.
    """
    measured = DepthRange.of(prediction, kind)
    if measured is None:
        return previous or DepthRange.of(prediction, "relevance") or DepthRange(0.0, 1.0)
    return previous.moved_towards(measured, share) if previous else measured
