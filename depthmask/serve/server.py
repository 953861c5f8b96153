"""Listens, serves, and drains on SIGTERM and Ctrl-C: uvicorn before a `Service`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depthmask.errors import InterruptedWorkError, OutputError
from depthmask.serve.app import build_app
from depthmask.serve.service import Service
from depthmask.serve.watchdog import Watchdog

if TYPE_CHECKING:
    import uvicorn

    from depthmask.pipeline import Pipeline

_BACKLOG = 128
_KEEP_ALIVE_S = 5
# Further ones get 503. Well under the 1024 files that a process may usually open.
_MOST_CONNECTIONS = 500
_STOP_S = 0.3
_POLL_S = 0.02


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        OutputError: the address is not this machine's, or the port is in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        # socket.create_server adds the address to strerror; a name that is not found has its own numbers.
        is_system = error.errno is not None and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno or 0) if is_system else error.strerror or str(error)
        raise OutputError(
            f"{host}:{port} cannot be listened on: {reason}. Try another --port, or 0 for a"
            " free one"
        ) from error


class HttpServer:
    """Serves until a signal or `stop`, then drains."""

    def __init__(self, service: Service, web: Path | None, listener: socket.socket) -> None:
        self._service, self._listener = service, listener
        self._app = build_app(service, web)
        self._stops: list[Callable[[], object]] = []

    def run(self, on_ready: Callable[[Pipeline], object]) -> None:
        """Serve; `on_ready` is called once predictions are accepted.

        Raises:
            DepthmaskError: the bundle cannot be opened.
            InterruptedWorkError: a second signal came, or --drain-timeout was over, before all was answered.
                The worker may be alive then.
        """
        asyncio.run(self._main(on_ready))

    def stop(self) -> None:
        """Drain, as a first signal does; a second call ends at once. From any thread, while it runs."""
        for stop in self._stops:
            stop()

    async def _main(self, on_ready: Callable[[Pipeline], object]) -> None:
        server, worker = _uvicorn(self._app), self._service.worker
        signals: asyncio.Queue[None] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        self._stops.append(lambda: loop.call_soon_threadsafe(signals.put_nowait, None))
        with _on_signals(loop, lambda: signals.put_nowait(None)):
            worker.start()
            try:
                await self._serve(server, signals, on_ready)
            finally:
                self._stops.clear()
                worker.close(_STOP_S)

    async def _serve(
        self,
        server: uvicorn.Server,
        signals: asyncio.Queue[None],
        on_ready: Callable[[Pipeline], object],
    ) -> None:
        service = self._service
        watchdog = Watchdog(server.server_state, service.settings, service.metrics)
        opened = asyncio.wrap_future(service.worker.opened)
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        watching = asyncio.create_task(watchdog.run())
        stopped = asyncio.create_task(signals.get())
        await _first(opened, stopped, serving, watching)
        if opened.done():
            on_ready(opened.result())
        await _first(stopped, serving, watching)
        for task in (serving, watching):
            if task.done():
                task.result()  # it never ends well by itself
        ending = asyncio.create_task(self._end(server, serving))
        again = asyncio.create_task(signals.get())
        await _first(ending, again, timeout_s=service.settings.drain_timeout_s)
        if not ending.done():
            # What asyncio.run cancels now, uvicorn would tell with a traceback each.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            raise InterruptedWorkError(self._unfinished(server, is_asked=again.done()))
        await ending

    async def _end(self, server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
        """An orderly end: every accepted request is answered, and every client has taken its answer."""
        await self._service.drained()
        server.should_exit = True
        await serving
        self._service.worker.close(0)
        while self._service.worker.is_alive:
            await asyncio.sleep(_POLL_S)

    def _unfinished(self, server: uvicorn.Server, *, is_asked: bool) -> str:
        limit_s = self._service.settings.drain_timeout_s
        why = "a second signal came" if is_asked else f"{limit_s:g} s were over"
        if self._service.in_flight:
            return f"{why} before {self._service.in_flight} accepted requests were answered"
        if server.server_state.connections:
            return f"{why} before {len(server.server_state.connections)} clients took their answers"
        return f"{why} before the bundle was closed"


async def _first(*awaited: asyncio.Future[Any], timeout_s: float | None = None) -> None:
    """Wait for the first; the others go on."""
    await asyncio.wait(awaited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


@contextmanager
def _on_signals(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> Iterator[None]:
    """SIGTERM and SIGINT call, in the main thread; in another one they are not ours."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, call)
    try:
        yield
    finally:
        for number in numbers:
            with suppress(ValueError):
                loop.remove_signal_handler(number)


def _uvicorn(app: object) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals are ours: uvicorn would stop listening at once, and die of the signal at the end."""
            yield

    # Tracebacks of ours go to stderr; of clients that speak no HTTP it says nothing.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
    return Server(config)
