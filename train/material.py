"""The pictures that recipes take, and the samples that they give.

Foregrounds are RGBA cut-outs with soft alpha, backgrounds are photographs; `dmx data fetch` makes a
folder of them. Shapes: H, W height and width in pixels; 3 is RGB, 4 RGB and alpha.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar
from zlib import crc32

import cv2
import msgspec
import numpy as np

from depthmask.errors import InputError
from depthmask.frames import (
    IMAGE_SUFFIXES,
    FloatArray,
    UInt8Array,
    read_bytes,
    read_image,
    read_rgba,
)
from depthmask.train.recipe import GridRecipe, PhotoRecipe, Recipe, Split

T = TypeVar("T")
Role = Literal["foregrounds", "backgrounds", "photos"]
_TEST_SHARE_PERCENT = 15
_CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Cutout:
    """A foreground: colours premultiplied by alpha, so that resizing leaves no halo."""

    name: str
    premultiplied_HW4: UInt8Array


class _Listed(msgspec.Struct, frozen=True):
    """What is needed of an entry of assets.json."""

    file: str
    group: str
    sha256: str | None = None


_Index = Mapping[str, _Listed]


@dataclass(frozen=True)
class SkippedAsset:
    """A picture of the material that cannot be used, and why."""

    file: Path
    reason: str


class PictureCache:
    """Pictures at the sizes that recipes use them at, the latest used up to a limit in bytes.

    A sample never depends on what is in it. It is empty again in another process.
    """

    def __init__(self, limit_bytes: int = _CACHE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._pictures: OrderedDict[object, UInt8Array] = OrderedDict()

    def get(self, key: object, make: Callable[[], UInt8Array]) -> UInt8Array:
        """The picture of that key, made if it is not there; never write into it."""
        picture = self._pictures.get(key)
        if picture is not None:
            self._pictures.move_to_end(key)
            return picture
        picture = self._pictures[key] = make()
        self._size_bytes += picture.nbytes
        while self._size_bytes > self._limit_bytes and len(self._pictures) > 1:
            self._size_bytes -= self._pictures.popitem(last=False)[1].nbytes
        return picture

    def __reduce__(self) -> tuple[type[PictureCache], tuple[int]]:
        return PictureCache, (self._limit_bytes,)


@dataclass(frozen=True)
class Assets:
    """The decoded images of one split."""

    foregrounds: tuple[Cutout, ...]
    backgrounds: tuple[UInt8Array, ...]
    photos: tuple[UInt8Array, ...] = ()
    """Photographs with a dominant object: for teachers to label, not to compose upon."""
    skipped: tuple[SkippedAsset, ...] = ()
    cache: PictureCache = field(default_factory=PictureCache, compare=False, repr=False)

    def __repr__(self) -> str:
        return f"Assets({len(self.foregrounds)} foregrounds, {len(self.backgrounds)} backgrounds)"


@dataclass(frozen=True)
class Sample:
    """An image (H,W,3) uint8 RGB, with the labels that its recipe gives (None: it gives none).

    mask_HW is uint8, 255 = foreground, soft or binary by its recipe. depth_m_HW is float32, NaN where
    it is not known: in metres, or relative where a teacher said it.
    """

    image_HW3: UInt8Array
    mask_HW: UInt8Array | None
    depth_m_HW: FloatArray | None

    def __repr__(self) -> str:
        return f"Sample({self.image_HW3.shape[0]}x{self.image_HW3.shape[1]})"


def load_material(recipe: Recipe, folder: Path, *, strict: bool = False) -> Assets:
    """Decode what a recipe needs of `folder`, and no more: a grid takes the first by sorted name.

    Raises:
        InputError: as `load_assets`, or there is less than the grid enumerates.

    """
    if isinstance(recipe, PhotoRecipe):
        return load_assets(folder, recipe.split, strict=strict, roles=("backgrounds", "photos"))
    if not isinstance(recipe, GridRecipe):
        return load_assets(folder, recipe.split, strict=strict)
    at_most: dict[Role, int] = {
        "foregrounds": recipe.foregrounds,
        "backgrounds": recipe.backgrounds,
    }
    assets = load_assets(folder, recipe.split, strict=strict, at_most=at_most)
    check_grid(recipe, assets)
    return assets


def check_grid(recipe: GridRecipe, assets: Assets) -> None:
    """Hold the material to what a grid enumerates.

    Raises:
        InputError: there is less.

    """
    found = (len(assets.backgrounds), len(assets.foregrounds))
    if found[0] < recipe.backgrounds or found[1] < recipe.foregrounds:
        raise InputError(
            f"the material must have {recipe.backgrounds} backgrounds and {recipe.foregrounds}"
            f" foregrounds for this recipe, but got {found[0]} and {found[1]} that can be used. Try"
            " `dmx data fetch`, or fewer in the recipe"
        )


def load_assets(
    folder: Path,
    split: Split = "all",
    *,
    strict: bool = False,
    roles: tuple[Role, ...] = ("foregrounds", "backgrounds"),
    at_most: Mapping[Role, int] | None = None,
) -> Assets:
    """Decode the pictures of `folder` that belong to `split`, sorted by name.

    With an `assets.json` (made by `dmx data fetch`) the split goes by its groups, so that two views
    of one object never fall on both sides; without one, by file name. Backgrounds may be missing
    where there are photos, and the other way round. What cannot be used is left out and stands in
    `Assets.skipped`.

    Args:
        folder: It holds foregrounds/, backgrounds/ and perhaps photos/.
        split: Which side.
        strict: Stop at the first picture that cannot be used.
        roles: What to decode; the others stay empty.
        at_most: Usable pictures of a role to stop after.

    Raises:
        InputError: the folder lacks pictures of a role, or (`strict`) one cannot be used.

    """
    index = _index(folder)
    limits = at_most or {}
    skipped: list[SkippedAsset] = []

    def read(role: Role, decode: Callable[[Path], T]) -> tuple[T, ...]:
        if role not in roles:
            return ()
        pictures: list[T] = []
        for path in _files(folder, role, split, index):
            if len(pictures) == limits.get(role):
                break
            try:
                _require_as_fetched(path, index.get(f"{role}/{path.name}"))
                pictures.append(decode(path))
            except InputError as error:
                if strict:
                    raise
                skipped.append(SkippedAsset(path, str(error)))
        return tuple(pictures)

    def require(pictures: tuple[object, ...], *alike: Role) -> None:
        asked = [role for role in alike if role in roles]
        if asked and not pictures:
            raise _nothing_usable(folder, asked, split, skipped)

    foregrounds = read("foregrounds", _read_cutout)
    require(foregrounds, "foregrounds")
    backgrounds, photos = read("backgrounds", read_image), read("photos", read_image)
    require((*backgrounds, *photos), "backgrounds", "photos")
    return Assets(foregrounds, backgrounds, photos, tuple(skipped))


def split_of(group: str) -> Literal["train", "test"]:
    """The side that a group of assets falls on, by its name alone."""
    return "test" if crc32(os.fsencode(group)) % 100 < _TEST_SHARE_PERCENT else "train"


def resize(image: UInt8Array, height: int, width: int) -> UInt8Array:
    """By area where it shrinks, linearly otherwise."""
    shrinks = height < image.shape[0] and width < image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def blend(patch_HW4: UInt8Array, under_HW3: UInt8Array) -> UInt8Array:
    """A premultiplied patch over what is there: patch + under * (255 - alpha) / 255, rounded."""
    clear_HW3 = cv2.cvtColor(255 - patch_HW4[:, :, 3], cv2.COLOR_GRAY2RGB)
    # Exact, for no quotient by 255 is within float32's error of a half (a test tries all of them).
    shown_HW3 = cv2.multiply(under_HW3, clear_HW3, scale=1 / 255)
    return np.asarray(cv2.add(cv2.cvtColor(patch_HW4, cv2.COLOR_RGBA2RGB), shown_HW3), np.uint8)


def _files(folder: Path, role: Role, split: Split, index: _Index) -> list[Path]:
    found = sorted(
        path for path in (folder / role).glob("*") if path.suffix.lower() in IMAGE_SUFFIXES
    )
    listed = {path: index.get(f"{role}/{path.name}") for path in found}
    return [
        path
        for path, entry in listed.items()
        if split in ("all", split_of(entry.group if entry else path.name))
    ]


def _nothing_usable(
    folder: Path, roles: Sequence[Role], split: Split, skipped: Sequence[SkippedAsset]
) -> InputError:
    places = " or ".join(str(folder / role) for role in roles)
    reasons = [one.reason for one in skipped if one.file.parent.name in roles]
    there = sum(len(_files(folder, role, "all", {})) for role in roles)
    if reasons:
        return InputError(
            f"{places} must hold images that can be used, but got {len(reasons)} that cannot:"
            f" {reasons[0]}"
        )
    if there:
        return InputError(
            f"{places} must hold images of the split {split}, but its {there} are not. Try"
            " `split: all` in the recipe (for `dmx data compose` also --split all)"
        )
    way_out = f"`dmx data fetch --out {folder}`"
    if folder.exists():
        way_out = "to put some there, or `dmx data fetch` into another folder"
    return InputError(f"{places} must hold images, but got none. Try {way_out}")


def _index(folder: Path) -> _Index:
    """By file, relative to the folder; empty of material that `dmx data fetch` did not make."""
    path = folder / "assets.json"
    if not path.is_file():
        return {}
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=list[_Listed])
        return {entry.file: entry for entry in entries}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path} must be a list of assets with a file and a group, but it is not ({error})."
            " Try `dmx data fetch --overwrite`"
        ) from error


def _require_as_fetched(path: Path, entry: _Listed | None) -> None:
    if entry is None or entry.sha256 is None:
        return
    if hashlib.sha256(read_bytes(path)).hexdigest() != entry.sha256:
        raise InputError(
            f"{path} must have the sha256 that assets.json records, but it has not: it is damaged or"
            " was replaced since `dmx data fetch`"
        )


def _read_cutout(path: Path) -> Cutout:
    rgba_HW4 = read_rgba(path)
    alpha_HW1 = rgba_HW4[:, :, 3:]
    if alpha_HW1.min() == 255 or alpha_HW1.max() < 128:
        found = "opaque everywhere" if alpha_HW1.min() == 255 else "empty"
        raise InputError(f"a foreground must be a cut-out with alpha, but {path} is {found}")
    premultiplied_HW3 = (rgba_HW4[:, :, :3].astype(np.uint16) * alpha_HW1 + 127) // 255
    return Cutout(path.stem, np.dstack([premultiplied_HW3.astype(np.uint8), alpha_HW1]))
