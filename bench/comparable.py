"""Whether two benchmarks may be compared at all, and what besides the bundles differs between them."""

from __future__ import annotations

import msgspec

from depthmask.bench.machine import Machine
from depthmask.bench.result import BenchResult
from depthmask.errors import UsageError

_SAME_MEMORY_WITHIN = 0.02


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What is not the same for both results and may explain a difference; None: not there."""

    what: str
    a: str | None
    b: str | None


def check_comparable(a: BenchResult, b: BenchResult) -> None:
    """Refuse results of which one may be faster for its machine or its frames alone.

    The hardware and the share of it that the process may use must be the same; memory within 2 %, for
    kernels keep different shares of it for themselves.

    Raises:
        UsageError: with everything that differs.
    """
    hardware_a, hardware_b = _hardware(a.machine), _hardware(b.machine)
    different = [
        f"{name} is {hardware_a[name]} in A and {hardware_b[name]} in B"
        for name in hardware_a
        if hardware_a[name] != hardware_b[name]
    ]
    if not _same_memory(a.machine.memory_bytes, b.machine.memory_bytes):
        sizes = (_gib(result.machine.memory_bytes) for result in (a, b))
        different.append("the memory is {} in A and {} in B".format(*sizes))
    if different:
        raise UsageError(
            f"two results must be of one machine to be compared, but {', '.join(different)}. Try"
            " `dmx bench` for both on the same machine"
        )
    if a.frame_sizes != b.frame_sizes:
        raise UsageError(
            f"two results must be of frames of the same sizes, but got {', '.join(a.frame_sizes)} and"
            f" {', '.join(b.frame_sizes)}. Try `dmx bench --frame-size` for both"
        )


def changed(a: BenchResult, b: BenchResult) -> tuple[Change, ...]:
    """List what may differ: software, settings, data, and the load, which may be what was measured."""
    before, after = (
        {
            "data": result.data,
            "os": result.machine.os,
            "python": result.machine.python,
            "governor": result.machine.governor,
            "load": None if result.machine.load_1min is None else f"{result.machine.load_1min:g}",
            "GPU driver": result.machine.gpu.driver if result.machine.gpu else None,
            **result.machine.packages,
        }
        for result in (a, b)
    )
    return tuple(
        Change(what=what, a=before.get(what), b=after.get(what))
        for what in dict.fromkeys([*before, *after])
        if before.get(what) != after.get(what)
    )


def _hardware(machine: Machine) -> dict[str, str]:
    return {
        "the processor": machine.cpu,
        "the number of physical cores": str(machine.physical_cores),
        "the number of logical cores": str(machine.logical_cores),
        "the number of usable cores": str(machine.usable_cores),
        "the quota of cores": str(machine.cpu_quota_cores),
        "the list of GPUs": ", ".join(machine.gpus) or "empty",
    }


def _same_memory(a_bytes: int | None, b_bytes: int | None) -> bool:
    if a_bytes is None or b_bytes is None:
        return a_bytes == b_bytes
    return abs(a_bytes - b_bytes) <= _SAME_MEMORY_WITHIN * max(a_bytes, b_bytes)


def _gib(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 2**30:.1f} GiB"
