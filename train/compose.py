"""Composites with exact masks and depths: sample i is a pure function of (recipe, assets, i).

So a data set can be made on the fly, resumed exactly and split over any number of workers without
talking. Foregrounds are RGBA cut-outs with soft alpha, backgrounds are photographs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zlib import crc32

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.errors import InputError
from depthmask.frames import IMAGE_SUFFIXES, read_image, read_rgba
from depthmask.train.recipe import Split, StageRecipe
from depthmask.train.stage import FloatArray, Stage, relief_HW

UInt8Array = npt.NDArray[np.uint8]
_TEST_SHARE_PERCENT = 15


@dataclass(frozen=True)
class Cutout:
    """A foreground: colours premultiplied by alpha, so that resizing leaves no halo."""

    name: str
    premultiplied_HW4: UInt8Array


@dataclass(frozen=True)
class Assets:
    """The decoded images of one split."""

    foregrounds: tuple[Cutout, ...]
    backgrounds: tuple[UInt8Array, ...]
    photos: tuple[UInt8Array, ...] = ()
    """Photographs with a dominant object: for teachers to label, not to compose upon."""

    def __repr__(self) -> str:
        return f"Assets({len(self.foregrounds)} foregrounds, {len(self.backgrounds)} backgrounds)"


@dataclass(frozen=True)
class Sample:
    """A composite: image (H,W,3) uint8 RGB, soft mask (H,W) uint8, depth (H,W) float32, metres."""

    image_HW3: UInt8Array
    mask_HW: UInt8Array
    depth_m_HW: FloatArray

    def __repr__(self) -> str:
        return f"Sample({self.image_HW3.shape[0]}x{self.image_HW3.shape[1]})"


def load_assets(folder: Path, split: Split = "all") -> Assets:
    """Decode the cut-outs and backgrounds of `folder` that belong to `split`.

    With an `assets.json` (made by `dmx data fetch`) the split goes by its groups, so that two views
    of one object never fall on both sides; without one, by file name.

    Raises:
        InputError: the folder lacks foregrounds or backgrounds, or an image cannot be used.

    """
    groups = _groups(folder)

    def files(role: str) -> list[Path]:
        found = sorted(
            path for path in (folder / role).glob("*") if path.suffix.lower() in IMAGE_SUFFIXES
        )
        chosen = [
            path
            for path in found
            if split in ("all", split_of(groups.get(f"{role}/{path.name}", path.name)))
        ]
        if not chosen:
            raise InputError(
                f"{folder / role} must hold images of the split {split!r}, but none of the"
                f" {len(found)} images there is. Try `dmx data fetch --out {folder}`"
            )
        return chosen

    return Assets(
        tuple(_read_cutout(path) for path in files("foregrounds")),
        tuple(read_image(path) for path in files("backgrounds")),
    )


def split_of(group: str) -> Literal["train", "test"]:
    """The side that a group of assets falls on, by its name alone."""
    return "test" if crc32(group.encode()) % 100 < _TEST_SHARE_PERCENT else "train"


def compose(recipe: StageRecipe, assets: Assets, index: int) -> Sample:
    """Sample `index`, at canvas_px x canvas_px."""
    rng = np.random.default_rng([recipe.seed, index])
    size = recipe.canvas_px
    stage = Stage.sample(rng)
    # A frame of this aspect (width / height) is stretched to the square canvas, as at inference.
    aspect = float(rng.choice([3 / 4, 1.0, 4 / 3, 3 / 2, 16 / 9]))
    image_HW3 = _background(assets, size, aspect, rng)
    mask_HW = np.zeros((size, size), np.uint8)
    depth_m_HW = stage.depth_m_HW(size, size)

    count = 0 if rng.random() < recipe.empty_share else _foreground_count(recipe, rng)
    nearest_m = _nearest_depth_m(stage)
    far_m = 0.85 * stage.wall_depth_m
    depths_m = np.exp(rng.uniform(np.log(nearest_m), np.log(far_m), count))
    for depth_m in sorted(depths_m, reverse=True):
        _place(image_HW3, mask_HW, depth_m_HW, stage, float(depth_m), aspect, assets, recipe, rng)
    if recipe.augment:
        image_HW3 = degrade(image_HW3, rng)
    return Sample(image_HW3, mask_HW, depth_m_HW)


def _groups(folder: Path) -> dict[str, str]:
    index = folder / "assets.json"
    if not index.is_file():
        return {}
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
        return {entry["file"]: entry["group"] for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{index} must be a list of assets with a file and a group, but it is not ({error})."
            " Try `dmx data fetch --overwrite`"
        ) from error


def _read_cutout(path: Path) -> Cutout:
    rgba_HW4 = read_rgba(path)
    alpha_HW1 = rgba_HW4[:, :, 3:]
    if alpha_HW1.min() == 255 or alpha_HW1.max() < 128:
        found = "opaque everywhere" if alpha_HW1.min() == 255 else "empty"
        raise InputError(f"a foreground must be a cut-out with alpha, but {path} is {found}")
    premultiplied_HW3 = (rgba_HW4[:, :, :3].astype(np.uint16) * alpha_HW1 + 127) // 255
    return Cutout(path.stem, np.dstack([premultiplied_HW3.astype(np.uint8), alpha_HW1]))


def _foreground_count(recipe: StageRecipe, rng: np.random.Generator) -> int:
    """1 in most samples, 2 or more in the others."""
    return 1 + int(rng.binomial(recipe.max_foregrounds - 1, 0.25))


def _nearest_depth_m(stage: Stage) -> float:
    """An object may stand so near that the lower border cuts it off, by half a canvas at most."""
    return stage.focal * stage.camera_height_m / (1.35 - stage.horizon)


def _background(assets: Assets, size: int, aspect: float, rng: np.random.Generator) -> UInt8Array:
    """A random crop of the given aspect (width / height), stretched to the canvas."""
    source_HW3 = assets.backgrounds[rng.integers(len(assets.backgrounds))]
    height, width = source_HW3.shape[:2]
    crop_height = min(height, width / aspect) * rng.uniform(0.45, 1.0)
    crop_width = crop_height * aspect
    top = int(rng.uniform(0, height - crop_height + 1e-6))
    left = int(rng.uniform(0, width - crop_width + 1e-6))
    crop_HW3 = source_HW3[top : top + round(crop_height), left : left + round(crop_width)]
    canvas_HW3 = _resize(crop_HW3, size, size)
    if rng.random() < 0.5:
        canvas_HW3 = np.asarray(cv2.flip(canvas_HW3, 1), np.uint8)
    return canvas_HW3


def _resize(image: UInt8Array, height: int, width: int) -> UInt8Array:
    shrinks = height < image.shape[0] and width < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def _place(
    image_HW3: UInt8Array,
    mask_HW: UInt8Array,
    depth_m_HW: FloatArray,
    stage: Stage,
    depth_m: float,
    aspect: float,
    assets: Assets,
    recipe: StageRecipe,
    rng: np.random.Generator,
) -> None:
    """Stand one foreground on the stage, before what is there; writes into the three arrays."""
    size = recipe.canvas_px
    cutout = assets.foregrounds[rng.integers(len(assets.foregrounds))].premultiplied_HW4
    if rng.random() < 0.5:
        cutout = np.asarray(cv2.flip(cutout, 1), np.uint8)
    if rng.random() < 0.3:
        cutout = _rotate(cutout, rng.uniform(-12, 12))

    # Scaled by 1 / depth: the height in metres is drawn so that the foreground is neither a dot nor
    # larger than the frame.
    share_per_m = stage.focal / depth_m
    longest = max(cutout.shape[0], cutout.shape[1] / aspect)
    longest_m = np.clip(np.exp(rng.normal(np.log(1.4), 0.45)), 0.3 / share_per_m, 1.0 / share_per_m)
    height_m = cutout.shape[0] / longest * float(longest_m)
    height = max(8, round(height_m * share_per_m * size))
    width = max(8, round(height * cutout.shape[1] / cutout.shape[0] / aspect))
    patch_HW4 = _resize(cutout, height, width)
    if recipe.augment:
        patch_HW4 = _relight(patch_HW4, image_HW3, rng)

    bottom = round(stage.foot_row(depth_m) * size)
    left = round(rng.uniform(-0.2 * width, size - 0.8 * width))
    rows = slice(max(0, bottom - height), min(size, bottom))
    columns = slice(max(0, left), min(size, left + width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    patch_rows = slice(rows.start - (bottom - height), rows.stop - (bottom - height))
    patch_columns = slice(columns.start - left, columns.stop - left)

    if recipe.augment and rng.random() < 0.5:
        _cast_shadow(image_HW3, bottom, left, width, height, rng)
    visible_HW4 = patch_HW4[patch_rows, patch_columns]
    alpha_HW1 = visible_HW4[:, :, 3:].astype(np.uint16)
    under_HW3 = image_HW3[rows, columns].astype(np.uint16)
    blended_HW3 = visible_HW4[:, :, :3] + (under_HW3 * (255 - alpha_HW1) + 127) // 255
    image_HW3[rows, columns] = np.minimum(blended_HW3, 255)
    alpha_HW = visible_HW4[:, :, 3]
    mask_HW[rows, columns] = np.maximum(mask_HW[rows, columns], alpha_HW)
    # A bulge of a quarter of the object's width at most, and never past the camera.
    bulge_m = min(0.25 * width * aspect / size / share_per_m, 0.2 * depth_m)
    surface_m_HW = depth_m - bulge_m * relief_HW(patch_HW4[:, :, 3])[patch_rows, patch_columns]
    box_m_HW = depth_m_HW[rows, columns]
    depth_m_HW[rows, columns] = np.where(alpha_HW >= 128, surface_m_HW, box_m_HW)


def _rotate(cutout_HW4: npt.NDArray[np.uint8], degrees: float) -> npt.NDArray[np.uint8]:
    height, width = cutout_HW4.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    cosine, sine = abs(matrix[0, 0]), abs(matrix[0, 1])
    new_width = round(height * sine + width * cosine)
    new_height = round(height * cosine + width * sine)
    matrix[:, 2] += (new_width - width) / 2, (new_height - height) / 2
    turned = cv2.warpAffine(cutout_HW4, matrix, (new_width, new_height), flags=cv2.INTER_LINEAR)
    rows, columns = np.nonzero(turned[:, :, 3])
    if not len(rows):
        return cutout_HW4
    box = turned[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    return np.asarray(box, np.uint8)


def _relight(patch_HW4: UInt8Array, image_HW3: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Gain and offset per channel, sometimes towards the background's own light."""
    alpha_HW1 = patch_HW4[:, :, 3:].astype(np.float32) / 255
    colours_HW3 = patch_HW4[:, :, :3].astype(np.float32)
    gain_3 = rng.uniform(0.65, 1.25) * rng.uniform(0.92, 1.08, 3)
    if rng.random() < 0.5:
        mean_3 = colours_HW3.sum((0, 1)) / max(float(alpha_HW1.sum()), 1.0)
        towards_3 = (image_HW3.mean((0, 1)) + 20) / (mean_3 + 20)
        gain_3 = gain_3 * towards_3 ** rng.uniform(0, 0.7)
    offset = rng.uniform(-15, 15)
    colours_HW3 = np.clip(colours_HW3 * gain_3 + offset * alpha_HW1, 0, 255 * alpha_HW1)
    if rng.random() < 0.3:
        softened_HW4 = cv2.GaussianBlur(
            np.dstack([colours_HW3, 255 * alpha_HW1]), (0, 0), rng.uniform(0.4, 1.0)
        )
        return np.asarray(softened_HW4 + 0.5, np.uint8)
    return np.dstack([(colours_HW3 + 0.5).astype(np.uint8), patch_HW4[:, :, 3]])


def _cast_shadow(
    image_HW3: UInt8Array,
    bottom: int,
    left: int,
    width: int,
    height: int,
    rng: np.random.Generator,
) -> None:
    """A soft dark ellipse on the ground at the feet; not part of the mask."""
    shade_HW = np.zeros(image_HW3.shape[:2], np.float32)
    centre = (round(left + width * rng.uniform(0.3, 0.7)), bottom - round(0.02 * height))
    axes = (max(2, round(width * rng.uniform(0.35, 0.6))), max(2, round(height * 0.07)))
    cv2.ellipse(shade_HW, centre, axes, 0, 0, 360, float(rng.uniform(0.2, 0.6)), -1)
    soft_HW = cv2.GaussianBlur(shade_HW, (0, 0), max(1.0, 0.03 * height))
    image_HW3[:] = (image_HW3 * (1 - soft_HW[:, :, None])).astype(np.uint8)


def degrade(image_HW3: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """What cameras do: light and colour, blur, noise, JPEG."""
    table = np.arange(256, dtype=np.float32) / 255
    gamma, gain, offset = rng.uniform(0.75, 1.35), rng.uniform(0.75, 1.2), rng.uniform(-0.08, 0.08)
    tables_256x3 = 255 * (table[:, None] ** gamma * gain * rng.uniform(0.93, 1.07, 3) + offset)
    image = cv2.LUT(image_HW3, np.clip(tables_256x3, 0, 255).astype(np.uint8)[None])
    if rng.random() < 0.1:
        grey_HW = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = cv2.cvtColor(grey_HW, cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))
    if rng.random() < 0.35:
        noise_HW3 = rng.standard_normal(image.shape, np.float32) * rng.uniform(1, 10)
        image = np.clip(image + noise_HW3, 0, 255).astype(np.uint8)
    if rng.random() < 0.35:
        quality = int(rng.integers(30, 90))
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(image, np.uint8)
