"""Training samples as a torch data set, and batches of them from worker processes.

Shapes: B batch, H and W the network's size.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from depthmask.errors import DepthmaskError, UnavailableError
from depthmask.frames import FloatArray, Normalisation, Resolution, resize_weights, to_network
from depthmask.train.parking import ParkedAssets, parked
from depthmask.train.recipe import Recipe
from depthmask.train.schedule import Draw
from depthmask.train.sources import RecipeSource, Source, TrainingSample
from depthmask.train.workers import starting


class Batch(NamedTuple):
    """Samples at a network's size; a single one has no B."""

    image_B3HW: Tensor
    """Normalised."""
    mask_B1HW: Tensor
    """In [0, 1]; zeros where it is not known."""
    mask_known_B: Tensor
    depth_B1HW: Tensor
    """NaN = missing."""
    metric_B: Tensor
    """Whether the depth is in metres; else its unit is unknown."""
    number_B: Tensor
    """The samples' numbers in the training."""

    def part(self, rows: slice) -> Batch:
        """Some of the samples."""
        return Batch(*(tensor[rows] for tensor in self))

    def to(self, device: torch.device) -> Batch:
        """On a device, the image channels-last."""
        moved = Batch(*(tensor.to(device, non_blocking=True) for tensor in self))
        image_B3HW = moved.image_B3HW.contiguous(memory_format=torch.channels_last)
        return moved._replace(image_B3HW=image_B3HW)


class MixedDataset(Dataset[Batch]):
    """Samples of several sources, by `Draw`: a torch data set, made and read on the fly."""

    def __init__(self, sources: Sequence[Source], normalisation: Normalisation) -> None:
        self.sources = tuple(sources)
        self.normalisation = normalisation

    def __getitem__(self, draw: Draw) -> Batch:
        sample = self.sources[draw.source].sample(draw.index, draw.number)
        resolution = Resolution(draw.resolution_px, draw.resolution_px)
        return sample_tensors(sample, resolution, self.normalisation, draw.number)


def sample_tensors(
    sample: TrainingSample, resolution: Resolution, normalisation: Normalisation, number: int = 0
) -> Batch:
    """One sample at a network's size: image (3,H,W), mask (1,H,W), depth (1,H,W)."""
    size = (resolution.height, resolution.width)
    image_3HW = to_network(sample.image_HW3[None], resolution, normalisation)[0]
    mask_HW = np.zeros(size, np.float32)
    if sample.mask_HW is not None:
        mask_HW = _stretch(sample.mask_HW.astype(np.float32) / np.float32(255), resolution)
    depth_HW = np.full(size, math.nan, np.float32)
    if sample.depth_HW is not None:
        # Depth must not blend across edges, so it takes the nearest sample.
        rows, columns = (
            ((np.arange(out) + 0.5) * side // out).astype(int)
            for out, side in zip(size, sample.depth_HW.shape, strict=True)
        )
        depth_HW = sample.depth_HW[np.ix_(rows, columns)]
    return Batch(
        torch.from_numpy(image_3HW),
        torch.from_numpy(mask_HW)[None],
        torch.tensor(sample.mask_HW is not None),
        torch.from_numpy(depth_HW)[None],
        torch.tensor(sample.metric),
        torch.tensor(number),
    )


def batches(
    dataset: MixedDataset,
    draws: Iterator[list[Draw]],
    workers: int,
    folder: Path | None = None,
) -> Generator[Batch, None, None]:
    """One batch for each list of draws, made by `workers` processes (0: by this one).

    The workers share the recipe's pictures by a temporary file in `folder`.

    Raises:
        InputError: a sample of a data set is damaged.
        OutputError: the folder for temporary files cannot be written.
        UnavailableError: a worker died.

    """
    with _for_workers(dataset, workers, folder) as source:
        loader = DataLoader(
            source,
            batch_sampler=draws,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_stay_out_of_the_way,
            # A fork would inherit the locks of OpenCV's and BLAS' threads, and hang.
            multiprocessing_context="spawn" if workers else None,
        )
        try:
            with starting():
                iterator = iter(loader)
            try:
                yield from iterator
            finally:
                if workers:  # they end before their pictures go, though an error still holds them
                    iterator._shutdown_workers()  # type: ignore[attr-defined]
        except DepthmaskError as error:
            # A worker's arrives with its traceback in the message, which is for bugs only.
            raise type(error)(
                str(error).rpartition(f"{type(error).__name__}: ")[2].strip()
            ) from error
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UnavailableError(
                f"a worker that composes samples must stay alive, but it died ({error}), often for"
                " lack of memory. Try --workers 0"
            ) from error


class _WorkersDataset(Dataset[Batch]):
    """A MixedDataset whose recipe's pictures are parked; opened on first use."""

    def __init__(self, dataset: MixedDataset, recipe: Recipe, pictures: ParkedAssets) -> None:
        self._recipe, self._pictures = recipe, pictures
        self._others, self._normalisation = dataset.sources[1:], dataset.normalisation
        self._opened: MixedDataset | None = None

    def __getitem__(self, draw: Draw) -> Batch:
        if self._opened is None:
            recipe = RecipeSource(self._recipe, self._pictures.open())
            self._opened = MixedDataset([recipe, *self._others], self._normalisation)
        return self._opened[draw]


@contextmanager
def _for_workers(
    dataset: MixedDataset, workers: int, folder: Path | None
) -> Iterator[Dataset[Batch]]:
    recipe = dataset.sources[0]
    if not workers or not isinstance(recipe, RecipeSource):
        yield dataset
        return
    with parked(recipe.assets, folder) as pictures:
        yield _WorkersDataset(dataset, recipe.recipe, pictures)


def _stay_out_of_the_way(worker: int) -> None:
    """A worker composes; the cores are for training."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def _stretch(map_HW: FloatArray, resolution: Resolution) -> FloatArray:
    rows = resize_weights(map_HW.shape[0], resolution.height)
    columns = resize_weights(map_HW.shape[1], resolution.width)
    return np.asarray(rows @ map_HW @ columns.T, np.float32)
