"""Pieces through the workers of a Ray cluster, and their outputs into one folder or store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from depthmask.atomic import new_folder
from depthmask.bundle import Bundle
from depthmask.errors import DepthmaskError, InputError, OutputError, UsageError
from depthmask.ray_engine import map_on_ray
from depthmask.storage import Storage
from depthmask.video.overlay import Look
from depthmask.video.piece_work import PieceResult, PieceWork, read_bundle
from depthmask.video.pieces import Piece
from depthmask.video.sinks import DEPTH_FILE, depth_document

Write = Callable[[str, bytes], None]


@dataclass
class PiecesSummary:
    """What a job did."""

    frames: int = 0
    files: int = 0
    """Of the sources, also those that failed."""
    failed: list[str] = field(default_factory=list)
    """Why, for each source that could not be done, or not to its end."""


def run_pieces(
    pieces: Sequence[Piece],
    bundle: Bundle,
    work: PieceWork,
    out: Path | Storage,
    *,
    workers: int,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda files: None,
) -> PiecesSummary:
    """Run all pieces; a folder appears when everything is in it, a store fills as it goes.

    A piece that fails is told in the summary, and the others go on.

    Args:
        pieces: From `plan`.
        bundle: Goes to every machine.
        work: How they are run; with `storage` where `out` is a store.
        out: Where to.
        workers: How many, of `work.threads` CPUs each, and of a GPU where the device is cuda.
        overwrite: Replace outputs that are there.
        progress: Called with the files behind us.

    Raises:
        UsageError: `out` is not empty and `overwrite` is off.
        OutputError: it cannot be written.
        InputError: not one source could be done.
        UnavailableError: no worker can start, or one lacks the runtime.

    """
    summary = PiecesSummary()
    places: dict[int, PieceResult] = {}
    numbers = {piece: number for number, piece in enumerate(pieces)}
    with _writer(out, overwrite=overwrite) as write:
        for done in map_on_ray(
            work,
            read_bundle(bundle),
            pieces,
            workers=min(workers, len(pieces)),
            cpus=work.threads,
            gpus=1 if work.device == "cuda" else 0,
            same=(work.runtime,),
        ):
            piece, result = done.task, done.result
            summary.files += len(piece.files)
            if result is None:
                assert done.error is not None
                if isinstance(done.error, OutputError):
                    raise done.error
                summary.failed.append(_told(piece, done.error))
            else:
                _keep(result, write if work.storage is None else None, summary)
                places[numbers[piece]] = PieceResult(
                    {}, 0, depth_scale=result.depth_scale, clipped=result.clipped
                )
            progress(summary.files)
        if summary.frames == 0:
            raise InputError(
                f"none of the {summary.files} sources could be done; the first: {summary.failed[0]}"
            )
        _write_depth(write, [places[number] for number in sorted(places)], bundle)
    return summary


def check_store(storage: Storage, *, overwrite: bool) -> None:
    """Refuse a store's folder that is not empty, before any work.

    Raises:
        UsageError: it is not, and `overwrite` is off.
        InputError: it cannot be listed.

    """
    there = storage.names()
    if there and not overwrite:
        raise UsageError(
            f"{storage.url} must be empty, but it holds {min(there)!r}. Try --overwrite or another --out"
        )


@contextmanager
def _writer(out: Path | Storage, *, overwrite: bool) -> Iterator[Write]:
    if isinstance(out, Storage):
        check_store(out, overwrite=overwrite)
        yield out.write
        return
    with new_folder(out, overwrite=overwrite, check_owner=False) as folder:

        def write(name: str, content: bytes) -> None:
            (folder / name).write_bytes(content)

        yield write


def _keep(result: PieceResult, write: Write | None, summary: PiecesSummary) -> None:
    if write is not None:
        for name, content in result.files.items():
            write(name, content)
    summary.frames += result.frames
    summary.failed.extend(str(error) for error in result.unreadable)
    if result.ended_by is not None:
        summary.failed.append(result.ended_by)


def _write_depth(write: Write, results: Sequence[PieceResult], bundle: Bundle) -> None:
    clipped = {name: count for result in results for name, count in (result.clipped or {}).items()}
    if not clipped:
        return
    scales = {result.depth_scale for result in results if result.clipped}
    scale = next(iter(scales))
    if len(scales) > 1 or scale is None:
        raise OutputError(
            f"all depth files must be of one scale, but the workers chose {scales}: their machines compute"
            " differently. Try machines of one kind"
        )
    chain = bundle.manifest.chain
    write(DEPTH_FILE, depth_document(Look(chain.kind, chain.depth_unit), scale, clipped))


def _told(piece: Piece, error: DepthmaskError) -> str:
    text = str(error)
    return text if any(file in text for file in piece.files) else f"{piece}: {text}"
