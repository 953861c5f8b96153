"""A data set as files: NAME.jpg, NAME.mask.png, NAME.depth.png and dataset.json in a folder.

Sample i is a pure function, so the folder itself is all the state there is: the samples whose image
is there are done. Each file appears whole or not at all, and an image after its mask and depth.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from depthmask.atomic import check_target, new_folder, write_file
from depthmask.errors import InputError, OutputError, UsageError
from depthmask.frames import FloatArray
from depthmask.samples import DATASET_FILE, DatasetInfo, LabelledSample, open_samples
from depthmask.train.compose import Assets, Sample, compose
from depthmask.train.recipe import StageRecipe

DEPTH_SCALE_M = 0.001
JPEG_QUALITY = 92

Progress = Callable[[int, int], None]
"""Called with the samples done and of how many."""


class ComposedInfo(DatasetInfo, frozen=True, kw_only=True):
    """Our dataset.json; written first, so that an unfinished folder knows what it is."""

    recipe: StageRecipe
    assets_sha256: str
    """Of the decoded pictures: resuming with others would mix two data sets."""


@dataclass(frozen=True)
class MaterialiseResult:
    """What `materialise` did: `made` samples now, `count` are there in all."""

    out: Path
    count: int
    made: int


def materialise(
    recipe: StageRecipe,
    assets: Assets,
    out: Path,
    count: int,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MaterialiseResult:
    """Write samples 0 to `count` - 1 of a recipe, or go on where an earlier call was stopped.

    The bytes do not depend on how often it was. Images are (canvas_px, canvas_px) JPEG, masks 8 bit
    (255 is foreground), depths 16 bit in millimetres (0 would be missing; composites have none).

    Raises:
        UsageError: `out` holds another data set or anything else and `overwrite` is off; or `count`
            is below 1.
        InputError: `out` holds a damaged dataset.json.
        OutputError: `out` cannot be written.

    """
    if count < 1:
        raise UsageError(f"a data set must have 1 sample or more, but got {count}. Try --limit 100")
    wanted = ComposedInfo(
        count=count,
        depth_scale_m=DEPTH_SCALE_M,
        recipe=recipe,
        assets_sha256=assets_digest(assets),
    )
    _open_folder(out, wanted, overwrite=overwrite)
    report = progress or (lambda done, total: None)
    made = 0
    try:
        for index in range(count):
            if not (out / f"{sample_name(index)}.jpg").exists():
                _write_sample(out, sample_name(index), compose(recipe, assets, index))
                made += 1
            report(index + 1, count)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from error
    return MaterialiseResult(out, count, made)


def sample_name(index: int) -> str:
    """The files of sample `index` begin with this."""
    return f"{index:06d}"


def assets_digest(assets: Assets) -> str:
    """One sha256 over all decoded pictures, in their order."""
    digest = hashlib.sha256()
    cutouts = [cutout.premultiplied_HW4 for cutout in assets.foregrounds]
    for picture in itertools.chain(cutouts, assets.backgrounds):
        digest.update(repr(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


def contact_sheet(folder: Path, columns: int = 4, rows: int = 6) -> npt.NDArray[np.uint8]:
    """The first samples of a data set side by side: image, mask, depth; (H,W,3) uint8 RGB.

    Depth is shown near bright, far dark, on one logarithmic scale; what is not known is black. The
    data set may be unfinished.

    Raises:
        InputError: the folder has no labelled samples, or one is damaged.

    """
    samples = open_samples(folder, unfinished=True)
    if not samples.labelled:
        raise InputError(
            f"{folder} must hold labelled samples, but got none. Try `dmx data compose"
            f" --out {folder}`"
        )
    cells = [_cell(sample) for sample in itertools.islice(samples, columns * rows)]
    height, width = (max(cell.shape[axis] for cell in cells) for axis in (0, 1))
    sheet_rows = -(-len(cells) // columns)
    sheet_HW3 = np.full((sheet_rows * height, min(columns, len(cells)) * width, 3), 255, np.uint8)
    for number, cell in enumerate(cells):
        top, left = number // columns * height, number % columns * width
        sheet_HW3[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet_HW3


def write_contact_sheet(folder: Path, out: Path) -> None:
    """Write `contact_sheet` as a PNG file, replacing what is there.

    Raises:
        InputError: as `contact_sheet`.
        OutputError: it cannot be written.

    """
    content = _encode(".png", np.ascontiguousarray(contact_sheet(folder)[:, :, ::-1]))
    try:
        write_file(out, content)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from error


def _open_folder(out: Path, wanted: ComposedInfo, *, overwrite: bool) -> None:
    """Leave `out` with `wanted` in it: new, or the same as before with what it has got."""
    if out.is_dir() and not overwrite and (out / DATASET_FILE).exists():
        _check_same(_read_info(out / DATASET_FILE), wanted, out)
        for leftover in out.glob(".[0-9]*"):  # of a write that was killed
            leftover.unlink(missing_ok=True)
        return
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise UsageError(
            f"{out} must be a new folder or an unfinished data set, but it has files and no"
            f" {DATASET_FILE}. Try --overwrite or another --out"
        )
    replaces = out.is_dir()  # an empty one, or --overwrite
    check_target(out, overwrite=replaces)
    with new_folder(out, overwrite=replaces) as temporary:
        document = msgspec.json.format(msgspec.json.encode(wanted), indent=2)
        (temporary / DATASET_FILE).write_bytes(document + b"\n")


def _read_info(path: Path) -> ComposedInfo:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ComposedInfo)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path} must describe a data set of `dmx data compose`, but got: {error}. Try"
            " --overwrite"
        ) from error


def _check_same(found: ComposedInfo, wanted: ComposedInfo, out: Path) -> None:
    differing = [
        name for name in wanted.__struct_fields__ if getattr(found, name) != getattr(wanted, name)
    ]
    if differing:
        shown = ", ".join("assets" if name == "assets_sha256" else name for name in differing)
        raise UsageError(
            f"{out} must be a new folder or hold the same data set, but it holds one of another"
            f" {shown}. Try --overwrite or another --out"
        )


def _write_sample(out: Path, name: str, sample: Sample) -> None:
    depth_mm_HW = np.clip(np.rint(sample.depth_m_HW / DEPTH_SCALE_M), 1, 65535).astype(np.uint16)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    bgr_HW3 = np.ascontiguousarray(sample.image_HW3[:, :, ::-1])
    write_file(out / f"{name}.mask.png", _encode(".png", sample.mask_HW))
    write_file(out / f"{name}.depth.png", _encode(".png", depth_mm_HW))
    write_file(out / f"{name}.jpg", _encode(".jpg", bgr_HW3, quality))


def _encode(
    suffix: str,
    image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    options: list[int] | None = None,
) -> bytes:
    return cv2.imencode(suffix, image, options or [])[1].tobytes()


def _cell(sample: LabelledSample) -> npt.NDArray[np.uint8]:
    """Image, mask and depth of one sample side by side."""
    unknown_HW = np.zeros(sample.image_HW3.shape[:2], np.uint8)
    mask_HW = unknown_HW if sample.mask_HW is None else sample.mask_HW
    shown_HW = unknown_HW if sample.depth_m_HW is None else _nearness(sample.depth_m_HW)
    labels_2HW3 = [np.repeat(map_HW[:, :, None], 3, axis=2) for map_HW in (mask_HW, shown_HW)]
    return np.hstack([sample.image_HW3, *labels_2HW3])


def _nearness(depth_m_HW: FloatArray) -> npt.NDArray[np.uint8]:
    """Half a metre is 255, 20 metres and what is missing are 0."""
    nearness_HW = 1 - np.log(np.nan_to_num(depth_m_HW, nan=20.0) / 0.5) / np.log(20 / 0.5)
    return np.asarray(255 * np.clip(nearness_HW, 0, 1), np.uint8)
