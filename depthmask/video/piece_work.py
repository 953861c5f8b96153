"""What a worker does with pieces: one pipeline, opened once, and the same loop and sinks as `dmx run`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from depthmask.bundle import Bundle
from depthmask.errors import InputError
from depthmask.frames import Resolution
from depthmask.pipeline import Pipeline
from depthmask.shards import ShardedFiles
from depthmask.storage import Storage, is_url
from depthmask.video.cutout import Background
from depthmask.video.images import ImageSource
from depthmask.video.overlay import Look
from depthmask.video.pieces import SHARD_SUFFIX, Piece
from depthmask.video.runner import run
from depthmask.video.sinks import DEPTH_FILE, FolderSink, depth_scale
from depthmask.video.video_file import VideoSink
from depthmask.video.video_source import open_video

BundleFiles = Mapping[str, bytes]
"""A bundle by its files' names: the workers may be on machines that do not have it."""


@dataclass(frozen=True)
class PieceResult:
    """What came of a piece."""

    files: dict[str, bytes]
    """The outputs by name; with a store, where they are already, empty bytes."""
    frames: int
    unreadable: tuple[InputError, ...] = ()
    """Photographs that were left out."""
    ended_by: str | None = None
    """Why a video ended early; what there is of it is an output."""
    depth_scale: float | None = None
    clipped: dict[str, int] | None = None
    """By depth file: pixels beyond what 16 bit hold."""


@dataclass(frozen=True)
class PieceWork:
    """How pieces are run; a worker opens it once."""

    runtime: str
    device: str
    threads: int
    resolution: Resolution | None
    views: tuple[str, ...]
    """Of photographs; a video shows the first."""
    background: Background | None
    first_photo: str | None
    """Chooses the scale of relative depth for all photographs, as the first one does in `dmx run`."""
    storage: Storage | None = None
    """Where a worker puts its outputs; None: they go back as bytes."""

    def open(self, files: BundleFiles) -> Callable[[Piece], PieceResult]:
        """Open the bundle.

        Raises:
            InputError, UsageError, UnavailableError: as `Pipeline.open`.

        """
        # Runtimes map the files: the folder stays as long as the worker.
        folder = tempfile.TemporaryDirectory(prefix="depthmask-bundle-")
        for name, content in files.items():
            path = Path(folder.name) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        pipeline = Pipeline.open(
            folder.name,
            self.runtime,
            self.device,
            self.threads,
            resolution=self.resolution,
            spin=False,
        )
        return _Worker(self, pipeline, folder, self._scale(pipeline))

    def _scale(self, pipeline: Pipeline) -> float | None:
        if self.first_photo is None or "depth" not in self.views:
            return None
        with _here((self.first_photo,)) as (path,), _unpacked(path) as (first, *_):
            (frame,) = ImageSource([first], self.first_photo)
        prediction = pipeline(frame.image_HW3)
        return depth_scale(prediction.depth_HW, pipeline.manifest.chain.depth_unit)


@dataclass(frozen=True)
class _Worker:
    work: PieceWork
    pipeline: Pipeline
    folder: tempfile.TemporaryDirectory[str]
    depth_scale: float | None

    def __call__(self, piece: Piece) -> PieceResult:
        chain = self.pipeline.manifest.chain
        look = Look(chain.kind, chain.depth_unit, background=self.work.background)
        with (
            tempfile.TemporaryDirectory(prefix="depthmask-piece-") as folder,
            _here(piece.files) as paths,
        ):
            target = Path(folder) / "out"
            if piece.kind == "video":
                result = self._video(piece, paths, target, look)
            elif piece.kind == "photographs":
                result = self._photographs(piece, paths, target, look)
            else:
                with _unpacked(paths[0]) as photos:
                    names = tuple(f"{piece.names[0]}_{photo.stem}" for photo in photos)
                    files = tuple(f"{photo.name} in {piece.files[0]}" for photo in photos)
                    inside = replace(piece, files=files, names=names)
                    result = self._photographs(inside, photos, target, look)
        if self.work.storage is None:
            return result
        for name, content in result.files.items():
            self.work.storage.write(name, content)
        return replace(result, files=dict.fromkeys(result.files, b""))

    def _video(
        self, piece: Piece, paths: tuple[Path, ...], target: Path, look: Look
    ) -> PieceResult:
        target.mkdir()
        view = self.work.views[0]
        look = replace(
            look, background=look.background or Background()
        )  # a video is not transparent
        file = target / f"{piece.names[0]}.{view}.mp4"
        with open_video(paths[0]) as source, VideoSink(file, view, look, fps=source.fps) as sink:
            summary = run(self.pipeline, source, sink)
        ended_by = None if summary.ended_by is None else str(summary.ended_by)
        return PieceResult({file.name: file.read_bytes()}, summary.frames, ended_by=ended_by)

    def _photographs(
        self, piece: Piece, paths: tuple[Path, ...], target: Path, look: Look
    ) -> PieceResult:
        source = ImageSource(paths, str(piece), piece.names)
        sink = FolderSink(target, self.work.views, look, scale=self.depth_scale)
        try:
            with sink:
                frames = run(self.pipeline, source, sink).frames
        except InputError:
            if len(source.unreadable) < len(paths):
                raise
            return PieceResult({}, 0, _told(source.unreadable, piece, paths))
        files = {path.name: path.read_bytes() for path in sorted(target.iterdir())}
        depth = files.pop(DEPTH_FILE, None)
        names = json.loads(depth)["files"] if depth is not None else []
        return PieceResult(
            files,
            frames,
            _told(source.unreadable, piece, paths),
            depth_scale=self.depth_scale,
            clipped=sink.clipped | {name: 0 for name in names if name not in sink.clipped},
        )


def first_readable(pieces: tuple[Piece, ...]) -> str | None:
    """The first photograph that can be read, or shard whose first one can be; None: there is none."""
    still = sorted((piece for piece in pieces if piece.kind != "video"), key=lambda p: p.kind)
    for file in (file for piece in still for file in piece.files):
        with suppress(InputError), _here((file,)) as (path,), _unpacked(path) as (first, *_):
            if any(True for _ in ImageSource([first], file)):
                return file
    return None


def read_bundle(bundle: Bundle) -> BundleFiles:
    """All files of a bundle, to send to the workers."""
    names = sorted(path for path in bundle.path.rglob("*") if path.is_file())
    return {path.relative_to(bundle.path).as_posix(): path.read_bytes() for path in names}


@contextmanager
def _here(files: tuple[str, ...]) -> Iterator[tuple[Path, ...]]:
    """The files as local paths: those of stores are fetched, and go when the block ends."""
    with tempfile.TemporaryDirectory(prefix="depthmask-fetched-") as folder:
        yield tuple(
            _fetched(file, Path(folder) / str(number)) if is_url(file) else Path(file)
            for number, file in enumerate(files)
        )


@contextmanager
def _unpacked(path: Path) -> Iterator[tuple[Path, ...]]:
    """The photographs of a shard, as files that go when the block ends; anything else is itself.

    Raises:
        InputError: the shard is damaged, or there is no sample in it.

    """
    if path.suffix.lower() != SHARD_SUFFIX:
        yield (path,)
        return
    shard = ShardedFiles((path,))
    if not len(shard):
        raise InputError(f"{path} must be a shard with samples, but there are none in it")
    with tempfile.TemporaryDirectory(prefix="depthmask-shard-") as folder:
        photos = []
        for sample in map(shard.read, range(len(shard))):
            # A sample's name may have folders in it, and its image any format: that is told by its bytes.
            photos.append(Path(folder) / f"{sample.name.replace('/', '_')}.jpg")
            photos[-1].write_bytes(sample.image.content)
        yield tuple(photos)


def _fetched(url: str, folder: Path) -> Path:
    place, _, name = url.rpartition("/")
    folder.mkdir()
    path = folder / PurePosixPath(name).name
    path.write_bytes(Storage(place).read(name))
    return path


def _told(
    errors: tuple[InputError, ...], piece: Piece, paths: tuple[Path, ...]
) -> tuple[InputError, ...]:
    """With the names that the user gave, instead of where a file was fetched to."""
    names = dict(zip(map(str, paths), piece.files, strict=True))
    told = []
    for error in errors:
        text = str(error)
        for path, name in names.items():
            text = text.replace(path, name)
        told.append(InputError(text))
    return tuple(told)
