"""Data sets on disk, for calibration, the gate, evaluation and the benchmark.

A data set is a folder of `NAME.jpg` or `NAME.png` (any of `frames.IMAGE_SUFFIXES`), each with

- `NAME.mask.png`: 8 bit grey, 255 = foreground (optional);
- `NAME.depth.png`: 16 bit grey, 0 = missing, depth in metres = value * `depth_scale_m` (optional);

and `dataset.json`: {"schema": 1, "depth_scale_m": 0.001, "count": N, ...}. A plain folder of
photographs, without `dataset.json`, is a data set without labels. The same files may be in shards
(see shards.py). Files are read when a sample is asked for.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from depthmask.errors import InputError
from depthmask.frames import (
    IMAGE_SUFFIXES,
    FloatArray,
    UInt8Array,
    decode_image,
    decode_stored,
    read_bytes,
)
from depthmask.shards import Member, ShardedFiles, StoredSample

DATASET_FILE = "dataset.json"
MASK_SUFFIX = ".mask.png"
DEPTH_SUFFIX = ".depth.png"
DepthUnit = Literal["m", "relative"]
SHIPPED_SAMPLES = Path(__file__).parent / "data" / "samples"


class DatasetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What dataset.json must hold; it may hold more (the recipe, for one)."""

    schema: Literal[1] = 1
    count: int
    depth_scale_m: float = 0.001
    depth_unit: DepthUnit = "m"
    """`relative`: a teacher's depth, right up to a scale (and shift) per image; not in metres."""
    shard_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Samples per shard, but for the last one; None of loose files."""

    def __post_init__(self) -> None:
        if not self.depth_scale_m > 0:
            raise ValueError(f"depth_scale_m must be positive, but got {self.depth_scale_m}")


@dataclass(frozen=True)
class LabelledSample:
    """One image (H,W,3) uint8 RGB, with what is known of it.

    mask_HW is uint8, 255 = foreground; depth_m_HW is float32, NaN = missing, in metres or (see
    `Samples.depth_unit`) relative.
    """

    name: str
    image_HW3: UInt8Array
    mask_HW: UInt8Array | None = None
    depth_m_HW: FloatArray | None = None

    def __post_init__(self) -> None:
        size = self.image_HW3.shape[:2]
        for role, label in (("mask", self.mask_HW), ("depth", self.depth_m_HW)):
            if label is not None and label.shape != size:
                raise InputError(
                    f"the {role} of {self.name} must have its image's size {size[0]}x{size[1]},"
                    f" but got {'x'.join(map(str, label.shape))}"
                )

    def __repr__(self) -> str:
        labels = [
            role
            for role, label in (("mask", self.mask_HW), ("depth", self.depth_m_HW))
            if label is not None
        ]
        height, width = self.image_HW3.shape[:2]
        return (
            f"LabelledSample({self.name}, {height}x{width}, {' and '.join(labels) or 'no labels'})"
        )


class Stored(Protocol):
    """Where samples are stored: loose files or shards."""

    def __len__(self) -> int: ...

    @property
    def labelled(self) -> bool:
        """Whether any image has a mask or a depth."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All that samples are read from."""

    def check(self) -> None:
        """Look for damage, as far as that takes no reading of samples."""

    def read(self, index: int) -> StoredSample:
        """Sample `index`, 0 to len - 1, still encoded."""


class LooseFiles:
    """Images in a folder, their labels beside them."""

    def __init__(self, images: tuple[Path, ...]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    @property
    def labelled(self) -> bool:
        """Whether any image has a mask or a depth."""
        return any(
            path.with_name(path.stem + suffix).is_file()
            for path in self._images
            for suffix in (MASK_SUFFIX, DEPTH_SUFFIX)
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The images, each with the labels that it has."""
        suffixes = (MASK_SUFFIX, DEPTH_SUFFIX)
        return tuple(
            file
            for path in self._images
            for file in (path, *(path.with_name(path.stem + suffix) for suffix in suffixes))
            if file.is_file()
        )

    def check(self) -> None:
        """Nothing can be said of them before they are read."""

    def read(self, index: int) -> StoredSample:
        """Sample `index`, 0 to len - 1, still encoded.

        Raises:
            InputError: a file cannot be read.

        """
        path = self._images[index]
        return StoredSample(
            path.stem,
            Member(str(path), read_bytes(path)),
            _label(path.with_name(path.stem + MASK_SUFFIX)),
            _label(path.with_name(path.stem + DEPTH_SUFFIX)),
        )


class _Part:
    """Some samples in a row of what is stored."""

    def __init__(self, whole: Stored, indices: range) -> None:
        self._whole = whole
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def labelled(self) -> bool:
        """Whether any image of the whole has a mask or a depth."""
        return self._whole.labelled

    @property
    def files(self) -> tuple[Path, ...]:
        """All that the whole is read from."""
        return self._whole.files

    def check(self) -> None:
        """Look for damage in the whole."""
        self._whole.check()

    def read(self, index: int) -> StoredSample:
        """Sample `index` of the part, still encoded."""
        return self._whole.read(self._indices[index])


class Samples:
    """A data set: `len(samples)`, `samples[i]`, iteration. No picture is kept in memory."""

    def __init__(self, folder: Path, stored: Stored, info: DatasetInfo | None) -> None:
        self.folder = folder
        self.name = folder.resolve().name
        self._stored = stored
        self._depth_scale_m = info.depth_scale_m if info else None
        self.depth_unit: DepthUnit = info.depth_unit if info else "m"

    def __repr__(self) -> str:
        return f"Samples({self.name}, {len(self)}{'' if self.labelled else ', without labels'})"

    def __len__(self) -> int:
        return len(self._stored)

    def __iter__(self) -> Iterator[LabelledSample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> LabelledSample:
        """Read sample `index`.

        Raises:
            InputError: a file is damaged, a label is not of its image's size or of the wrong depth.
            IndexError: there is no such sample.
        """
        stored = self._stored.read(range(len(self))[index])
        return LabelledSample(
            stored.name,
            decode_image(stored.image.content, stored.image.place),
            _decode_mask(stored.mask),
            _decode_depth(stored.depth, self._depth_scale_m),
        )

    def image(self, index: int) -> UInt8Array:
        """Read the image (H,W,3) of sample `index`, without its labels.

        Raises:
            InputError: the file is damaged.
            IndexError: there is no such sample.
        """
        stored = self._stored.read(range(len(self))[index]).image
        return decode_image(stored.content, stored.place)

    def images(self) -> Generator[UInt8Array, None, None]:
        """Every image (H,W,3) in order, without labels; errors as of `image`."""
        return (self.image(index) for index in range(len(self)))

    def spread(self, count: int) -> list[LabelledSample]:
        """`count` samples, or all if there are no more, evenly spread; errors as of `samples[i]`."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int)
        return [self[index] for index in chosen.tolist()]

    def halves(self) -> tuple[Samples, Samples]:
        """The first and the second half in order, named like `NAME[0:12]` and `NAME[12:24]`.

        Not every other sample: neighbours may be frames of one video. Of an odd number the second is
        the larger.
        """
        middle = len(self) // 2
        return self._part(0, middle), self._part(middle, len(self))

    def _part(self, start: int, stop: int) -> Samples:
        part = copy(self)
        part.name = f"{self.name}[{start}:{stop}]"
        part._stored = _Part(self._stored, range(start, stop))
        return part

    @property
    def labelled(self) -> bool:
        """Whether any image has a mask or a depth (of shards: any in the first)."""
        return self._stored.labelled

    @property
    def files(self) -> tuple[Path, ...]:
        """The shards, or the images and their labels: not what else is in the folder."""
        return self._stored.files

    def check(self) -> None:
        """Look into every shard, before long work on them; loose files are looked at when read.

        Raises:
            InputError: a shard is cut short, damaged or of another length.
        """
        self._stored.check()


def open_samples(path: Path | str | None = None, *, unfinished: bool = False) -> Samples:
    """Open a data set folder, of shards or of files sorted by name; by default the shipped one.

    Raises:
        InputError: the folder is missing, holds no images or fewer than its dataset.json says (but
            for `unfinished`), or that file is damaged.
    """
    folder = Path(path) if path is not None else SHIPPED_SAMPLES / "labelled"
    try:
        files = sorted(folder.iterdir())
    except FileNotFoundError:
        raise InputError(f"{folder} must be a data set folder, but there is none") from None
    except NotADirectoryError:
        raise InputError(f"{folder} must be a data set folder, but it is a file") from None
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from error
    info = _read_info(folder / DATASET_FILE)
    shards = tuple(path for path in files if _is_shard(path))
    stored = _sharded(shards, info) if shards else _loose(folder, files)
    if info is not None and len(stored) < info.count and not unfinished:
        raise InputError(
            f"{folder} must hold the {info.count} images that its {DATASET_FILE} names, but it"
            f" holds {len(stored)}. If it is unfinished, run its `dmx data compose` again"
        )
    return Samples(folder, stored, info)


def shipped_photos() -> list[Path]:
    """The photographs, without labels, that ship with depthmask."""
    return sorted((SHIPPED_SAMPLES / "photos").glob("*.jpg"))


def _is_shard(path: Path) -> bool:
    return path.suffix == ".tar" and not path.name.startswith(".") and path.is_file()


def _sharded(shards: tuple[Path, ...], info: DatasetInfo | None) -> Stored:
    """By our own dataset.json the shards' lengths are known; others are looked into."""
    if info is None or info.shard_size is None:
        return ShardedFiles(shards)
    counts = []
    for path in shards:
        number = path.stem.removeprefix("shard-")
        first = int(number) * info.shard_size if number.isdecimal() else info.count
        if first >= info.count:
            raise InputError(f"{path} must be a shard that {DATASET_FILE} counts, but it is not")
        counts.append(min(info.shard_size, info.count - first))
    return ShardedFiles(shards, tuple(counts))


def _loose(folder: Path, files: list[Path]) -> Stored:
    images = tuple(path for path in files if _is_image(path))
    if not images:
        raise InputError(
            f"{folder} must hold images ({', '.join(sorted(IMAGE_SUFFIXES))}), but it holds none."
            " Try `dmx data compose` to make a data set"
        )
    _check_stems(folder, images)
    return LooseFiles(images)


def _is_image(path: Path) -> bool:
    name = path.name.lower()
    return (
        path.suffix.lower() in IMAGE_SUFFIXES
        and not name.startswith(".")
        and not name.endswith((MASK_SUFFIX, DEPTH_SUFFIX))
        and path.is_file()
    )


def _check_stems(folder: Path, images: tuple[Path, ...]) -> None:
    """Two images of one name would share their labels."""
    seen: dict[str, str] = {}
    for path in images:
        if path.stem in seen:
            raise InputError(
                f"{folder} must hold each name once, but it holds {seen[path.stem]} and {path.name}"
            )
        seen[path.stem] = path.name


def _read_info(path: Path) -> DatasetInfo | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=DatasetInfo)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is damaged or of another version: {error}") from error


def _label(path: Path) -> Member | None:
    """A label's file; None where there is none."""
    return Member(str(path), read_bytes(path)) if path.exists() else None


def _decode_mask(stored: Member | None) -> UInt8Array | None:
    if stored is None:
        return None
    return _decode_grey(stored, np.uint8, "8 bit grey, 255 = foreground")


def _decode_depth(stored: Member | None, scale_m: float | None) -> FloatArray | None:
    if stored is None:
        return None
    values_HW = _decode_grey(stored, np.uint16, "16 bit grey, 0 = missing")
    if scale_m is None:
        raise InputError(
            f"{stored.place} must have a scale, but its folder has no {DATASET_FILE}. Write one:"
            ' {"schema": 1, "depth_scale_m": 0.001, "count": N}'
        )
    depth_m_HW = values_HW.astype(np.float32) * np.float32(scale_m)
    depth_m_HW[depth_m_HW == 0] = np.nan
    return depth_m_HW


def _decode_grey(stored: Member, dtype: type[Any], wanted: str) -> npt.NDArray[Any]:
    """A grey PNG as stored."""
    # OpenCV fills in what a short file lacks, so the end marker is looked for.
    if b"IEND" not in stored.content[-4096:]:
        raise InputError(
            f"{stored.place} must be a whole PNG file ({wanted}), but it cannot be decoded as one"
        )
    image = decode_stored(stored.content, cv2.IMREAD_UNCHANGED, stored.place)
    if image.ndim != 2 or image.dtype != dtype:
        channels = 1 if image.ndim == 2 else image.shape[2]
        raise InputError(
            f"{stored.place} must be {wanted}, but got {8 * image.dtype.itemsize} bit with"
            f" {channels} channel(s)"
        )
    return image
