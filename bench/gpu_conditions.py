"""What a GPU did while something was measured on it: clocks, power, heat, what slowed it down, who shared it.

The library is asked before and after a turn, never during it. Clocks and reasons are those of the two
moments: what came and went in between is not seen. The power is the mean of the whole turn where the GPU
counts its energy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from depthmask.bench.nvml import Gpu

# nvml.h, nvmlClocksEventReasons (until driver 535: nvmlClocksThrottleReasons).
_REASONS = {
    0x0001: "idle",
    0x0002: "clocks set by the user",
    0x0004: "its power limit",
    0x0008: "its hardware",
    0x0010: "clocks synchronised with other GPUs",
    0x0020: "heat, by the driver",
    0x0040: "heat, by the hardware",
    0x0080: "the power supply",
    0x0100: "clocks set for the display",
}
_HARMLESS = frozenset(_REASONS[bit] for bit in (0x0001, 0x0002, 0x0010, 0x0100))
_SLOWEST_CLOCK = 0.9
"""Of the fastest seen."""
_MUCH_OTHER_LOAD = 0.05
"""Of the time: about what drawing a quiet desktop takes."""


class GpuConditions(msgspec.Struct, frozen=True, kw_only=True):
    """What a stretch of measuring met on the GPU; None: not told."""

    sm_clock_mhz: tuple[float, float] | None
    """Of the multiprocessors; the lower and the higher, of the moments before and after."""
    memory_clock_mhz: tuple[float, float] | None
    power_w: float | None
    """The mean of the stretch; where the GPU does not count its energy, the higher of the two moments."""
    temperature_c: float | None
    """The higher of the two moments."""
    clock_reasons: tuple[str, ...]
    """What kept the clocks down at one of the two moments."""
    other_load: float | None
    """The largest share of the time that another process computed on it."""


@dataclass(frozen=True)
class GpuMoment:
    """What the library told at one moment."""

    wall_s: float
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    power_w: float | None
    energy_j: float | None
    temperature_c: float | None
    clock_reasons: int
    """Bits, as in nvml.h."""
    other_load: float | None


@dataclass(frozen=True)
class GpuMeter:
    """Asks about one GPU."""

    gpu: Gpu

    def now(self, since_s: float | None = None) -> GpuMoment:
        """Ask everything; other processes' load is that since a time of `time.time()`."""
        ask, nvml = self.gpu.ask, self.gpu.nvml
        power_mw = ask("nvmlDeviceGetPowerUsage")
        energy_mj = ask("nvmlDeviceGetTotalEnergyConsumption")
        reasons = ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = ask("nvmlDeviceGetCurrentClocksThrottleReasons")  # its name in older drivers
        return GpuMoment(
            wall_s=time.time(),
            sm_clock_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            memory_clock_mhz=ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_MEM),
            power_w=None if power_mw is None else power_mw / 1000,
            energy_j=None if energy_mj is None else energy_mj / 1000,
            temperature_c=ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            clock_reasons=reasons or 0,
            other_load=None if since_s is None else self._other_load(since_s),
        )

    def _other_load(self, since_s: float) -> float | None:
        """None too where our own process is not among those told of: then any of them may be ours."""
        samples: Sequence[Any] = (
            self.gpu.ask("nvmlDeviceGetProcessUtilization", int(1e6 * since_s)) or ()
        )
        if os.getpid() not in {sample.pid for sample in samples}:
            return None
        return max((s.smUtil / 100 for s in samples if s.pid != os.getpid()), default=0.0)


def gpu_between(before: GpuMoment, after: GpuMoment) -> GpuConditions:
    """What happened from one moment to another one."""
    reasons = before.clock_reasons | after.clock_reasons
    return GpuConditions(
        sm_clock_mhz=_range(before.sm_clock_mhz, after.sm_clock_mhz),
        memory_clock_mhz=_range(before.memory_clock_mhz, after.memory_clock_mhz),
        power_w=_power_w(before, after),
        temperature_c=_highest(before.temperature_c, after.temperature_c),
        clock_reasons=tuple(words for bit, words in _REASONS.items() if reasons & bit),
        other_load=after.other_load,
    )


def gpu_spoilt_by(turns: Sequence[GpuConditions]) -> tuple[str, ...]:
    """What makes these turns no fair measurement of a GPU, each in a few words."""
    reasons = dict.fromkeys(words for turn in turns for words in turn.clock_reasons)
    found = [f"the GPU was slowed down by {words}" for words in reasons if words not in _HARMLESS]
    clocks = [turn.sm_clock_mhz for turn in turns if turn.sm_clock_mhz is not None]
    if clocks:
        lowest, highest = min(low for low, _ in clocks), max(high for _, high in clocks)
        if lowest < _SLOWEST_CLOCK * highest:
            found.append(f"the GPU's clock changed from {lowest:.0f} to {highest:.0f} MHz")
    other = max((turn.other_load or 0.0 for turn in turns), default=0.0)
    if other > _MUCH_OTHER_LOAD:
        found.append(f"another process computed on the GPU for up to {other:.0%} of the time")
    return tuple(found)


def _power_w(before: GpuMoment, after: GpuMoment) -> float | None:
    if before.energy_j is None or after.energy_j is None:
        return _highest(before.power_w, after.power_w)
    return (after.energy_j - before.energy_j) / max(after.wall_s - before.wall_s, 1e-9)


def _range(before: float | None, after: float | None) -> tuple[float, float] | None:
    known = [value for value in (before, after) if value is not None]
    return (min(known), max(known)) if known else None


def _highest(before: float | None, after: float | None) -> float | None:
    return max((value for value in (before, after) if value is not None), default=None)
