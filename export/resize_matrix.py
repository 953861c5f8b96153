"""Linear interpolation along one axis as a matrix, exactly as ONNX's Resize defines it.

Source: ONNX operator specification, Resize, mode `linear`, not antialiased: the output position i is at
x(i) in the input; its value is between the two neighbours of x(i), and beyond the border it is the border's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from depthmask.errors import UsageError

Matrix = npt.NDArray[np.float64]

# From the output's position to the input's, by coordinate_transformation_mode.
_POSITIONS: dict[str, Callable[[Matrix, int, int, float], Matrix]] = {
    "half_pixel": lambda i, size_in, size_out, scale: (i + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda i, size_in, size_out, scale: (
        (i + 0.5) / scale - 0.5 if size_out > 1 else 0 * i
    ),
    "align_corners": lambda i, size_in, size_out, scale: (
        i * (size_in - 1) / (size_out - 1) if size_out > 1 else 0 * i
    ),
    "asymmetric": lambda i, size_in, size_out, scale: i / scale,
}
TRANSFORMATIONS = tuple(_POSITIONS)


def resize_matrix(
    size_in: int, size_out: int, transformation: str, scale: float | None = None
) -> Matrix:
    """U (size_out,size_in) with U x = the resized x; every row is at most two weights that add up to 1.

    `scale` is output over input; by default that of the sizes.

    Raises:
        UsageError: an unknown coordinate transformation, or a size below 1.
    """
    if transformation not in _POSITIONS or size_in < 1 or size_out < 1:
        raise UsageError(
            f"a resize must be one of {', '.join(TRANSFORMATIONS)} with sizes of 1 or more, but got"
            f" {transformation} from {size_in} to {size_out}"
        )
    rows = np.arange(size_out)
    positions = _POSITIONS[transformation](
        rows.astype(np.float64), size_in, size_out, scale or size_out / size_in
    )
    positions = np.clip(positions, 0, size_in - 1)
    lower = np.minimum(np.floor(positions).astype(np.int64), size_in - 1)
    upper = np.minimum(lower + 1, size_in - 1)
    matrix: Matrix = np.zeros((size_out, size_in))
    np.add.at(matrix, (rows, lower), 1 - (positions - lower))
    np.add.at(matrix, (rows, upper), positions - lower)
    return matrix


def shifted(matrix: Matrix, offset: int) -> Matrix:
    """S_d M: row i is row i + d of M, or zeros beyond its ends (a convolution's zero padding)."""
    result: Matrix = np.zeros_like(matrix)
    size = len(matrix)
    first, last = max(0, -offset), min(size, size - offset)
    if first < last:
        result[first:last] = matrix[first + offset : last + offset]
    return result
