"""The one thread that owns the pipeline, and the bounded queue before it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from depthmask.pipeline import Pipeline

Result = TypeVar("Result")

_NEWEST_SHARE = 0.2


class QueueFullError(Exception):
    """As many jobs wait as may."""


class PipelineWorker:
    """Opens a pipeline in its own thread, does one job at a time with it, and closes it at the end.

    What is public may be called from any thread.
    """

    def __init__(self, open_pipeline: Callable[[], Pipeline], queue: int) -> None:
        self._open_pipeline, self._queue = open_pipeline, queue
        self.opened: Future[Pipeline] = Future()
        """The pipeline, or the error that opening it ended with."""
        self._changed = threading.Condition()
        self._jobs: deque[tuple[Callable[[Pipeline], Any], Future[Any]]] = deque()
        self._is_busy, self._is_closed = False, False
        self._job_s = 0.0
        # A daemon: an inference that hangs must not keep the process alive past --drain-timeout.
        self._thread = threading.Thread(target=self._work, name="pipeline", daemon=True)

    def start(self) -> None:
        """Start to open the pipeline."""
        self._thread.start()

    def submit(self, job: Callable[[Pipeline], Result]) -> Future[Result]:
        """Put a job at the queue's end; its future may be cancelled until the job begins.

        Raises:
            QueueFullError: the queue is full.
        """
        future: Future[Result] = Future()
        with self._changed:
            if self._waiting() >= self._queue + (not self._is_busy):
                raise QueueFullError
            self._jobs.append((job, future))
            self._changed.notify()
        return future

    @property
    def waiting(self) -> int:
        """Jobs that have not begun."""
        with self._changed:
            return self._waiting()

    @property
    def is_full(self) -> bool:
        """Whether `submit` would refuse."""
        with self._changed:
            return self._waiting() >= self._queue + (not self._is_busy)

    @property
    def wait_s(self) -> int:
        """Whole seconds, 1 at least, in which what waits now will probably be done."""
        return max(1, math.ceil(self._job_s * (self.waiting + 1)))

    @property
    def is_alive(self) -> bool:
        """Whether the thread still opens the pipeline, works with it or closes it."""
        return self._thread.is_alive()

    def close(self, timeout_s: float) -> None:
        """Begin no further job, and wait for the one in work, but not longer than this."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _waiting(self) -> int:
        """Without the jobs whose clients have left."""
        self._jobs = deque(item for item in self._jobs if not item[1].cancelled())
        return len(self._jobs)

    def _work(self) -> None:
        self.opened.set_running_or_notify_cancel()
        try:
            pipeline = self._open_pipeline()
        except BaseException as error:  # raised again where `opened` is read
            self.opened.set_exception(error)
            return
        with pipeline:
            self.opened.set_result(pipeline)
            while (item := self._next()) is not None:
                self._do(*item, pipeline)

    def _next(self) -> tuple[Callable[[Pipeline], Any], Future[Any]] | None:
        with self._changed:
            self._is_busy = False
            self._changed.wait_for(lambda: self._jobs or self._is_closed)
            if self._is_closed:
                return None
            self._is_busy = True
            return self._jobs.popleft()

    def _do(self, job: Callable[[Pipeline], Any], future: Future[Any], pipeline: Pipeline) -> None:
        if not future.set_running_or_notify_cancel():
            return
        began_s = time.monotonic()
        try:
            result = job(pipeline)
        except BaseException as error:  # raised again where the result is awaited
            future.set_exception(error)
        else:
            future.set_result(result)
        took_s = time.monotonic() - began_s
        self._job_s += (_NEWEST_SHARE if self._job_s else 1.0) * (took_s - self._job_s)
