"""Composites as a torch data set, made on the fly."""

from __future__ import annotations

import math
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from depthmask.errors import OutputError, UnavailableError
from depthmask.frames import Normalisation, Resolution, resize_weights, to_network
from depthmask.train.compose import Assets, Cutout, Sample, compose
from depthmask.train.recipe import StageRecipe
from depthmask.train.stage import FloatArray

Batch = tuple[Tensor, Tensor, Tensor]
"""image (B,3,H,W) normalised, mask (B,1,H,W) in [0, 1], depth in metres (B,1,H,W)."""


class CompositeDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Sample i of a recipe at a resolution; any index is valid."""

    def __init__(
        self,
        recipe: StageRecipe,
        assets: Assets,
        resolution: Resolution,
        normalisation: Normalisation,
    ) -> None:
        self.recipe = recipe
        self.assets = assets
        self.resolution = resolution
        self.normalisation = normalisation

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        sample = compose(self.recipe, self.assets, index)
        return sample_tensors(sample, self.resolution, self.normalisation)


def sample_tensors(
    sample: Sample, resolution: Resolution, normalisation: Normalisation
) -> tuple[Tensor, Tensor, Tensor]:
    """One sample at a network's size: image (3,H,W), mask (1,H,W), depth_m (1,H,W)."""
    image_3HW = to_network(sample.image_HW3[None], resolution, normalisation)[0]
    mask_HW = _stretch(sample.mask_HW.astype(np.float32) / np.float32(255), resolution)
    # Depth must not blend across edges, so it takes the nearest sample.
    rows, columns = (
        (np.arange(out) + 0.5) * size // out
        for out, size in zip(
            (resolution.height, resolution.width), sample.depth_m_HW.shape, strict=True
        )
    )
    depth_m_HW = sample.depth_m_HW[np.ix_(rows.astype(int), columns.astype(int))]
    return (
        torch.from_numpy(image_3HW),
        torch.from_numpy(mask_HW)[None],
        torch.from_numpy(depth_m_HW)[None],
    )


def batches(
    dataset: CompositeDataset, batch_size: int, first_index: int, count: int, workers: int
) -> Iterator[Batch]:
    """Batches of consecutive indices: batch k holds first_index + k * batch_size onwards.

    Raises:
        OutputError: the folder for temporary files cannot be written.
        UnavailableError: a worker died.

    """
    with _parked(dataset) if workers else nullcontext(dataset) as source:
        loader = DataLoader(
            source,
            batch_sampler=_Consecutive(first_index, batch_size, count),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_stay_out_of_the_way,
            # A fork would inherit the locks of OpenCV's and BLAS' threads, and hang.
            multiprocessing_context="spawn" if workers else None,
        )
        # BLAS reads these when it loads; a second BLAS thread in a worker only spins, and takes the
        # training's core (19 instead of 40 samples a second on two cores).
        one_thread = _environment(
            OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1"
        )
        try:
            with one_thread, _interrupts_held():
                iterator = iter(loader)
            try:
                yield from iterator
            finally:
                del iterator  # ends the workers, before their pictures go
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UnavailableError(
                f"a worker that composes samples must stay alive, but it died ({error}), often for"
                " lack of memory. Try --workers 0"
            ) from error


class _ParkedDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """A CompositeDataset whose pictures are in one file, mapped on first use.

    So it is small when it is sent to a worker, and all workers share one copy. Sending the pictures
    themselves would block for ever if a worker died while it starts: more than a pipe holds, and
    the sender keeps the reading end open, too (multiprocessing's spawn).
    """

    def __init__(self, dataset: CompositeDataset, file: Path) -> None:
        self._recipe = dataset.recipe
        self._resolution, self._normalisation = dataset.resolution, dataset.normalisation
        cutouts = dataset.assets.foregrounds
        self._names = [cutout.name for cutout in cutouts]
        pictures = [cutout.premultiplied_HW4 for cutout in cutouts] + [*dataset.assets.backgrounds]
        self._shapes = [picture.shape for picture in pictures]
        self._file = file
        self._opened: CompositeDataset | None = None
        with file.open("wb") as stream:
            for picture in pictures:
                stream.write(np.ascontiguousarray(picture).tobytes())

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        if self._opened is None:
            self._opened = self._open()
        return self._opened[index]

    def _open(self) -> CompositeDataset:
        flat = np.memmap(self._file, np.uint8, mode="r")
        ends = np.cumsum([math.prod(shape) for shape in self._shapes])
        parts = np.split(flat, ends[:-1])
        pictures = [part.reshape(s) for part, s in zip(parts, self._shapes, strict=True)]
        count = len(self._names)
        cutouts = map(Cutout, self._names, pictures[:count])
        assets = Assets(tuple(cutouts), tuple(pictures[count:]))
        return CompositeDataset(self._recipe, assets, self._resolution, self._normalisation)


@contextmanager
def _parked(dataset: CompositeDataset) -> Iterator[_ParkedDataset]:
    with tempfile.TemporaryDirectory(prefix="depthmask-") as folder:
        try:
            parked = _ParkedDataset(dataset, Path(folder) / "pictures")
        except OSError as error:
            raise OutputError(
                f"{folder} must hold the pictures for the workers, but got: {error.strerror}. Try"
                " --workers 0, or TMPDIR on another disk"
            ) from error
        yield parked


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back: processes started meanwhile never see it, this one sees it afterwards.

    A terminal sends it to the whole group, and a worker that is still importing would die of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


class _Consecutive(Sampler[list[int]]):
    def __init__(self, first_index: int, batch_size: int, count: int) -> None:
        self.first_index = first_index
        self.batch_size = batch_size
        self.count = count

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.count):
            start = self.first_index + batch * self.batch_size
            yield list(range(start, start + self.batch_size))

    def __len__(self) -> int:
        return self.count


def _stay_out_of_the_way(worker: int) -> None:
    """A worker composes; the cores are for training."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _stretch(map_HW: FloatArray, resolution: Resolution) -> FloatArray:
    rows = resize_weights(map_HW.shape[0], resolution.height)
    columns = resize_weights(map_HW.shape[1], resolution.width)
    return np.asarray(rows @ map_HW @ columns.T, np.float32)
