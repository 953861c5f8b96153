"""`dmx serve` under load: errors, and what the waiting costs beside an idle service.

    python -m depthmask.bench.serve_load --clients 8 --seconds 60
    python -m depthmask.bench.serve_load BUNDLE --output overlay --threads 2

Starts a service of its own. First one client asks alone, which gives the unloaded latency; then all of them
ask without a pause (a closed loop). With one request in work at a time, a client should wait for those before
it and no longer: the 99th percentile within 1.5 x the queue's length x the unloaded median.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from depthmask.bench.machine import this_machine
from depthmask.bench.script import run_script
from depthmask.commands.options import PathType
from depthmask.errors import CheckFailedError
from depthmask.samples import SHIPPED_SAMPLES
from depthmask.serve.answer import OUTPUTS

_TIMEOUT_S = 60.0
_CONTENT_TYPE = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}


@dataclass
class Asked:
    """What clients were answered; all of them append to it."""

    latencies_ms: list[float] = field(default_factory=list)
    """Of the answers with status 200, from the first byte sent to the last byte read."""
    statuses: list[str] = field(default_factory=list)
    """Of each request: its status, or the error of its connection."""

    def summary(self, seconds: float) -> dict[str, Any]:
        """For people and machines."""
        quantiles_ms = np.quantile(self.latencies_ms, [0.5, 0.99, 1.0]).tolist()
        return {
            "requests": len(self.statuses),
            "errors": len(self.statuses) - len(self.latencies_ms),
            "statuses": dict(Counter(self.statuses)),
            "per_s": len(self.latencies_ms) / seconds,
            **dict(zip(("p50_ms", "p99_ms", "max_ms"), quantiles_ms, strict=True)),
        }


def measure_load(
    arguments: list[str], photo: Path, query: str, clients: int, seconds: float, alone: int
) -> dict[str, Any]:
    """Measure a service that is started for it.

    Args:
        arguments: of `dmx serve`, without --port.
        photo: the image that every request carries.
        query: of the URL, such as `?output=mask`.
        clients: connections that ask at once.
        seconds: the length of the load.
        alone: requests by one client alone, before.

    Raises:
        CheckFailedError: the service does not start, or gives no answer.
    """
    with served(arguments) as (process, port):
        one = _Client(port, photo, query)
        queue = one.model()["queue"]
        for _ in range(max(3, alone // 10)):
            one.ask(Asked())
        unloaded, loaded = Asked(), Asked()
        began_s = time.monotonic()
        for _ in range(alone):
            one.ask(unloaded)
        alone_s = time.monotonic() - began_s
        memory_mb = [_memory_mb(process)]
        ends_s = time.monotonic() + seconds
        threads = [
            threading.Thread(target=_ask_until, args=(port, photo, query, ends_s, loaded))
            for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        memory_mb.append(_memory_mb(process))
    for asked in (unloaded, loaded):
        if not asked.latencies_ms:
            raise CheckFailedError(f"the service gave no answer: {dict(Counter(asked.statuses))}")
    result = {"unloaded": unloaded.summary(alone_s), "loaded": loaded.summary(seconds)}
    p99_ms, idle_ms = result["loaded"]["p99_ms"], result["unloaded"]["p50_ms"]
    return {
        "clients": clients,
        "seconds": seconds,
        "queue": queue,
        **result,
        "p99_to_queue_times_unloaded": p99_ms / (queue * idle_ms),
        "memory_before_mb": memory_mb[0],
        "memory_after_mb": memory_mb[1],
    }


class _Client:
    """One connection, which is opened again where it breaks."""

    def __init__(self, port: int, photo: Path, query: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
        self._body, self._path = photo.read_bytes(), f"/v1/predict{query}"
        self._headers = {"Content-Type": _CONTENT_TYPE[photo.suffix.lower()]}

    def ask(self, asked: Asked) -> None:
        began_s = time.perf_counter()
        try:
            self._connection.request("POST", self._path, self._body, self._headers)
            response = self._connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            asked.statuses.append(type(error).__name__)
            self._connection.close()
            return
        asked.statuses.append(str(response.status))
        if response.status == 200:
            asked.latencies_ms.append(1000 * (time.perf_counter() - began_s))

    def model(self) -> dict[str, Any]:
        self._connection.request("GET", "/v1/model")
        document: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return document


def _ask_until(port: int, photo: Path, query: str, ends_s: float, asked: Asked) -> None:
    client = _Client(port, photo, query)
    while time.monotonic() < ends_s:
        client.ask(asked)


@contextmanager
def served(arguments: list[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """`dmx serve` on a free port, while the context is open; gives its process and port."""
    command = [sys.executable, "-m", "depthmask", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        address = re.search(r":(\d+)$", process.stdout.readline().strip())
        if address is None:
            raise CheckFailedError("the service did not start; its own message says why")
        yield process, int(address[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=_TIMEOUT_S)


def _memory_mb(process: subprocess.Popen[str]) -> float:
    """Resident now."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@click.command()
@click.argument("bundle", type=PathType(), required=False)
@click.option("--photo", type=PathType(), default=SHIPPED_SAMPLES / "photos" / "cat.jpg")
@click.option("--output", type=click.Choice(OUTPUTS), help="A picture.  [default: npz]")
@click.option("--clients", type=click.IntRange(1, 256), default=8, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=60.0, show_default=True)
@click.option("--alone", type=click.IntRange(1), default=200, show_default=True)
@click.option("--queue", type=click.IntRange(1), default=8, show_default=True)
@click.option("--threads", type=click.IntRange(1))
@click.option("--resolution")
def command(
    bundle: Path | None,
    photo: Path,
    output: str | None,
    clients: int,
    seconds: float,
    alone: int,
    queue: int,
    threads: int | None,
    resolution: str | None,
) -> None:
    """Load a service, and print JSON."""
    arguments = [] if bundle is None else [str(bundle)]
    given = {"--queue": queue, "--threads": threads, "--resolution": resolution}
    for name, value in given.items():
        arguments += [] if value is None else [name, str(value)]
    query = f"?output={output}" if output else ""
    result = measure_load(arguments, photo, query, clients, seconds, alone)
    document = {"machine": this_machine().summary, "photo": photo.name, "answer": output or "npz"}
    click.echo(json.dumps(document | result, indent=2))


if __name__ == "__main__":
    run_script(command, "serve_load")
