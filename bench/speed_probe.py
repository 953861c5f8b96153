"""How fast the machine is at the moment: a fixed piece of work, timed between frames.

On a shared machine the level of all latencies shifts by a tenth and more, for seconds, with what the
neighbours do. The same work at the same time shows by how much (`bench.equal_speed` takes it out when two
recordings are compared: a control variate, Lavenberg & Welch 1981). It is half arithmetic and half memory,
in one thread, and needs about 0.2 ms; at every 50 ms it costs 0.4 % of the time, and none of any sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

EVERY_SECONDS = 0.05

_SUMMED = (512, 1024)  # 2 MB: more than a core's own caches
_COMPUTED = 20_000


class SpeedProbe:
    """Does the work when it is time for it."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._summed = np.ones(_SUMMED, np.float32)
        self._computed = np.linspace(1, 2, _COMPUTED)
        self._next = clock()

    def due(self) -> float | None:
        """Do the work, and give its milliseconds, if 50 ms have gone by since the last time."""
        started = self._clock()
        if started < self._next:
            return None
        self._summed.sum()
        np.log(self._computed)
        np.exp(-self._computed)
        ended = self._clock()
        self._next = ended + EVERY_SECONDS
        return 1000 * (ended - started)
