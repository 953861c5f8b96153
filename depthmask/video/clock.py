"""A stream's timestamps on this machine's clock: when each picture was captured, as far as can be known."""

from __future__ import annotations

from dataclasses import dataclass

# Clocks of cameras drift by up to about 100 parts per million: 6 ms in this time.
_WINDOW_S = 60.0
_JUMP_S = 2.0


@dataclass(frozen=True)
class Stamp:
    """When a picture was captured."""

    captured_s: float
    """On this machine's monotonic clock."""
    time_s: float
    """By the stream's own timestamps, since the first picture."""


class SourceClock:
    """Stamps the pictures of one connection in the order of their arrival.

    A stream's timestamps count from anywhere. The picture that arrived soonest after its timestamp
    shows how the two clocks lie; one that arrives later than that by its timestamp has waited on the
    way, and is older by so much. So a queue that grows anywhere between the camera and us is seen. The
    constant part of the way (exposure, encoding, the fastest transfer) cannot be seen from here and is
    left out.

    Args:
        starts_at_s: `time_s` of the first picture.
        same_clock: the timestamps are of this machine's monotonic clock, as those of V4L2 cameras are.
    """

    def __init__(self, starts_at_s: float = 0.0, *, same_clock: bool = False) -> None:
        self._time_s = starts_at_s
        self._same_clock = same_clock
        self._last: tuple[float, float] | None = None
        self._offsets_s: list[float] = []
        self._window_began_s = 0.0

    def stamp(self, source_s: float | None, arrived_s: float) -> Stamp:
        """Stamp a picture; `source_s` is its own timestamp, None where the stream has none."""
        stated_s = arrived_s if source_s is None else source_s
        if self._last is None or self._jumped(stated_s, arrived_s):
            self._restart(stated_s, arrived_s)
        assert self._last is not None
        self._time_s += stated_s - self._last[0]
        self._last = (stated_s, arrived_s)
        offset_s = self._smallest_offset_s(arrived_s - stated_s, arrived_s)
        return Stamp(min(arrived_s, stated_s + offset_s), self._time_s)

    def _jumped(self, stated_s: float, arrived_s: float) -> bool:
        """Whether the timestamps went back, or forward by more than time has passed."""
        assert self._last is not None
        step_s, passed_s = stated_s - self._last[0], arrived_s - self._last[1]
        return step_s < 0 or step_s > passed_s + _JUMP_S

    def _restart(self, stated_s: float, arrived_s: float) -> None:
        if self._last is not None:
            self._time_s += arrived_s - self._last[1]
        self._last = (stated_s, arrived_s)
        self._offsets_s = []

    def _smallest_offset_s(self, offset_s: float, arrived_s: float) -> float:
        """The smallest of this window and the one before."""
        if self._same_clock and 0 <= offset_s < _WINDOW_S:
            return 0.0
        if not self._offsets_s or arrived_s - self._window_began_s > _WINDOW_S:
            self._offsets_s = [*self._offsets_s[-1:], offset_s]
            self._window_began_s = arrived_s
        self._offsets_s[-1] = min(self._offsets_s[-1], offset_s)
        return min(self._offsets_s)
