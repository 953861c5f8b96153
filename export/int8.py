"""An exported chain's graphs in int8: calibrated, searched, timed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import onnx_ir as ir

from depthmask.accuracy import AccuracyResult
from depthmask.bundle import Int8Record
from depthmask.errors import InputError
from depthmask.export import budget as budgets
from depthmask.export.budget import GraphRunner, Judge
from depthmask.export.calibration import LEAST_IMAGES, Calibrator, calibrate
from depthmask.export.precision_search import Losses, Point, choose, search
from depthmask.export.quantise import Range, quantise, site_macs, sites
from depthmask.export.reference import PHOTO_COUNT, Reference
from depthmask.export.sensitivity import SiteError, sensitivity
from depthmask.export.tune import fastest_ms
from depthmask.export.unsigned import quantise_unsigned
from depthmask.frames import Resolution, UInt8Array, read_image
from depthmask.presets import Kind
from depthmask.samples import Samples, shipped_photos

LARGEST_CALIBRATION = 64
# A few photographs show which sites are delicate; every site is run on them.
_SENSITIVITY_FRAMES = slice(0, 4)

Progress = Callable[[str], None]
Timings = Callable[[Mapping[str, ir.Model], np.ndarray], dict[str, dict[str, float]]]
"""Milliseconds by runtime and name, of models on one input."""


@dataclass(frozen=True)
class Int8Options:
    """How a chain is brought to int8.

    Args:
        max_drop: points of `iou` and `delta1` that may be lost on labelled data.
        calibrator: how ranges follow from values.
        calibration: images to calibrate on; by default shipped photographs.
        threads: that timing uses.
    """

    max_drop: Mapping[str, float] | None = None
    calibrator: Calibrator = "percentile"
    calibration: Samples | None = None
    threads: int | None = None


class Tradeoff(msgspec.Struct, frozen=True):
    """What was tried at one resolution."""

    points: tuple[Point, ...]
    """All float32 first, then by the number of int8 sites."""
    chosen: int
    """Its index."""
    sensitivity: tuple[SiteError, ...]
    """The most sensitive first."""

    def gains(self) -> dict[str, float]:
        """How many times faster than float32 the chosen point is, by runtime."""
        fp32_ms, chosen_ms = self.points[0].latency_ms, self.points[self.chosen].latency_ms
        return {runtime: round(ms / chosen_ms[runtime], 3) for runtime, ms in fp32_ms.items()}


@dataclass(frozen=True)
class Calibration:
    """The frames (H,W,3) that ranges come from."""

    name: str
    frames: tuple[UInt8Array, ...]

    def __post_init__(self) -> None:
        shown = {digest(frame) for frame in self.frames if frame.min() < frame.max()}
        if len(shown) < LEAST_IMAGES:
            raise InputError(
                f"the calibration data must hold {LEAST_IMAGES} images or more that differ and are not of"
                f" one colour, but {self.name} holds {len(shown)}. Try --calibration with a folder of"
                " photographs like those that the chain will see"
            )


def open_calibration(samples: Samples | None, judged: Samples | None) -> Calibration:
    """At most `LARGEST_CALIBRATION` images of a data set, none of them judged (None: the reference is).

    By default shipped photographs that no reference is made of, each whole and its four quarters.

    Raises:
        InputError: there are too few, they are constant, or some are among the judged data.
    """
    if samples is None:
        photos = [read_image(path) for path in shipped_photos()[PHOTO_COUNT:]]
        return Calibration("shipped photographs", tuple(v for p in photos for v in _views(p)))
    frames = tuple(sample.image_HW3 for sample in samples.spread(LARGEST_CALIBRATION))
    calibration = Calibration(samples.name, frames)
    used = {digest(frame) for frame in frames}
    name, images = _judged_images(judged)
    shared = sum(digest(image) in used for image in images)
    if shared:
        raise InputError(
            f"the calibration data must not be judged on, but {shared} of the images in"
            f" {samples.name} are in {name} too. Try --calibration with other images"
        )
    return calibration


def _judged_images(judged: Samples | None) -> tuple[str, Iterable[UInt8Array]]:
    if judged is not None:
        return judged.name, judged.images()
    photos = shipped_photos()[:PHOTO_COUNT]
    return "the photographs of the reference frames", map(read_image, photos)


def digest(frame_HW3: UInt8Array) -> bytes:
    """Equal for equal images only."""
    return hashlib.sha256(repr(frame_HW3.shape).encode() + frame_HW3.tobytes()).digest()


def _views(photo_HW3: UInt8Array) -> list[UInt8Array]:
    height, width = (side // 2 for side in photo_HW3.shape[:2])
    quarters = [photo_HW3[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    return [photo_HW3, *(np.ascontiguousarray(quarter) for quarter in quarters)]


@dataclass(frozen=True)
class Int8Graphs:
    """The same choice of sites in both spellings."""

    symmetric: ir.Model
    """By `quantise`."""
    unsigned: ir.Model
    """By `quantise_unsigned`."""


def _losses(model: ir.Model, ranges: Mapping[str, Range], judge: Judge) -> Losses:
    """What the worse of both spellings loses."""

    def losses(kept_fp32: frozenset[str]) -> dict[str, float]:
        symmetric = judge(quantise(model, ranges, kept_fp32))
        unsigned = judge(quantise_unsigned(model, ranges, kept_fp32))
        return {name: max(symmetric[name], unsigned[name]) for name in symmetric}

    return losses


@dataclass(frozen=True)
class Quantiser:
    """Brings graphs of one chain to int8.

    Args:
        options: how.
        calibration: what ranges come from.
        searched: the fp32 PyTorch chain's outputs on frames that the gate does not judge on.
        data: labelled samples that the gate does not judge on either; None: searched by agreement.
        kind: of the chain.
        timings: by default on the runtimes that are installed.
    """

    options: Int8Options
    calibration: Calibration
    searched: Reference
    data: Samples | None
    kind: Kind
    timings: Timings | None = None

    def __call__(
        self,
        model: ir.Model,
        runner: GraphRunner,
        expected: AccuracyResult | None,
        progress: Progress,
    ) -> tuple[Int8Graphs, Tradeoff]:
        """The graph in int8 within the budget, in both spellings, and what was tried.

        Args:
            model: the float32 graph.
            runner: feeds it.
            expected: what PyTorch reaches on `data`.
            progress: told of each phase.

        Raises:
            CheckFailedError: no int8 graph holds the budget.
        """
        resolution = runner.resolution
        progress(f"calibrating at {resolution}")
        batches = [runner.inputs(frame) for frame in self.calibration.frames]
        ranges = calibrate(model, batches, self.options.calibrator)
        progress(f"measuring the sensitivity of {len(sites(model))} sites at {resolution}")
        few = budgets.agreement_judge(runner, self.searched, _SENSITIVITY_FRAMES)
        errors = sensitivity(sites(model), _losses(model, ranges, few))
        progress(f"searching what int8 may compute at {resolution}")
        judge, budget = self._judge(runner, expected)
        points = search(
            [error.site for error in errors],
            site_macs(model),
            _losses(model, ranges, judge),
            budget,
        )
        progress(f"timing {len(points)} choices at {resolution}")
        timed = {
            str(i): quantise_unsigned(model, ranges, frozenset(p.kept_fp32))
            for i, p in enumerate(points)
        }
        points = self._timed(points, timed, batches[0])
        chosen = points.index(choose(points, resolution))
        symmetric = quantise(model, ranges, frozenset(points[chosen].kept_fp32))
        return Int8Graphs(symmetric, timed[str(chosen)]), Tradeoff(points, chosen, errors)

    def _judge(
        self, runner: GraphRunner, expected: AccuracyResult | None
    ) -> tuple[Judge, Mapping[str, float]]:
        if self.data is None or expected is None:
            return budgets.agreement_judge(runner, self.searched), self.budget
        return budgets.accuracy_judge(runner, expected, self.data, self.kind), self.budget

    @property
    def budget(self) -> Mapping[str, float]:
        """What may be lost, under the names of the judge."""
        if self.data is None:
            return budgets.MAX_DISAGREEMENT
        return self.options.max_drop or budgets.MAX_DROP_POINTS

    def _timed(
        self,
        points: Sequence[Point],
        models: Mapping[str, ir.Model],
        inputs: Mapping[str, np.ndarray],
    ) -> tuple[Point, ...]:
        (array,) = inputs.values()
        if self.timings is not None:
            found = self.timings(models, array)
        else:
            found = fastest_ms(models, self.options.threads, data=array)
        return tuple(
            msgspec.structs.replace(
                point, latency_ms={runtime: ms[str(i)] for runtime, ms in found.items()}
            )
            for i, point in enumerate(points)
        )

    def record(self, tradeoffs: Mapping[Resolution, Tradeoff]) -> Int8Record:
        """For the manifest."""
        return Int8Record(
            calibrator=self.options.calibrator,
            calibration=self.calibration.name,
            calibration_images=len(self.calibration.frames),
            gate="accuracy" if self.data is not None else "agreement",
            budget=dict(self.budget),
            int8_sites={str(r): t.points[t.chosen].int8_sites for r, t in tradeoffs.items()},
            sites={str(r): len(t.sensitivity) for r, t in tradeoffs.items()},
            gain={str(r): t.gains() for r, t in tradeoffs.items()},
        )
