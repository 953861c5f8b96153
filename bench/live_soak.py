"""Minutes of a live source on loopback: its frames' ages, whether it survives losses, the memory it takes.

    python -m depthmask.bench.live_soak age --server rtsp --minutes 10
    python -m depthmask.bench.live_soak losses --count 100

The pictures show when they were made, so ages are true ones: encoding, transfer and decoding are in them. The
inference is a pause of 120 ms.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import numpy as np

from depthmask.bench.machine import this_machine
from depthmask.bench.stream_servers import StreamServer, mjpeg_server, rtsp_server, true_age_ms
from depthmask.errors import UsageError
from depthmask.frames import UInt8Array
from depthmask.pipeline import Prediction
from depthmask.video.frame import Frame
from depthmask.video.live_source import LiveOptions, SourceEvent
from depthmask.video.runner import run
from depthmask.video.sources import open_source
from depthmask.video.statistics import Histogram, RunStatistics

_SERVERS: dict[str, Callable[[], StreamServer]] = {"rtsp": rtsp_server, "mjpeg": mjpeg_server}
_LOSSES = (("rtsp", "killed"), ("rtsp", "frozen"), ("rtsp", "silent"), ("mjpeg", "cut"))
_FRESH_MS = 1000.0
_PATIENCE_S = 30.0
_EMPTY = np.zeros((1, 1), np.float32)


@dataclass
class _Watch:
    """A sink that reads the true age off each picture."""

    ages: Histogram = field(default_factory=Histogram)
    by_minute_ms: list[list[float]] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    damaged: int = 0
    last_fresh_s: float = 0.0
    is_open: bool = True
    _began_s: float = field(default_factory=time.monotonic)

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Note the age."""
        now_s = time.monotonic()
        age_ms = true_age_ms(frame.image_HW3)
        minute = int((now_s - self._began_s) / 60)
        if len(self.by_minute_ms) <= minute:
            self.by_minute_ms.append([])
            self.memory_mb.append(_memory_mb())
        if age_ms is None:
            self.damaged += 1
            return
        self.ages.add(age_ms)
        self.by_minute_ms[-1].append(age_ms)
        if age_ms < _FRESH_MS:
            self.last_fresh_s = now_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


@dataclass(frozen=True)
class Loss:
    """One loss of the source."""

    server: str
    how: str
    noticed_s: float | None
    back_s: float | None
    """From the source's return to the first fresh frame."""
    memory_mb: float
    """Of this process, afterwards."""


def soak_age(server: str, minutes: float, inference_ms: float) -> dict[str, Any]:
    """Run for some minutes; ages from the picture's making to its showing."""
    watch, statistics, stop = _Watch(), RunStatistics(), threading.Event()
    with _SERVERS[server]() as camera, open_source(camera.url) as source:
        threading.Timer(60 * minutes, stop.set).start()
        run(_pause(inference_ms), source, watch, stop=stop, statistics=statistics)
    return {
        "server": server,
        "minutes": minutes,
        "inference_ms": inference_ms,
        "true_age": watch.ages.summary(),
        "measured_age": statistics.age.summary(),
        "p95_ms_by_minute": [float(np.quantile(ages, 0.95)) for ages in watch.by_minute_ms if ages],
        "memory_mb_by_minute": watch.memory_mb,
        "dropped": asdict(statistics.drops),
        "damaged": watch.damaged + statistics.source.decode_errors,
    }


def soak_losses(count: int) -> dict[str, Any]:
    """Lose each kind of source in turn, until there were `count` losses."""
    losses: list[Loss] = []
    for server, group in itertools.groupby(
        sorted(_LOSSES[number % len(_LOSSES)] for number in range(count)), key=lambda loss: loss[0]
    ):
        losses += _lose(server, [how for _, how in group])
    return {
        "count": count,
        "survived": sum(one.back_s is not None for one in losses),
        "noticed_max_s": max((one.noticed_s or 0.0 for one in losses), default=None),
        "back_max_s": max((one.back_s or 0.0 for one in losses), default=None),
        "losses": [asdict(one) for one in losses],
    }


def _lose(server: str, hows: list[str]) -> list[Loss]:
    watch, stop, events = _Watch(), threading.Event(), list[tuple[float, SourceEvent]]()
    live = LiveOptions(on_event=lambda event: events.append((time.monotonic(), event)))
    losses = []
    with _SERVERS[server]() as camera, open_source(camera.url, live=live) as source:
        runner = threading.Thread(
            target=run, args=(_pause(20.0), source, watch), kwargs={"stop": stop}
        )
        runner.start()
        for how in hows:
            _until(lambda: time.monotonic() - watch.last_fresh_s < 0.5)
            losses.append(_lose_once(camera, server, how, watch, events))
            click.echo(json.dumps(asdict(losses[-1])), err=True)
        stop.set()
        runner.join()
    return losses


def _lose_once(
    camera: StreamServer,
    server: str,
    how: str,
    watch: _Watch,
    events: list[tuple[float, SourceEvent]],
) -> Loss:
    time.sleep(1.0)
    events.clear()
    began_s = time.monotonic()
    {"frozen": camera.freeze, "silent": camera.toggle_pictures}.get(how, camera.kill)()
    noticed = _until(lambda: bool(events))
    time.sleep(2.0)
    # The first moment at which the source could be opened again.
    {"frozen": camera.thaw, "silent": camera.toggle_pictures}.get(how, camera.start)()
    returned_s = time.monotonic()
    back = _until(lambda: watch.last_fresh_s > returned_s)
    return Loss(
        server,
        how,
        events[0][0] - began_s if noticed else None,
        watch.last_fresh_s - returned_s if back else None,
        _memory_mb(),
    )


def _until(condition: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True


def _pause(inference_ms: float) -> Callable[[UInt8Array], Prediction]:
    def predict(frame_HW3: UInt8Array) -> Prediction:
        time.sleep(inference_ms / 1000)
        return Prediction(_EMPTY, _EMPTY, {"inference": inference_ms})

    return predict


def _memory_mb() -> float:
    """Resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@click.command()
@click.argument("what", type=click.Choice(["age", "losses"]))
@click.option("--server", type=click.Choice(list(_SERVERS)), default="rtsp", show_default=True)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--inference-ms", default=120.0, show_default=True)
@click.option("--count", default=100, show_default=True)
def command(what: str, server: str, minutes: float, inference_ms: float, count: int) -> None:
    """Run one soak test, and print JSON."""
    if count < 1:
        raise UsageError(f"--count must be 1 or more, but got {count}")
    result = soak_age(server, minutes, inference_ms) if what == "age" else soak_losses(count)
    click.echo(json.dumps({"machine": this_machine().summary, **result}, indent=2))


if __name__ == "__main__":
    command()
