"""Whether `compare` keeps its promise on this machine: one long recording, compared with itself.

    python -m depthmask.bench.compare_validity --minutes 17 --recording long.npz --json

One bundle is run for the whole time, one frame after the other. Its recording is cut into disjoint
windows of 10 s. Each is compared with the next, and with the one half a recording later: nothing changed,
so whatever is called faster or slower is a false alarm (at most 5 in 100 is the promise). Windows of
30 s are compared with the next made 5 % slower: called slower is a find (90 % is). Then windows twice as long
are dealt out in turns of a second, as `dmx bench A B` lets two bundles take turns, and judged round by round
(`bench.paired`). The recording can be kept and judged again when the statistics have changed.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import msgspec
import numpy as np
import numpy.typing as npt

from depthmask.bench.latency import LatencyMeter
from depthmask.bench.machine import Machine, this_machine
from depthmask.bench.paired import compare_rounds
from depthmask.bench.statistics import (
    CONFIDENCE,
    TOLERANCE,
    Difference,
    Recording,
    Verdict,
    compare_quantile,
)
from depthmask.commands import compare_options, options
from depthmask.errors import InputError, UsageError
from depthmask.frames import Resolution, read_image
from depthmask.output_files import write_output
from depthmask.pipeline import Pipeline
from depthmask.samples import shipped_photos
from depthmask.untrusted import read_npz

WINDOW_SECONDS = 10
LONG_WINDOW_SECONDS = 30
_SLOWER_BY = 0.05
_TURN_SECONDS = 1
_LARGEST_BYTES = 1 << 28
_DRIFT_SECONDS = (0.1, 1, 10)


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded, where and when."""

    machine: Machine
    bundle: str
    resolution: str
    runtime: str
    threads: int | None


@dataclass(frozen=True)
class Kept:
    """A recording as it lies in a file."""

    subject: Subject
    recording: Recording


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """How pairs of windows were judged."""

    pairs: int
    counts: dict[Verdict, int]
    median_width: float | None
    """Of the intervals, as a share of the latency."""


class Validity(msgspec.Struct, frozen=True, kw_only=True):
    """False alarms and finds on one recording."""

    subject: Subject
    confidence: float
    tolerance: float
    samples: int
    recorded_s: float
    p50_ms: float
    cv: float
    drift: dict[str, float]
    """By seconds: how much medians of neighbouring windows of that length differ (Allan deviation, as
    a share of the latency). It falls by 3.2 from one length to the next if the noise is white."""
    same_next: Verdicts
    """Windows of 10 s, each with the next."""
    same_far: Verdicts
    """Windows of 10 s, each with the one half a recording later."""
    slower_by_5_percent: Verdicts
    """Windows of 30 s, each with the next made slower."""
    same_in_turns: Verdicts
    """10 s and 10 s in turns of a second."""
    slower_in_turns: Verdicts
    """30 s and 30 s in turns of a second, one of the two made slower."""


def record(
    bundle: Path | None,
    *,
    seconds: float,
    resolution: Resolution | None = None,
    runtime: str = "auto",
    threads: int | None = None,
) -> Kept:
    """Run a bundle on the first shipped photograph for so long, one frame after the other.

    Raises:
        InputError: there is no such bundle.
        UsageError: an unknown runtime, or a resolution that the bundle lacks.
        UnavailableError: the runtime is not installed.
    """
    frame_HW3 = read_image(shipped_photos()[0])
    with Pipeline.open(bundle, runtime, "cpu", threads, resolution=resolution) as pipeline:
        meter = LatencyMeter(pipeline, [frame_HW3])
        meter.warm_up()
        meter.sample(seconds, 1)
        found = meter.result()
        subject = Subject(
            machine=this_machine(),
            bundle=pipeline.bundle.path.resolve().name,
            resolution=str(pipeline.resolution),
            runtime=pipeline.runtime.name,
            threads=threads,
        )
    speed_ms = found.speed_of_samples_ms
    return Kept(subject, Recording(np.array(found.samples_ms), speed_ms=speed_ms))


def write_recording(kept: Kept, path: Path) -> None:
    """Keep a recording.

    Raises:
        OutputError: it cannot be written.
    """
    content = io.BytesIO()
    subject = np.frombuffer(msgspec.json.encode(kept.subject), np.uint8)
    recording = kept.recording
    speed_ms = np.empty(0) if recording.speed_ms is None else recording.speed_ms
    np.savez_compressed(
        content, subject=subject, samples_ms=recording.samples_ms, speed_ms=speed_ms
    )
    write_output(path, content.getvalue())


def read_recording(path: Path) -> Kept:
    """Read what `write_recording` kept.

    Raises:
        InputError: it cannot be read or is damaged.
    """
    try:
        archive = read_npz(path, _LARGEST_BYTES)
        subject = msgspec.json.decode(archive["subject"].tobytes(), type=Subject)
        speed_ms = _times(archive["speed_ms"]) if archive["speed_ms"].size else None
        return Kept(subject, Recording(_times(archive["samples_ms"]), speed_ms=speed_ms))
    except (LookupError, ValueError, UsageError, InputError) as error:
        raise InputError(f"{path} must be a recording by this program, but: {error}") from error


def _times(array: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    if array.dtype != np.float64:
        raise ValueError(f"its times are {array.dtype}")
    return np.asarray(array, np.float64)


def judge(kept: Kept, *, confidence: float = CONFIDENCE, tolerance: float = TOLERANCE) -> Validity:
    """Compare the windows of a recording.

    Raises:
        UsageError: it is shorter than two windows of 30 s, or an argument is out of range.
    """
    whole = kept.recording
    short, long = windows(whole, WINDOW_SECONDS), windows(whole, LONG_WINDOW_SECONDS)
    if len(long) < 2:
        raise UsageError(
            f"a recording must be {2 * LONG_WINDOW_SECONDS} s or longer, but is {whole.seconds:.1f} s."
            " Try --minutes 17"
        )

    def verdicts(
        pairs: Iterable[tuple[Recording, Recording]],
        compare: Callable[..., Difference] = compare_quantile,
    ) -> Verdicts:
        found = [compare(a, b, confidence=confidence, tolerance=tolerance) for a, b in pairs]
        widths = [
            one.upper - one.lower
            for one in found
            if one.lower is not None and one.upper is not None
        ]
        return Verdicts(
            pairs=len(found),
            counts=dict(Counter(one.verdict for one in found)),
            median_width=float(np.median(widths)) if widths else None,
        )

    half = len(short) // 2
    twice_short, twice_long = (
        [in_turns(one, seed) for seed, one in enumerate(windows(whole, 2 * seconds))]
        for seconds in (WINDOW_SECONDS, LONG_WINDOW_SECONDS)
    )
    return Validity(
        subject=kept.subject,
        confidence=confidence,
        tolerance=tolerance,
        samples=whole.samples_ms.size,
        recorded_s=whole.seconds,
        p50_ms=float(np.median(whole.samples_ms)),
        cv=float(whole.samples_ms.std() / whole.samples_ms.mean()),
        drift={f"{length:g}": _drift(whole, length) for length in _DRIFT_SECONDS},
        same_next=verdicts(itertools.pairwise(short)),
        same_far=verdicts(zip(short, short[half:], strict=False)),
        slower_by_5_percent=verdicts((a, _slowed(b)) for a, b in itertools.pairwise(long)),
        same_in_turns=verdicts(twice_short, compare_rounds),
        slower_in_turns=verdicts(((a, _slowed(b)) for a, b in twice_long), compare_rounds),
    )


def in_turns(recording: Recording, seed: int) -> tuple[Recording, Recording]:
    """Deal out a recording to two in turns of a second, of which each two are in random order."""
    turns = windows(recording, _TURN_SECONDS)
    first_is_b = np.random.default_rng(seed).random(len(turns) // 2) < 0.5
    dealt: tuple[list[Recording], list[Recording]] = ([], [])
    for index, swapped in enumerate(first_is_b):
        for place in (0, 1):
            dealt[place ^ swapped].append(turns[2 * index + place])
    a, b = (
        Recording(
            np.concatenate([turn.samples_ms for turn in side]),
            np.repeat(np.arange(len(side)), [turn.samples_ms.size for turn in side]),
        )
        for side in dealt
    )
    return a, b


def _slowed(recording: Recording) -> Recording:
    return replace(recording, samples_ms=(1 + _SLOWER_BY) * recording.samples_ms)


def windows(recording: Recording, seconds: float) -> list[Recording]:
    """Cut a recording without pauses into windows of so many seconds; the rest is left out."""
    samples_ms, speed_ms = recording.samples_ms, recording.speed_ms
    ends_s = np.cumsum(samples_ms) / 1000
    cuts = np.searchsorted(ends_s, seconds * np.arange(1, int(ends_s[-1] / seconds) + 1))
    return [
        Recording(
            samples_ms[first:last], speed_ms=None if speed_ms is None else speed_ms[first:last]
        )
        for first, last in itertools.pairwise([0, *cuts])
        if last > first
    ]


def _drift(recording: Recording, seconds: float) -> float:
    medians_ms = [float(np.median(window.samples_ms)) for window in windows(recording, seconds)]
    return float(np.sqrt(np.mean(np.diff(np.log(medians_ms)) ** 2) / 2))


def _text(found: Validity) -> str:
    rows = (
        (f"{WINDOW_SECONDS} s, each with the next", found.same_next),
        (f"{WINDOW_SECONDS} s, each with one half a recording later", found.same_far),
        (f"{LONG_WINDOW_SECONDS} s, the next one 5 % slower", found.slower_by_5_percent),
        (f"two of {WINDOW_SECONDS} s in turns", found.same_in_turns),
        (f"two of {LONG_WINDOW_SECONDS} s in turns, one 5 % slower", found.slower_in_turns),
    )
    drift = ", ".join(f"{100 * value:.1f}% at {length} s" for length, value in found.drift.items())
    subject = found.subject
    return "\n".join(
        [
            f"{subject.bundle} {subject.resolution} {subject.runtime} on {subject.machine.summary}",
            f"{found.samples} samples in {found.recorded_s:.0f} s, median {found.p50_ms:.2f} ms,"
            f" CV {found.cv:.2f}, drift {drift}",
            *(f"{name}: {_counts(verdicts)}" for name, verdicts in rows),
        ]
    )


def _counts(verdicts: Verdicts) -> str:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.counts.items())
    width = verdicts.median_width
    return f"{verdicts.pairs} pairs: {counts}" + (
        "" if width is None else f"; intervals {100 * width:.1f}% wide"
    )


@click.command()
@click.option("--bundle", type=options.PathType(), help="By default the shipped lite.")
@options.resolutions_option
@options.runtime_option
@options.threads_option
@click.option("--minutes", type=click.FloatRange(min=1.1), default=17.0, show_default=True)
@click.option(
    "--recording", type=options.PathType(), help="Judge this file, or make it if it is not there."
)
@compare_options.confidence_option
@compare_options.tolerance_option
@options.json_option
def main(
    bundle: Path | None,
    resolutions: tuple[Resolution, ...] | None,
    runtime: str,
    threads: int | None,
    minutes: float,
    recording: Path | None,
    confidence: float,
    tolerance: float,
    as_json: bool,
) -> None:
    r"""Count false alarms and finds of `compare` on this machine.

    \b
    Example:
      python -m depthmask.bench.compare_validity --resolution 64 --minutes 17 --recording long.npz
    """
    if recording is not None and recording.exists():
        kept = read_recording(recording)
    else:
        kept = record(
            bundle,
            seconds=60 * minutes,
            resolution=resolutions[0] if resolutions else None,
            runtime=runtime,
            threads=threads,
        )
        if recording is not None:
            write_recording(kept, recording)
    found = judge(kept, confidence=confidence, tolerance=tolerance)
    if as_json:
        options.print_json(msgspec.to_builtins(found))
    else:
        click.echo(_text(found))


if __name__ == "__main__":
    main()
