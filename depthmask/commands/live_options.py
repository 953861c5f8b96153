"""`dmx run` on live sources: its options, its status line, its signals and its statistics."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from depthmask.commands.options import PathType, console, messages, together
from depthmask.errors import UsageError

if TYPE_CHECKING:
    from depthmask.video.cameras import CameraRequest
    from depthmask.video.live_source import LiveOptions, SourceEvent
    from depthmask.video.statistics import RunStatistics

STATS_SCHEMA = 1


@dataclass(frozen=True)
class LiveArguments:
    """What the options say, as click passes it."""

    camera_format: str | None
    camera_size: str | None
    camera_fps: float | None
    timeout_s: float
    max_reconnects: int | None
    max_age_ms: float | None
    stats: Path | None

    def camera(self) -> CameraRequest | None:
        """What a camera is asked for; None where nothing is.

        Raises:
            UsageError: the size is not WIDTHxHEIGHT.
        """
        from depthmask.video.cameras import CameraRequest

        if not any((self.camera_format, self.camera_size, self.camera_fps)):
            return None
        size = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", self.camera_size or "1x1")
        if size is None:
            raise UsageError(
                f"--camera-size must be WIDTHxHEIGHT, such as 640x480, but got {self.camera_size!r}"
            )
        width, height = (int(size[1]), int(size[2])) if self.camera_size else (None, None)
        return CameraRequest(self.camera_format, width, height, self.camera_fps)

    def live(self) -> LiveOptions:
        """How a live source is treated; losses are told on stderr."""
        from depthmask.video.live_source import LiveOptions

        return LiveOptions(self.timeout_s, self.max_reconnects, _tell)


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second one ends the process as ever."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()
        restore()

    for number in numbers:
        signal.signal(number, ask_to_stop)
    try:
        yield stop
    finally:
        restore()


def status_text(statistics: RunStatistics) -> str:
    """`24.9 fps, age 61/70/74 ms, 3 dropped`: the last 100 frames' rate and p50/p95/p99 of their age."""
    fps = statistics.recent_fps
    parts = [] if fps is None else [f"{fps:.1f} fps"]
    ages_ms = [statistics.recent_age_ms(share) for share in (0.5, 0.95, 0.99)]
    if None not in ages_ms:
        parts.append(f"age {'/'.join(f'{age_ms:.0f}' for age_ms in ages_ms)} ms")
    parts.append(f"{statistics.drops.total} dropped")
    counts = statistics.source
    parts += [f"{counts.decode_errors} damaged"] * (counts.decode_errors > 0)
    parts += [f"lost {counts.losses} times"] * (counts.losses > 0)
    return ", ".join(parts)


def final_text(statistics: RunStatistics) -> str:
    """The same over the whole of a live run."""
    age = statistics.age
    drops, counts = statistics.drops, statistics.source
    quantiles = "/".join(f"{age.quantile_ms(share) or 0:.0f}" for share in (0.5, 0.95, 0.99))
    return (
        f"age p50/p95/p99 {quantiles} ms; dropped {drops.captured} at capture, {drops.handed_over} on"
        f" the way, {drops.late} late; {counts.decode_errors} damaged; lost {counts.losses} times"
    )


def stats_document(statistics: RunStatistics, seconds: float) -> dict[str, Any]:
    """What `--stats` writes, besides what `--json` prints."""
    return {
        "schema": STATS_SCHEMA,
        "frames": statistics.frames,
        "seconds": seconds,
        "frames_per_s": statistics.frames / seconds if seconds > 0 else 0.0,
        "age": statistics.age.summary(),
        "inference": statistics.inference.summary(),
        "stages": {name: stage.summary() for name, stage in statistics.stages.items()},
        "dropped": asdict(statistics.drops),
        "decode_errors": statistics.source.decode_errors,
        "losses": statistics.source.losses,
    }


def write_stats(path: Path, document: dict[str, Any]) -> None:
    """Write the statistics file.

    Raises:
        OutputError: it cannot be written.
    """
    from depthmask.output_files import write_output

    write_output(path, (json.dumps(document, indent=2) + "\n").encode())


def _tell(event: SourceEvent) -> None:
    messages.print(event.text, markup=False, soft_wrap=True)


def _list_cameras(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from depthmask.video.v4l2 import list_cameras

    cameras = list_cameras()
    if not cameras:
        messages.print("there is no camera on this machine")
    for camera in cameras:
        title = f"{camera.device}: {camera.problem or camera.name}"
        console.print(title, markup=False, soft_wrap=True)
        for mode in camera.modes:
            console.print(f"  {mode}", markup=False, soft_wrap=True)
    context.exit()


live_options = together(
    click.option(
        "--list-cameras",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_list_cameras,
        help="Print the cameras with their formats, sizes and rates, and exit.",
    ),
    click.option(
        "--camera-format", metavar="NAME", help="mjpeg, yuyv422 or another one of the list."
    ),
    click.option("--camera-size", metavar="WIDTHxHEIGHT", help="As the list has it."),
    click.option(
        "--camera-fps",
        type=click.FloatRange(min=0, min_open=True),
        metavar="RATE",
        help="Frames per second. What a camera does not offer is an error.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0.1),
        default=4.0,
        show_default=True,
        metavar="SECONDS",
        help="Without a picture for so long a live source counts as lost.",
    ),
    click.option(
        "--max-reconnects",
        type=click.IntRange(min=0),
        metavar="N",
        help="Give a lost live source up after so many attempts.  [default: never]",
    ),
    click.option(
        "--max-age-ms",
        type=click.FloatRange(min=0, min_open=True),
        metavar="MS",
        help="Leave out a live source's frames that are older.",
    ),
    click.option("--stats", type=PathType(), help="A JSON file for ages, rates, drops and losses."),
)
"""Everything that fills `LiveArguments`, and --list-cameras."""
