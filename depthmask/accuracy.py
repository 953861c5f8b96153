"""Accuracy of anything that predicts a mask and a depth, over a data set.

Mask: means over the images that have one. Depth: pooled over all valid pixels, inside the true mask
and over the whole frame, each as it stands (`unaligned`, in metres) and with every image's depth
scaled so that its median is right (`median_scaled`; Zhou et al., CVPR 2017), which asks for the
shape only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np

from depthmask.errors import CheckFailedError, InputError, UsageError
from depthmask.frames import FloatArray, UInt8Array
from depthmask.metrics import (
    DepthAccumulator,
    DepthMetrics,
    Intervals,
    MaskAccumulator,
    MaskMetrics,
    binary,
    median_scaled,
    valid_pixels,
)
from depthmask.presets import Kind
from depthmask.samples import LabelledSample, Samples


class PredictionLike(Protocol):
    """What a predictor gives: maps of the frame's size."""

    @property
    def mask_HW(self) -> FloatArray:
        """In [0, 1]."""

    @property
    def depth_HW(self) -> FloatArray:
        """Growing with distance."""


Predict = Callable[[UInt8Array], PredictionLike]
"""From a frame (H,W,3) uint8 RGB; a `Pipeline` is one."""
Progress = Callable[[int, int], None]
"""Called after each image with the number done and the number in all."""


class DepthAccuracy(msgspec.Struct, frozen=True):
    """Depth over one region of the images; lengths in metres."""

    unaligned: DepthMetrics | None
    """None where the data set's depth is not in metres."""
    median_scaled: DepthMetrics


class AccuracyResult(msgspec.Struct, frozen=True, kw_only=True):
    """Over `count` images. A part is None where the data set has no label for it; never NaN."""

    data: str
    count: int
    mask: MaskMetrics | None
    mask_count: int
    mask_share: float
    """Mean of the predicted soft mask: how much of the frames it lets through (its sparsity)."""
    depth_in_mask: DepthAccuracy | None
    depth_frame: DepthAccuracy | None
    intervals: Intervals = {}
    """95 % of each metric, as `mask.iou` and `depth_frame.median_scaled.delta1`, by bootstrap over the
    images; none of fewer than two images."""


def judged_depth(accuracy: AccuracyResult, kind: Kind) -> DepthAccuracy | None:
    """The depth that a chain of this kind is judged by; None where the labels do not allow it.

    A foreground chain is judged inside the true mask, a relevance chain over the whole frame.
    """
    return accuracy.depth_in_mask if kind == "foreground" else accuracy.depth_frame


@dataclass(frozen=True)
class Guess:
    """A prediction by a baseline: mask_HW in [0, 1], depth_HW in metres."""

    mask_HW: FloatArray
    depth_HW: FloatArray


class _DepthPair:
    """Depth over one region: of each image the K pixels in it."""

    def __init__(self, samples: Samples) -> None:
        self._metric = samples.depth_unit == "m"
        self._unaligned = DepthAccumulator()
        self._scaled = DepthAccumulator()

    def add(self, prediction_K: FloatArray, target_K: FloatArray) -> None:
        self._unaligned.add(prediction_K, target_K)
        self._scaled.add(median_scaled(prediction_K, target_K), target_K)

    def result(self) -> DepthAccuracy | None:
        unaligned, scaled = self._unaligned.result(), self._scaled.result()
        return DepthAccuracy(unaligned if self._metric else None, scaled) if scaled else None

    def intervals(self) -> Intervals:
        found = _named("median_scaled", self._scaled.intervals())
        return found | _named("unaligned", self._unaligned.intervals()) if self._metric else found


def accuracy(
    predict: Predict,
    samples: Samples,
    limit: int | None = None,
    progress: Progress | None = None,
) -> AccuracyResult:
    """Predict every image of a data set (the first `limit`) and compare with its labels.

    Raises:
        UsageError: `limit` is not positive.
        InputError: there is no label, a file is bad, or a prediction has not its frame's size.
        CheckFailedError: a prediction is not finite.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"the limit must be 1 or more images, but got {limit}")
    if not samples.labelled:
        raise InputError(
            f"{samples.name} must have masks (NAME.mask.png) or depths (NAME.depth.png) to measure"
            " accuracy, but it has neither. Try `dmx data compose` to make a labelled data set"
        )
    count = min(len(samples), limit or len(samples))
    judge = _Judge(samples)
    # Reading the next sample and judging the last one cost the predictor no time.
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as judging:
        judged: Future[None] | None = None
        next_sample = reading.submit(samples.__getitem__, 0)
        for index in range(count):
            sample = next_sample.result()
            if index + 1 < count:
                next_sample = reading.submit(samples.__getitem__, index + 1)
            prediction = predict(sample.image_HW3)
            if judged is not None:
                judged.result()
            judged = judging.submit(judge.add, prediction, sample)
            if progress is not None:
                progress(index + 1, count)
        if judged is not None:
            judged.result()
    return judge.result()


class _Judge:
    """Compares predictions with labels, in the order of the data set."""

    def __init__(self, samples: Samples) -> None:
        self._data = samples.name
        self._masks = MaskAccumulator()
        self._in_mask, self._frame = _DepthPair(samples), _DepthPair(samples)
        self._count = self._mask_count = 0
        self._share_sum = 0.0

    def add(self, prediction: PredictionLike, sample: LabelledSample) -> None:
        self._count += 1
        self._share_sum += _mask_share(prediction, sample)
        true_HW = None
        if sample.mask_HW is not None:
            # As floats: a uint8 mask with nothing above 1 would be refused as ambiguous.
            soft_HW = sample.mask_HW.astype(np.float32) / 255
            true_HW = binary(soft_HW)
            self._masks.add(prediction.mask_HW, soft_HW)
            self._mask_count += 1
        if sample.depth_m_HW is not None:
            present_HW = valid_pixels(prediction.depth_HW, sample.depth_m_HW)
            predicted_K = prediction.depth_HW[present_HW]
            target_K = sample.depth_m_HW[present_HW]
            self._frame.add(predicted_K, target_K)
            if true_HW is not None:
                inside_K = true_HW[present_HW]
                self._in_mask.add(predicted_K[inside_K], target_K[inside_K])

    def result(self) -> AccuracyResult:
        return AccuracyResult(
            data=self._data,
            count=self._count,
            mask=self._masks.result(),
            mask_count=self._mask_count,
            mask_share=self._share_sum / self._count,
            depth_in_mask=self._in_mask.result(),
            depth_frame=self._frame.result(),
            intervals=_named("mask", self._masks.intervals())
            | _named("depth_in_mask", self._in_mask.intervals())
            | _named("depth_frame", self._frame.intervals()),
        )


def _named(prefix: str, intervals: Intervals) -> Intervals:
    return {f"{prefix}.{name}": interval for name, interval in intervals.items()}


def _mask_share(prediction: PredictionLike, sample: LabelledSample) -> float:
    share = float(prediction.mask_HW.mean())
    if not math.isfinite(share):
        raise CheckFailedError(
            f"a predicted mask must be finite, but that of {sample.name} holds NaN or infinity. Try"
            " `dmx verify` on the bundle"
        )
    return share


def baseline(frame_HW3: UInt8Array) -> Guess:
    """A predictor that does not look at the frame: what any network must beat."""
    height, width = frame_HW3.shape[:2]
    return Guess(centre_prior(height, width), lower_is_nearer(height, width))


def centre_prior(height: int, width: int) -> FloatArray:
    """A mask that says: an ellipse in the middle, half the frame high and wide."""
    rows_H1 = ((np.arange(height) + 0.5) / height - 0.5)[:, None]
    columns_1W = ((np.arange(width) + 0.5) / width - 0.5)[None]
    return ((rows_H1 / 0.25) ** 2 + (columns_1W / 0.25) ** 2 <= 1).astype(np.float32)


def lower_is_nearer(height: int, width: int) -> FloatArray:
    """A depth in metres that says: flat ground seen from 1.5 m above it, and a wall 8 m away.

    The focal length is the frame's height, the horizon at 40 % of it.
    """
    below_horizon_H = np.maximum((np.arange(height) + 0.5) / height - 0.4, 1e-6)
    depth_m_H = np.minimum(1.5 / below_horizon_H, 8.0).astype(np.float32)
    return np.repeat(depth_m_H[:, None], width, axis=1)
