"""Contact sheets: the first samples of a data set or a recipe, image, mask and depth side by side."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from depthmask.errors import InputError
from depthmask.frames import FloatArray, UInt8Array
from depthmask.output_files import write_output
from depthmask.samples import DepthUnit, open_samples
from depthmask.train.compose import compose
from depthmask.train.encoding import depth_unit, encode_png
from depthmask.train.material import Assets
from depthmask.train.nearness import nearness
from depthmask.train.recipe import Recipe, count_of

if TYPE_CHECKING:
    from depthmask.train.teacher import Teachers

COLUMNS, ROWS = 4, 6


class Shown(Protocol):
    """A sample of a data set or of a recipe."""

    @property
    def image_HW3(self) -> UInt8Array:
        """RGB."""

    @property
    def mask_HW(self) -> UInt8Array | None:
        """255 = foreground."""

    @property
    def depth_m_HW(self) -> FloatArray | None:
        """NaN = missing."""


def contact_sheet(
    samples: Iterable[Shown], unit: DepthUnit = "m", columns: int = COLUMNS, rows: int = ROWS
) -> UInt8Array:
    """The first samples side by side: image, mask, depth; (H,W,3) uint8 RGB.

    Depth is shown near bright, far dark, on one logarithmic scale (relative depth on a scale of its
    image); what is not known is black.

    Raises:
        InputError: there is none, or one is damaged.

    """
    cells = [_cell(sample, unit) for sample in itertools.islice(samples, columns * rows)]
    if not cells:
        raise InputError("a contact sheet must have a sample, but got none")
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    sheet_rows = -(-len(cells) // columns)
    sheet_HW3 = np.full((sheet_rows * height, min(columns, len(cells)) * width, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        top, left = number // columns * height, number % columns * width
        sheet_HW3[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet_HW3


def sheet_of_data(folder: Path, columns: int = COLUMNS, rows: int = ROWS) -> UInt8Array:
    """The first samples of a data set, which may be unfinished.

    Raises:
        InputError: the folder has no labelled samples, or one is damaged.

    """
    samples = open_samples(folder, unfinished=True)
    if not samples.labelled:
        raise InputError(
            f"{folder} must hold labelled samples, but got none. Try `dmx data compose"
            f" --out {folder}`"
        )
    return contact_sheet(samples, samples.depth_unit, columns, rows)


def sheet_of_recipe(recipe: Recipe, assets: Assets, teachers: Teachers | None = None) -> UInt8Array:
    """Samples of a recipe: the first, or, of a grid, some spread evenly over all.

    Raises:
        UsageError: a teacher is missing.
        InputError: the assets are too few.
        UnavailableError: a package that renders is missing.

    """
    count = COLUMNS * ROWS
    end = count_of(recipe)
    indices = np.linspace(0, end - 1, min(count, end)).astype(int) if end else range(count)
    samples = (compose(recipe, assets, int(index), teachers) for index in indices)
    return contact_sheet(samples, depth_unit(recipe))


def write_sheet(sheet_HW3: UInt8Array, out: Path) -> None:
    """Write a sheet as a PNG file, replacing what is there.

    Raises:
        OutputError: it cannot be written.

    """
    write_output(out, encode_png(sheet_HW3))


def _cell(sample: Shown, unit: DepthUnit) -> UInt8Array:
    unknown_HW = np.zeros(sample.image_HW3.shape[:2], np.uint8)
    mask_HW = unknown_HW if sample.mask_HW is None else sample.mask_HW
    shown_HW = unknown_HW if sample.depth_m_HW is None else _shown(sample.depth_m_HW, unit)
    labels_2HW3 = [np.repeat(map_HW[:, :, None], 3, axis=2) for map_HW in (mask_HW, shown_HW)]
    return np.hstack([sample.image_HW3, *labels_2HW3])


def _shown(depth_HW: FloatArray, unit: DepthUnit) -> UInt8Array:
    """The nearest is 255; the farthest and what is missing are 0."""
    known = depth_HW[np.isfinite(depth_HW)]
    near, far = 0.5, 20.0
    if unit == "relative" and known.size:
        near, far = (float(bound) for bound in np.percentile(known, (1, 99)))
    return np.asarray(255 * np.nan_to_num(nearness(depth_HW, near, far)), np.uint8)
