"""How much masks and depths of a video flicker: what changes from frame to frame though nothing moved.

A video has no labels. So the maps of frame t - 1 are moved along the optical flow onto frame t, and what
differs there is counted: the warping error of Lai et al. ("Learning Blind Video Temporal Consistency",
ECCV 2018), with absolute differences where they square them:

- w is the flow from frame t to t - 1, f that from t - 1 to t, both by DIS (Kroeger et al., "Fast Optical
  Flow using Dense Inverse Search", ECCV 2016; OpenCV's, preset medium) on the grey frames. The map
  before, moved: m'(x) = m(t-1, x + w(x)), linear between pixels.
- A pixel x counts where x + w(x) is in the frame and the flows there and back agree:
  |w(x) + f(x + w(x))|^2 <= 0.01 (|w(x)|^2 + |f(x + w(x))|^2) + 0.5 (Sundaram, Brox, Keutzer, ECCV 2010,
  as Ruder et al., GCPR 2016, and Lai et al. take it). Their second condition, which leaves out the edges
  of motion, is left out itself: there are the edges of the mask.
- mask: mean over the pixels that count of |m(t, x) - m'(x)|, in [0, 1].
- depth: mean of |d(t, x) - d'(x)| / max(d(t, x), d'(x)), in [0, 1], negative depths as 0: a relative
  change, the same in any unit. Over the frame, and inside the mask: where m(t, x) and m'(x) are 0.5 or more.
- Of a clip the mean over its pairs of frames. A pair is left out, and counted, where less than half of its
  pixels count (a cut, or motion that the flow cannot follow) or the size of the frames changes.
- `mask_unwarped` is the mean of |m(t, x) - m(t-1, x)| over all pixels of these pairs: with the motion in it.

Frames and maps of more than 320 px are shrunk first, so that the cost is bounded. A camera that comes nearer
changes every depth, and that counts. Errors of the flow and the blur of moving a map count too, so the
figure of a perfect network is not 0 where things move: compare cells on one clip, not clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import msgspec
import numpy as np

from depthmask.accuracy import PredictionLike
from depthmask.errors import CheckFailedError, InputError
from depthmask.frames import FloatArray, UInt8Array
from depthmask.presets import Kind

LONGEST_SIDE_PX = 320
SMALLEST_SIDE_PX = 16
"""DIS needs a few of its patches of 8 px."""
_LEAST_VISIBLE_SHARE = 0.5
_AGREE_SHARE, _AGREE_PX2 = 0.01, 0.5
_INSIDE = 0.5


class FlickerResult(msgspec.Struct, frozen=True, kw_only=True):
    """Over `pairs` of frames; a figure is None where no pair has it, never NaN. See the module's top."""

    data: str
    frames: int
    pairs: int
    pairs_left_out: int
    visible_share: float | None
    """Mean share of the pixels that counted."""
    mask: float | None
    mask_unwarped: float | None
    depth_in_mask: float | None
    depth_frame: float | None

    def depth(self, kind: Kind) -> float | None:
        """Where a chain of this kind is judged: inside its mask, or over the whole frame."""
        return self.depth_in_mask if kind == "foreground" else self.depth_frame


class FlickerMeter:
    """Takes the frames of a video one after the other, and keeps only the last."""

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._before: tuple[UInt8Array, FloatArray, FloatArray] | None = None
        self._frames = 0
        self._left_out = 0
        self._figures: dict[str, list[float]] = {}

    def add(self, frame_HW3: UInt8Array, prediction: PredictionLike) -> None:
        """Take in the next frame, (H,W,3) uint8 RGB, and what was predicted for it.

        Raises:
            InputError: the frame is smaller than 16x16, or a map has not its size.
            CheckFailedError: a map is not finite.
        """
        _check(frame_HW3, prediction)
        grey_HW = np.asarray(cv2.cvtColor(frame_HW3, cv2.COLOR_RGB2GRAY), np.uint8)
        now = (
            _shrunk(grey_HW).astype(np.uint8),
            _shrunk(prediction.mask_HW),
            _shrunk(np.maximum(prediction.depth_HW, 0)),
        )
        before, self._before = self._before, now
        self._frames += 1
        if before is not None:
            self._compare(before, now)

    def result(self, data: str) -> FlickerResult:
        """Means over the pairs so far; `data` is the clip's name."""
        means = {name: float(np.mean(values)) for name, values in self._figures.items()}
        return FlickerResult(
            data=data,
            frames=self._frames,
            pairs=len(self._figures.get("mask", ())),
            pairs_left_out=self._left_out,
            visible_share=means.get("visible_share"),
            mask=means.get("mask"),
            mask_unwarped=means.get("mask_unwarped"),
            depth_in_mask=means.get("depth_in_mask"),
            depth_frame=means.get("depth_frame"),
        )

    def _compare(
        self,
        before: tuple[UInt8Array, FloatArray, FloatArray],
        now: tuple[UInt8Array, FloatArray, FloatArray],
    ) -> None:
        if before[0].shape != now[0].shape:
            self._left_out += 1
            return
        places_HW2, visible_HW = self._follow(before[0], now[0])
        visible_share = float(visible_HW.mean())
        if visible_share < _LEAST_VISIBLE_SHARE:
            self._left_out += 1
            return
        moved_mask_HW, moved_depth_HW = (_sampled(map_HW, places_HW2) for map_HW in before[1:])
        _, mask_HW, depth_HW = now
        inside_HW = visible_HW & (mask_HW >= _INSIDE) & (moved_mask_HW >= _INSIDE)
        largest_HW = np.maximum(depth_HW, moved_depth_HW)
        change_HW = np.abs(depth_HW - moved_depth_HW) / np.where(largest_HW > 0, largest_HW, 1)
        figures = {
            "visible_share": visible_share,
            "mask": float(np.abs(mask_HW - moved_mask_HW)[visible_HW].mean()),
            "mask_unwarped": float(np.abs(mask_HW - before[1]).mean()),
            "depth_frame": float(change_HW[visible_HW].mean()),
        }
        if inside_HW.any():
            figures["depth_in_mask"] = float(change_HW[inside_HW].mean())
        for name, value in figures.items():
            self._figures.setdefault(name, []).append(value)

    def _follow(
        self, before_HW: UInt8Array, now_HW: UInt8Array
    ) -> tuple[FloatArray, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
        """Where each pixel of `now` was before, as (H,W,2) x and y, and whether it was there to be seen."""
        back_HW2 = np.asarray(self._flow.calc(now_HW, before_HW, None), np.float32)  # type: ignore[call-overload]  # None: no first guess
        forth_HW2 = np.asarray(self._flow.calc(before_HW, now_HW, None), np.float32)  # type: ignore[call-overload]
        height, width = now_HW.shape
        grid_HW2 = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        places_HW2 = (grid_HW2 + back_HW2).astype(np.float32)
        forth_there_HW2 = _sampled(forth_HW2, places_HW2)
        gap_HW = _square(back_HW2 + forth_there_HW2)
        allowed_HW = _AGREE_SHARE * (_square(back_HW2) + _square(forth_there_HW2)) + _AGREE_PX2
        last_xy = np.array([width - 1, height - 1])
        in_frame_HW = ((places_HW2 >= 0) & (places_HW2 <= last_xy)).all(axis=-1)
        return places_HW2, in_frame_HW & (gap_HW <= allowed_HW)


def flicker(
    predict: Callable[[UInt8Array], PredictionLike], frames: Iterable[UInt8Array], data: str
) -> FlickerResult:
    """Predict the frames of a video in order, (H,W,3) uint8 RGB, and measure how the maps flicker.

    Raises:
        InputError: a frame is smaller than 16x16, or a prediction has not its frame's size.
        CheckFailedError: a prediction is not finite.
    """
    meter = FlickerMeter()
    for frame_HW3 in frames:
        meter.add(frame_HW3, predict(frame_HW3))
    return meter.result(data)


def _check(frame_HW3: UInt8Array, prediction: PredictionLike) -> None:
    size = frame_HW3.shape[:2]
    if min(size) < SMALLEST_SIDE_PX:
        raise InputError(
            f"the frames of a video must be {SMALLEST_SIDE_PX}x{SMALLEST_SIDE_PX} or larger to follow"
            f" motion in them, but got {size[0]}x{size[1]}"
        )
    for name, map_HW in (("mask", prediction.mask_HW), ("depth", prediction.depth_HW)):
        if map_HW.shape != size:
            raise InputError(
                f"a predicted {name} must have its frame's size {size}, but got {map_HW.shape}"
            )
        if not np.isfinite(map_HW).all():
            raise CheckFailedError(
                f"a predicted {name} must be finite, but it holds NaN or infinity. Try `dmx verify`"
                " on the bundle"
            )


def _shrunk(map_HW: UInt8Array | FloatArray) -> FloatArray:
    """To 320 px at most on the longer side."""
    height, width = map_HW.shape
    scale = LONGEST_SIDE_PX / max(height, width)
    if scale >= 1:
        return np.asarray(map_HW, np.float32)
    size = tuple(max(SMALLEST_SIDE_PX, round(scale * side)) for side in (width, height))
    return np.asarray(cv2.resize(map_HW, size, interpolation=cv2.INTER_AREA), np.float32)


def _sampled(map_HW: FloatArray, places_HW2: FloatArray) -> FloatArray:
    """The map, of one or several channels, at places between its pixels."""
    found = cv2.remap(map_HW, places_HW2, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]  # None: both are in places_HW2
    return np.asarray(found, np.float32)


def _square(vectors_HW2: FloatArray) -> FloatArray:
    return np.asarray((vectors_HW2**2).sum(axis=-1), np.float32)
