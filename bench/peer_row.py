"""One peer at one resolution in the making: opened, compared, warmed up and timed, step by step."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import numpy as np
from msgspec import structs

from depthmask.bench.image_runs import Run
from depthmask.bench.latency import LatencyMeter
from depthmask.bench.peer_list import OwnMeter, Peer, Subject
from depthmask.bench.peers_result import PeerRow
from depthmask.bench.row import problem_of
from depthmask.frames import FloatArray, UInt8Array

_MIN_RUNS_PER_ROUND = 4
_ANY_FRAME = np.zeros((1, 1, 3), np.uint8)


class PeerMeter:
    """One peer in the making. After a failed step it is asked for no other."""

    def __init__(self, peer: Peer, subject: Subject) -> None:
        """Nothing is opened yet."""
        self.found = PeerRow(
            peer=peer.name,
            settings=peer.settings,
            ours=peer.ours,
            height_px=subject.resolution.height,
            width_px=subject.resolution.width,
        )
        self._peer = peer
        self._subject = subject
        self._meter: LatencyMeter | None = None
        self._own_meter: OwnMeter | None = None
        self._own_medians_ms: list[float] = []

    def attempt(self, step: Callable[[PeerMeter], None]) -> None:
        """Take a step; whatever a peer raises is this row's problem and not the others'."""
        if self.found.status != "ok":
            return
        try:
            step(self)
        except Exception as error:
            status, problem = problem_of(error)
            self.found = structs.replace(self.found, status=status, problem=problem)

    def open(self, image_13HW: FloatArray, eager: Sequence[FloatArray]) -> None:
        """Convert and load, time the first answer, and compare it with PyTorch's mask and depth."""
        started = time.perf_counter()
        with _quiet():
            opened = self._peer.open(self._subject)
            if isinstance(opened, OwnMeter):
                self._own_meter = opened
                return
            maps = opened(image_13HW)
        ready_ms = 1000 * (time.perf_counter() - started)
        difference = max(map(_share_of_range, maps, eager))
        self.found = structs.replace(self.found, ready_ms=ready_ms, difference=difference)
        self._meter = LatencyMeter(_Timed(opened, image_13HW, ready_ms), [_ANY_FRAME])

    def warm_up(self, max_seconds: float) -> None:
        """Until steady; a tool that times itself does so itself."""
        if self._meter is not None:
            self._meter.warm_up(max_seconds)

    def sample(self, seconds: float) -> None:
        """One turn."""
        if self._own_meter is not None:
            self._own_medians_ms.append(self._own_meter.median_ms(seconds))
            own_ms = tuple(self._own_medians_ms)
            self.found = structs.replace(self.found, own_medians_ms=own_ms, p50_ms=median(own_ms))
        elif self._meter is not None:
            self._meter.sample(seconds, _MIN_RUNS_PER_ROUND)
            latency = self._meter.result()
            self.found = structs.replace(self.found, latency=latency, p50_ms=latency.p50_ms)


@dataclass(frozen=True)
class _Answer:
    timings_ms: dict[str, float]


class _Timed:
    """A peer as the meter wants it: it is handed a frame, and predicts the one image."""

    def __init__(self, run: Run, image_13HW: FloatArray, open_ms: float) -> None:
        self.open_ms = open_ms
        self._run = run
        self._image_13HW = image_13HW
        self._answer = _Answer({})

    def __call__(self, frame_HW3: UInt8Array) -> _Answer:
        self._run(self._image_13HW)
        return self._answer


def _share_of_range(found: FloatArray, wanted: FloatArray) -> float:
    """The largest difference; a map of another shape, or with NaN, is a failure of the peer."""
    if found.shape != wanted.shape:
        raise ValueError(f"a map must be {wanted.shape}, but got {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError("a map must be finite, but holds NaN or infinity")
    return float(np.abs(found - wanted).max() / (np.ptp(wanted) or 1.0))


@contextmanager
def _quiet() -> Iterator[None]:
    """Converters remark on what nobody here can change."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
