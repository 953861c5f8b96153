"""What went on on the machine while something was measured: other load, clocks, heat, throttling.

Linux's own files are read, twice: before and after; a GPU is asked too where the work is on it. What cannot
be read is None, never guessed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from depthmask.bench.gpu_conditions import (
    GpuConditions,
    GpuMeter,
    GpuMoment,
    gpu_between,
    gpu_spoilt_by,
)

_BUSY = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq: the columns of /proc/stat (proc(5))
_STOLEN = 7
_MUCH_OTHER_LOAD = 0.1
"""Of a core: one twentieth of two cores is what a quiet desktop takes."""
_MUCH_STOLEN = 0.02
_SLOWEST_CLOCK = 0.9
"""Of the fastest seen."""


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What a stretch of measuring met, on the cores that this process may use."""

    seconds: float
    other_load_cores: float | None
    """Cores' worth of time that went to other processes."""
    stolen_cores: float | None
    """And to other virtual machines."""
    clock_mhz: tuple[float, float] | None
    """The lowest and the highest, of the moments before and after."""
    temperature_c: float | None
    """The highest of the two moments."""
    throttled: int | None
    """How often a core said that it was slowed down for heat."""
    preemptions: int | None
    """How often this process lost its core to another one."""
    gpu: GpuConditions | None = None
    """Where the work was on a GPU that tells."""


@dataclass(frozen=True)
class Moment:
    """The counters at one moment."""

    wall_s: float
    own_s: float
    preemptions: int | None
    busy_s: float | None
    stolen_s: float | None
    clock_mhz: tuple[float, ...]
    temperature_c: float | None
    throttled: int | None
    gpu: GpuMoment | None


@dataclass(frozen=True)
class ConditionsMeter:
    """Reads the counters; `root` is where proc/ and sys/ are."""

    root: Path = Path("/")
    gpu: GpuMeter | None = None

    def now(self, since: Moment | None = None) -> Moment:
        """Read them all; a GPU tells what other processes did on it `since` an earlier moment."""
        begun = since.gpu if since else None
        times = self._core_times()
        return Moment(
            wall_s=time.perf_counter(),
            own_s=time.process_time(),
            preemptions=_preemptions(),
            busy_s=sum(row[k] for row in times for k in _BUSY) if times else None,
            stolen_s=sum(row[_STOLEN] for row in times) if times else None,
            clock_mhz=self._clocks_mhz(),
            temperature_c=self._temperature_c(),
            throttled=self._sum("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"),
            gpu=self.gpu.now(begun.wall_s if begun else None) if self.gpu else None,
        )

    def _core_times(self) -> list[list[float]]:
        """Seconds by kind, of each core that this process may use."""
        if sys.platform != "linux":
            return []
        allowed = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        rows = [line.split() for line in _read(self.root / "proc/stat").splitlines()]
        ticks = os.sysconf("SC_CLK_TCK")
        return [
            [int(field) / ticks for field in row[1:]]
            for row in rows
            if row and row[0] in allowed and len(row) > _STOLEN + 1
        ]

    def _clocks_mhz(self) -> tuple[float, ...]:
        files = sorted(self.root.glob("sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"))
        if files:
            return tuple(float(text) / 1000 for text in map(_read, files) if text.isdigit())
        lines = _read(self.root / "proc/cpuinfo").splitlines()
        return tuple(float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz"))

    def _temperature_c(self) -> float | None:
        files = self.root.glob("sys/class/thermal/thermal_zone*/temp")
        found = [int(text) / 1000 for text in map(_read, files) if text.lstrip("-").isdigit()]
        return max(found, default=None)

    def _sum(self, pattern: str) -> int | None:
        found = [int(text) for text in map(_read, self.root.glob(pattern)) if text.isdigit()]
        return sum(found) if found else None


def between(before: Moment, after: Moment) -> Conditions:
    """What happened from one moment to another one."""
    seconds = max(after.wall_s - before.wall_s, 1e-9)
    own_s = after.own_s - before.own_s
    other_s, stolen_s = (
        _difference(before.busy_s, after.busy_s),
        _difference(before.stolen_s, after.stolen_s),
    )
    clocks_mhz = (*before.clock_mhz, *after.clock_mhz)
    heat_c = [t for t in (before.temperature_c, after.temperature_c) if t is not None]
    throttled = _difference(before.throttled, after.throttled)
    preempted = _difference(before.preemptions, after.preemptions)
    return Conditions(
        seconds=seconds,
        other_load_cores=None if other_s is None else max(0.0, other_s - own_s) / seconds,
        stolen_cores=None if stolen_s is None else stolen_s / seconds,
        clock_mhz=(min(clocks_mhz), max(clocks_mhz)) if clocks_mhz else None,
        temperature_c=max(heat_c, default=None),
        throttled=None if throttled is None else round(throttled),
        preemptions=None if preempted is None else round(preempted),
        gpu=gpu_between(before.gpu, after.gpu) if before.gpu and after.gpu else None,
    )


def spoilt_by(turns: Sequence[Conditions]) -> tuple[str, ...]:
    """What makes these turns no fair measurement, each in a few words; none if all was quiet."""
    found = []
    other = [turn.other_load_cores for turn in turns if turn.other_load_cores is not None]
    if other and max(other) > _MUCH_OTHER_LOAD:
        found.append(f"other processes took up to {max(other):.1f} cores")
    stolen = [turn.stolen_cores for turn in turns if turn.stolen_cores is not None]
    if stolen and max(stolen) > _MUCH_STOLEN:
        found.append(f"other virtual machines took up to {max(stolen):.2f} cores")
    clocks = [turn.clock_mhz for turn in turns if turn.clock_mhz is not None]
    if clocks:
        lowest, highest = min(low for low, _ in clocks), max(high for _, high in clocks)
        if lowest < _SLOWEST_CLOCK * highest:
            found.append(f"the clock changed from {lowest:.0f} to {highest:.0f} MHz")
    if throttled := sum(turn.throttled or 0 for turn in turns):
        found.append(f"cores were slowed down for heat {throttled} times")
    return (*found, *gpu_spoilt_by([turn.gpu for turn in turns if turn.gpu is not None]))


def _preemptions() -> int | None:
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
