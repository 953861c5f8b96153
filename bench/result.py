"""What a benchmark found: versioned, with the machine in it, and units in the names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from depthmask.accuracy import AccuracyResult, DepthAccuracy, judged_depth
from depthmask.bench.latency import LatencyResult
from depthmask.bench.machine import Machine
from depthmask.bench.open_loop import OpenLoopResult
from depthmask.bundle import Precision
from depthmask.errors import (
    CheckFailedError,
    InputError,
    UnavailableError,
)
from depthmask.flicker import FlickerResult
from depthmask.frames import Resolution
from depthmask.output_files import write_output
from depthmask.presets import Kind

Status = Literal["ok", "failed", "unavailable"]


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How far a cell's outputs are from those of the fp32 PyTorch chain, which its bundle carries."""

    frames: int
    mask_max_abs: float
    depth_max_rel: float
    """The largest difference, as a share of the reference's largest depth."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One bundle at one resolution on one runtime."""

    bundle: str
    preset: str
    kind: Kind
    precision: Precision
    """What ran; torch runs float32 whatever the bundle's graphs are in."""
    height_px: int
    width_px: int
    gmac: float
    runtime: str
    device: str
    """The one that ran; where nothing ran, the one asked for."""
    threads: int | None
    """None: the runtime's own choice."""
    batch: int = 1
    """Frames per call."""
    status: Status
    problem: str | None = None
    """Why there are no numbers."""
    peak_memory_bytes: int | None = None
    """Of a process that does nothing else (`bench.memory`), libraries included; None: not known."""
    peak_device_memory_bytes: int | None = None
    """The GPU's memory that the same process held; None: not known, or no GPU."""
    latency: LatencyResult | None = None
    accuracy: AccuracyResult | None = None
    """None where the data set has no labels."""
    agreement: Agreement | None = None
    flicker: FlickerResult | None = None
    """None where the data is no video."""
    load: tuple[OpenLoopResult, ...] = ()
    """One for each of the result's `arrivals_per_s`."""

    @property
    def identity(self) -> tuple[object, ...]:
        """What the cell is, apart from what was measured and from the device that `auto` found."""
        return (
            self.bundle,
            self.preset,
            self.precision,
            self.height_px,
            self.width_px,
            self.runtime,
            self.threads,
            self.batch,
        )

    @property
    def runner(self) -> str:
        """What ran it: the runtime, and what of its settings is not the default."""
        return runner_name(self.runtime, self.device, self.threads, self.batch)

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.bundle} {self.resolution} {self.runner}"

    @property
    def resolution(self) -> Resolution:
        """What the networks saw."""
        return Resolution(self.height_px, self.width_px)

    @property
    def depth(self) -> DepthAccuracy | None:
        """Where this kind of chain is judged (`accuracy.judged_depth`)."""
        return judged_depth(self.accuracy, self.kind) if self.accuracy else None


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """All cells of one benchmark on one machine."""

    schema: Literal[2] = 2
    made_at: str
    """UTC, ISO 8601."""
    machine: Machine
    data: str
    """Name of the data set."""
    frame_sizes: tuple[str, ...]
    """HxW in pixels, of the frames that were timed."""
    decode_p50_ms: float | None
    """Median of reading and decoding one of these frames; it is in no cell's latency."""
    seconds_per_cell: float
    rounds: int
    rounds_done: int
    """Fewer than `rounds` where the benchmark was interrupted; `dmx bench` goes on from there."""
    seed: int
    """Of the order in which the cells take their turns, drawn anew for each round."""
    arrivals_per_s: tuple[float, ...] = ()
    """Rates at which frames arrived, after the rounds; none unless asked for."""
    cells: tuple[Cell, ...]

    @property
    def complete(self) -> bool:
        """Whether every round was made, and every rate was measured."""
        return self.rounds_done == self.rounds and all(
            len(cell.load) == len(self.arrivals_per_s) for cell in self.cells if cell.status == "ok"
        )

    @property
    def problems(self) -> tuple[Cell, ...]:
        """The cells without numbers."""
        return tuple(cell for cell in self.cells if cell.status != "ok")

    def __repr__(self) -> str:
        return f"BenchResult({len(self.cells)} cells, {len(self.problems)} without numbers)"


def runner_name(runtime: str, device: str, threads: int | None, batch: int) -> str:
    """A runtime with what of its settings is not the default, for people."""
    words = [runtime] if device in ("auto", "cpu") else [f"{runtime} {device}"]
    if threads is not None:
        words.append("1 thread" if threads == 1 else f"{threads} threads")
    if batch > 1:
        words.append(f"batch {batch}")
    return ", ".join(words)


def write_result(result: BenchResult, path: Path) -> None:
    """Write as JSON; the old file or the new one is there, never half of either.

    Raises:
        OutputError: it cannot be written.
    """
    document = msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
    write_output(path, document)


def read_result(path: Path) -> BenchResult:
    """Read what `write_result` wrote.

    Raises:
        InputError: there is none, or it is damaged or of another version.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=BenchResult)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} must be a result of `dmx bench --out`, but it is damaged or of another version:"
            f" {error}"
        ) from error


def check_complete(result: BenchResult) -> None:
    """Refuse a result in which a cell has no numbers.

    Raises:
        UnavailableError: nothing but packages or devices is missing.
        CheckFailedError: a cell failed.
    """
    if not result.problems:
        return
    first = result.problems[0]
    message = (
        f"every cell must be measured, but {len(result.problems)} of {len(result.cells)} were not:"
        f" {first.label}: {first.problem}"
    )
    if all(cell.status == "unavailable" for cell in result.problems):
        raise UnavailableError(message)
    raise CheckFailedError(message)
