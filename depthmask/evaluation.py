"""Accuracy of a bundle or a checkpoint on a data set, beside a baseline that does not look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from depthmask import models
from depthmask.accuracy import AccuracyResult, Predict, Progress, accuracy, baseline
from depthmask.bundle import MANIFEST_FILE, SHIPPED_BUNDLE, open_bundle
from depthmask.errors import InputError, UsageError
from depthmask.frames import LARGEST_SIDE_PX, SMALLEST_SIDE_PX, Resolution
from depthmask.pipeline import Pipeline
from depthmask.presets import ChainSpec
from depthmask.samples import Samples

CHECKPOINT_FILE = "checkpoint.json"  # as in checkpoint.py, which imports torch
CHECKPOINT_RESOLUTION = Resolution(224, 224)


class ResolutionAccuracy(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy of the model at one resolution."""

    height_px: int
    width_px: int
    runtime: str
    device: str
    accuracy: AccuracyResult

    @property
    def resolution(self) -> Resolution:
        """What the networks saw."""
        return Resolution(self.height_px, self.width_px)


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What `dmx evaluate --json` prints."""

    schema: Literal[1] = 1
    model: str
    chain: ChainSpec
    results: tuple[ResolutionAccuracy, ...]
    """Smallest resolution first."""
    baseline: AccuracyResult
    """Of an ellipse in the middle and flat ground (`accuracy.baseline`)."""


class _Phase(msgspec.Struct):
    resolution_px: Annotated[int, msgspec.Meta(ge=SMALLEST_SIDE_PX, le=LARGEST_SIDE_PX)]


class _Config(msgspec.Struct):
    phases: Annotated[list[_Phase], msgspec.Meta(min_length=1)]


class _Training(msgspec.Struct):
    """What a checkpoint records of its training, as far as it is needed."""

    config: _Config


Opened = AbstractContextManager[tuple[Predict, str, str]]
"""A predictor with its runtime and device."""


def evaluate(
    path: Path | None,
    samples: Samples,
    *,
    resolutions: Sequence[Resolution] | None = None,
    limit: int | None = None,
    runtime: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a bundle or a checkpoint; by default the shipped bundle.

    Args:
        path: a bundle (it has a manifest.json) or a checkpoint (checkpoint.json).
        samples: with masks, depths or both.
        resolutions: by default all that the bundle holds; of a checkpoint the one that its training
            ended at, or 224 where it does not say.
        limit: the first so many images; by default all.
        runtime: for a bundle; a checkpoint runs on torch.
        device: `auto`, `cpu` or `cuda`; a checkpoint runs on the CPU.
        threads: CPU threads.
        progress: called after each image with the number done and the number in all.

    Raises:
        InputError: neither a bundle nor a checkpoint, or damaged, or samples without labels.
        UsageError: the bundle lacks a resolution, or a checkpoint was asked onto another runtime.
        UnavailableError: the runtime's package or the device is missing.
        CheckFailedError: the networks gave a value that is not finite.
    """
    folder = path or SHIPPED_BUNDLE
    if (folder / CHECKPOINT_FILE).is_file() and not (folder / MANIFEST_FILE).is_file():
        chain, opener, held = _checkpoint(folder, runtime, device, threads)
    elif path is None or (folder / MANIFEST_FILE).is_file():
        chain, opener, held = _bundle(folder, runtime, device, threads, resolutions)
    else:
        raise InputError(
            f"{folder} must be a bundle (with {MANIFEST_FILE}) or a checkpoint (with"
            f" {CHECKPOINT_FILE}), but it is neither. Try `dmx export` or `dmx train`"
        )
    asked = tuple(resolutions or held)
    passes = _Passes(progress, len(asked) + 1)
    guessed = accuracy(baseline, samples, limit, passes.next())
    results = []
    for resolution in asked:
        with opener(resolution) as (predict, runtime_name, device_name):
            measured = accuracy(predict, samples, limit, passes.next())
        results.append(
            ResolutionAccuracy(
                height_px=resolution.height,
                width_px=resolution.width,
                runtime=runtime_name,
                device=device_name,
                accuracy=measured,
            )
        )
    return Evaluation(model=str(folder), chain=chain, results=tuple(results), baseline=guessed)


class _Passes:
    """Several passes over the data as one progress."""

    def __init__(self, progress: Progress | None, count: int) -> None:
        self._progress = progress
        self._count = count
        self._started = 0

    def next(self) -> Progress:
        """For the next pass."""
        number = self._started
        self._started += 1

        def report(done: int, total: int) -> None:
            if self._progress is not None:
                self._progress(number * total + done, self._count * total)

        return report


def _bundle(
    folder: Path,
    runtime: str,
    device: str,
    threads: int | None,
    resolutions: Sequence[Resolution] | None,
) -> tuple[ChainSpec, Callable[[Resolution], Opened], tuple[Resolution, ...]]:
    bundle = open_bundle(folder)
    for resolution in resolutions or ():
        bundle.graph(resolution)  # refuse what it lacks before any work

    def opener(resolution: Resolution) -> Opened:
        return _OpenedPipeline(
            Pipeline.open(
                folder, runtime, device, threads, resolution=resolution, check_files=False
            )
        )

    return bundle.manifest.chain, opener, bundle.manifest.resolutions


class _OpenedPipeline(AbstractContextManager[tuple[Predict, str, str]]):
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def __enter__(self) -> tuple[Predict, str, str]:
        return self._pipeline, self._pipeline.runtime.name, self._pipeline.runtime.device

    def __exit__(self, *_: object) -> None:
        self._pipeline.close()


def _checkpoint(
    folder: Path, runtime: str, device: str, threads: int | None
) -> tuple[ChainSpec, Callable[[Resolution], Opened], tuple[Resolution, ...]]:
    if runtime not in ("auto", "torch") or device not in ("auto", "cpu"):
        raise UsageError(
            f"a checkpoint must be evaluated with torch on the cpu, but got --runtime {runtime}"
            f" --device {device}. Try `dmx export --checkpoint {folder}` and evaluate the bundle"
        )
    models.require_torch()
    import torch

    from depthmask.checkpoint import load_checkpoint, read_info
    from depthmask.runtimes.torch_runtime import ChainPredictor

    if threads is not None:
        torch.set_num_threads(threads)
    chain = load_checkpoint(folder)

    def opener(resolution: Resolution) -> Opened:
        return nullcontext((ChainPredictor(chain, resolution), "torch", "cpu"))

    return chain.spec, opener, (_trained_resolution(read_info(folder).training),)


def _trained_resolution(training: dict[str, Any]) -> Resolution:
    """Of the last phase; not every checkpoint was trained by us."""
    try:
        phases = msgspec.convert(training, _Training).config.phases
    except msgspec.ValidationError:
        return CHECKPOINT_RESOLUTION
    return Resolution(phases[-1].resolution_px, phases[-1].resolution_px)
