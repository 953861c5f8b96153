"""What a camera's frame shows of a photograph: aspects, and random crops of them."""

from __future__ import annotations

import numpy as np

from depthmask.frames import UInt8Array

ASPECTS = (3 / 4, 1.0, 4 / 3, 3 / 2, 16 / 9)
"""Width / height; a frame of each is stretched to the square canvas, as at inference."""


def crop_of_aspect(
    source_HW3: UInt8Array, aspect: float, smallest: float, rng: np.random.Generator
) -> UInt8Array:
    """A part of that aspect, of at least a pixel: `smallest` to 1 of the largest that fits."""
    height, width = source_HW3.shape[:2]
    crop_height = min(height, width / aspect) * rng.uniform(smallest, 1.0)
    crop_width = crop_height * aspect
    top = int(rng.uniform(0, height - crop_height + 1e-6))
    left = int(rng.uniform(0, width - crop_width + 1e-6))
    rows = slice(top, top + max(1, round(crop_height)))
    return source_HW3[rows, left : left + max(1, round(crop_width))]
