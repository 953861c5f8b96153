"""Training material from Debian packages: cut-outs, backgrounds and photographs, with licences.

Which pictures are used is a reviewed list (`foregrounds_reviewed.txt`, `backgrounds_reviewed.txt`);
nothing of it ships with depthmask, and each file's licence stands beside it as NAME.EXT.license.
Shapes: H, W height and width in pixels; 3 colours in OpenCV's order (BGR), 4 with alpha.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from depthmask.atomic import new_folder
from depthmask.errors import InputError
from depthmask.frames import decode_stored
from depthmask.train.packages import (
    Library,
    Package,
    Source,
    download_packages,
    find_package,
    unpack_package,
)

STAMPS_PACKAGE = "tuxpaint-stamps-default"
PACKAGES = (STAMPS_PACKAGE, "gcompris-qt-data", "mate-backgrounds", "lomiri-wallpapers-16.04")
MARGIN_PX = 2
LONGEST_SIDE_PX = 640
JPEG_QUALITY = 92
_STAMPS_FOLDER = "usr/share/tuxpaint/stamps"
_VISIBLE_FROM = 8  # an alpha below this does not widen the bounding box

Image = NDArray[np.uint8]
Role = Literal["foreground", "background", "photo"]
Kind = Literal["scene", "object", "sample"]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Reviewed:
    """A line of a reviewed list: a picture in a package, and the group that it belongs to.

    As backgrounds only the kind `scene` is used: an `object` would teach the mask wrongly, so it is a
    photo, for teachers to label; a `sample` is reserved for the samples that ship. `crops` is (columns,
    rows) of tiles without overlap.
    """

    role: Role
    package: str
    path: str
    kind: Kind
    group: str
    crops: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Asset:
    """An image of the material: an entry of assets.json.

    `file` is relative to the material's folder, `path` to the package; sizes in pixels.
    """

    file: str
    role: Role
    package: str
    version: str
    path: str
    licence: str
    author: str
    sha256: str
    width: int
    height: int
    group: str


@dataclass(frozen=True)
class AssetSummary:
    """What `fetch_assets` wrote; `missing` are reviewed paths that the packages do not hold."""

    out: Path
    foregrounds: int
    foreground_groups: int
    backgrounds: int
    background_groups: int
    photos: int
    photo_groups: int
    size_bytes: int
    missing: tuple[str, ...]


def fetch_assets(
    out: Path,
    *,
    packages_dir: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> AssetSummary:
    """Write the training material into the folder `out`; it appears complete or not at all.

    `out/foregrounds/*.png` are RGBA, cropped to what is visible plus 2 px; `out/backgrounds/*.jpg`
    and `out/photos/*.jpg` (photographs of an object, which cannot be backgrounds) are RGB with a longest
    side of 640 px at most. `out/assets.json` lists them (see `Asset`).
    Images of one `group` show the same thing: split by group, never by image.

    Args:
        out: The folder; its parent must be writable.
        packages_dir: A folder with the .deb files; without it `apt-get download` fetches them
            (about 270 MB over the network, into a temporary folder).
        overwrite: Replace `out`, if depthmask made it.
        progress: Called with what is being done, how many are done, and of how many.

    Raises:
        UsageError: `out` is not an empty folder and `overwrite` is off, or holds something else.
        OutputError: `out` cannot be written.
        UnavailableError: apt-get or dpkg-deb is missing, or a package cannot be fetched.
        InputError: a package is missing from `packages_dir`, or is damaged.

    """
    out = out.absolute()
    report = progress or (lambda what, done, total: None)
    empty = out.is_dir() and not any(out.iterdir())
    with (
        new_folder(out, overwrite=overwrite or empty) as folder,
        # Beside `out`: the packages may be more than /tmp holds.
        tempfile.TemporaryDirectory(prefix=f".{out.name}.packages.", dir=out.parent) as scratch,
    ):
        packages = _open_packages(Path(scratch), packages_dir, report)
        assets, missing = _write_material(folder, packages, report)
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*.*"))
    return _summary(out, assets, missing, size_bytes)


def reviewed_stamps() -> list[Reviewed]:
    """The reviewed foregrounds, in the order of the list."""
    return [
        Reviewed("foreground", STAMPS_PACKAGE, f"{_STAMPS_FOLDER}/{path}", "object", group)
        for path, group in _rows("foregrounds_reviewed.txt")
    ]


def reviewed_photos() -> list[Reviewed]:
    """The reviewed photographs of every kind, in the order of the list."""
    kinds: dict[str, Kind] = {"scene": "scene", "object": "object", "sample": "sample"}
    photos = []
    for package, path, kind, group, crops in _rows("backgrounds_reviewed.txt"):
        columns, rows = (int(count) for count in crops.split("x"))
        role: Role = "photo" if kind == "object" else "background"
        photos.append(Reviewed(role, package, path, kinds[kind], group, (columns, rows)))
    return photos


def used_photos() -> list[Reviewed]:
    """The reviewed photographs that are training material: nothing that the samples show."""
    photos = reviewed_photos()
    shown = {photo.group for photo in photos if photo.kind == "sample"}
    return [photo for photo in photos if photo.group not in shown]


def crop_visible(image_HW4: Image) -> Image:
    """Crop to the bounding box of what is visible, with a transparent margin of 2 px around it.

    Raises:
        InputError: nothing is visible.

    """
    ys, xs = np.nonzero(image_HW4[..., 3] >= _VISIBLE_FROM)
    if len(ys) == 0:
        raise InputError("A cut-out must have visible pixels, but got none. Try another package.")
    box_HW4 = image_HW4[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    return np.pad(box_HW4, ((MARGIN_PX, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0)))


def limit_size(image_HW3: Image, longest_side_px: int = LONGEST_SIDE_PX) -> Image:
    """Scale down, by averaging areas, to a longest side; a smaller image stays as it is."""
    height, width = image_HW3.shape[:2]
    scale = longest_side_px / max(height, width)
    if scale >= 1:
        return image_HW3
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def tiles(image_HW3: Image, columns: int, rows: int) -> Iterator[Image]:
    """Cut into columns x rows parts that do not overlap, row by row."""
    for band_HW3 in np.array_split(image_HW3, rows, axis=0):
        yield from np.array_split(band_HW3, columns, axis=1)


def _rows(name: str) -> list[list[str]]:
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line.strip() and not line.startswith("#")]


def _open_packages(
    scratch: Path, packages_dir: Path | None, report: Progress
) -> dict[str, Package]:
    folder = packages_dir
    if folder is None:
        folder = scratch / "packages"
        folder.mkdir()
        report("downloading packages", 0, len(PACKAGES))
        download_packages(PACKAGES, folder)
    debs = [find_package(name, folder) for name in PACKAGES]
    packages = {}
    for done, (name, deb) in enumerate(zip(PACKAGES, debs, strict=True)):
        report("unpacking packages", done, len(PACKAGES))
        packages[name] = unpack_package(deb, scratch / "unpacked" / name)
    return packages


def _write_material(
    folder: Path, packages: dict[str, Package], report: Progress
) -> tuple[list[Asset], list[str]]:
    for role in get_args(Role):
        (folder / f"{role}s").mkdir()
    wanted = [*reviewed_stamps(), *used_photos()]
    library = Library(packages)
    assets: list[Asset] = []
    missing: list[str] = []
    for done, item in enumerate(wanted):
        report("writing images", done, len(wanted))
        source = library.find(item.package, item.path)
        if source is None:
            missing.append(item.path)
        else:
            assets += _write_item(folder, item, source)
    text = json.dumps([asdict(asset) for asset in assets], indent=1, ensure_ascii=False)
    (folder / "assets.json").write_text(text + "\n", encoding="utf-8")
    return assets, missing


def _write_item(folder: Path, item: Reviewed, source: Source) -> Iterator[Asset]:
    if item.role == "foreground":
        image_HW4 = crop_visible(_decode(source, item.path, channels=4))
        yield _write_image(folder, f"foregrounds/{_name(item)}.png", image_HW4, item, source)
        return
    image_HW3 = _decode(source, item.path, channels=3)
    columns, rows = item.crops
    for index, tile_HW3 in enumerate(tiles(image_HW3, columns, rows)):
        suffix = f"_{index}" if columns * rows > 1 else ""
        file = f"{item.role}s/{_name(item)}{suffix}.jpg"
        yield _write_image(folder, file, limit_size(tile_HW3), item, source)


def _name(item: Reviewed) -> str:
    """A file name from the last two parts of the path: `usa/fortSumter.webp` is usa_fortSumter."""
    stem = item.path.rsplit(".", 1)[0]
    if item.role == "foreground":
        stem = stem.removeprefix(f"{_STAMPS_FOLDER}/")
    else:
        stem = "/".join(stem.split("/")[-2:])
    return re.sub(r"[^A-Za-z0-9]+", "_", stem)


def _decode(source: Source, path: str, *, channels: Literal[3, 4]) -> Image:
    flag = cv2.IMREAD_UNCHANGED if channels == 4 else cv2.IMREAD_COLOR
    image = decode_stored(source.content, flag, f"{path} in {source.package}")
    if image.dtype != np.uint8 or image.shape[2:] != (channels,):
        raise InputError(
            f"{path} in {source.package} must be an image of {channels} channels with 8 bits, "
            "but got something else. Try fetching the package again."
        )
    return image.astype(np.uint8, copy=False)


def _write_image(folder: Path, file: str, image: Image, item: Reviewed, source: Source) -> Asset:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if file.endswith(".jpg") else []
    content = cv2.imencode(Path(file).suffix, image, options)[1].tobytes()
    (folder / file).write_bytes(content)
    (folder / f"{file}.license").write_text(_license_text(item.path, source), encoding="utf-8")
    return Asset(
        file=file,
        role=item.role,
        package=source.package,
        version=source.version,
        path=item.path,
        licence=source.credit.licence,
        author=source.credit.author,
        sha256=hashlib.sha256(content).hexdigest(),
        width=image.shape[1],
        height=image.shape[0],
        group=item.group,
    )


def _license_text(path: str, source: Source) -> str:
    lines = [
        f"SPDX-FileCopyrightText: {source.credit.author}",
        f"SPDX-License-Identifier: {source.credit.licence}",
        "",
        f"From the Debian package {source.package} {source.version}: {path}",
    ]
    if source.credit.origin:
        lines.append(f"Origin: {source.credit.origin}")
    return "\n".join(lines) + "\n"


def _summary(out: Path, assets: list[Asset], missing: list[str], size_bytes: int) -> AssetSummary:
    groups: dict[str, list[str]] = {role: [] for role in get_args(Role)}
    for asset in assets:
        groups[asset.role].append(asset.group)
    return AssetSummary(
        out=out,
        foregrounds=len(groups["foreground"]),
        foreground_groups=len(set(groups["foreground"])),
        backgrounds=len(groups["background"]),
        background_groups=len(set(groups["background"])),
        photos=len(groups["photo"]),
        photo_groups=len(set(groups["photo"])),
        size_bytes=size_bytes,
        missing=tuple(missing),
    )
