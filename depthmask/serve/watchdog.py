"""Cuts off clients that are too slow, which uvicorn does not: with a request, or in taking its answer.

It looks at uvicorn's connections a few times a second. What it reads of them (`cycle`, `transport`,
`timeout_keep_alive_task`) is not uvicorn's public interface; tests/depthmask/serve/test_slow_clients.py would
notice a change.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast
from weakref import WeakKeyDictionary

from depthmask.serve.metrics import ServiceMetrics
from depthmask.serve.settings import ServeSettings

if TYPE_CHECKING:
    from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
    from uvicorn.server import ServerState

Phase = Literal["idle", "reading", "working", "writing"]
_TICK_S = 0.1


@dataclass(frozen=True)
class _Stage:
    """Where a connection is; two are equal while its time goes on counting."""

    phase: Phase
    answered: RequestResponseCycle | None
    """The last request that was answered: the head of the next one and its body are one stage."""


@dataclass
class _Seen:
    stage: _Stage
    since_s: float
    """On the monotonic clock."""


class Watchdog:
    """Knows since when each connection has been in its stage."""

    def __init__(
        self, state: ServerState, settings: ServeSettings, metrics: ServiceMetrics
    ) -> None:
        self._state, self._metrics = state, metrics
        self._limits_s: dict[Phase, float] = {
            "reading": settings.read_timeout_s,
            "writing": settings.write_timeout_s,
        }
        self._seen: WeakKeyDictionary[H11Protocol, _Seen] = WeakKeyDictionary()

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            # server.py asks uvicorn for this protocol.
            for connection in cast("list[H11Protocol]", list(self._state.connections)):
                self.look(connection, time.monotonic())
            await asyncio.sleep(_TICK_S)

    def look(self, connection: H11Protocol, now_s: float) -> None:
        """Note the stage of a connection, and cut it off where that lasts too long; `now_s` is monotonic."""
        seen, cycle = self._seen.get(connection), connection.cycle
        answered = seen.stage.answered if seen else None
        if cycle is not None and cycle.response_complete:
            answered = cycle
        stage = _Stage(phase_of(connection), answered)
        if seen is None or seen.stage != stage:
            self._seen[connection] = _Seen(stage, now_s)
        elif now_s - seen.since_s > self._limits_s.get(stage.phase, math.inf):
            self._cut_off(connection, stage.phase)

    def _cut_off(self, connection: H11Protocol, phase: Phase) -> None:
        self._metrics.count_rejected("read_timeout" if phase == "reading" else "write_timeout")
        cycle = connection.cycle
        if phase == "reading" and (cycle is None or not cycle.response_started):
            connection.transport.write(_timed_out(self._limits_s["reading"]))
            connection.transport.close()
        else:
            connection.transport.abort()


def phase_of(connection: H11Protocol) -> Phase:
    """What a connection waits for.

    `reading`: for the rest of a request, its first byte included where the connection is new. `writing`: for
    the client to take what was sent. `working`: for us. `idle`: for a further request, which uvicorn limits.
    """
    cycle: RequestResponseCycle | None = connection.cycle
    transport = connection.transport
    unsent = cycle is not None and cycle.response_started and transport.get_write_buffer_size()
    if transport.is_closing() or unsent:
        return "writing"
    if cycle is None:
        return "reading"
    if cycle.response_complete:
        return "reading" if connection.timeout_keep_alive_task is None else "idle"
    return "reading" if cycle.more_body else "working"


def _timed_out(limit_s: float) -> bytes:
    body = json.dumps({"error": f"a request must arrive within {limit_s:g} s"}).encode() + b"\n"
    head = (
        "HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
