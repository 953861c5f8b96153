"""How the threads of a run hand frames over: a slot that holds one item."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class CancelledError(Exception):
    """The other side of a slot has gone; the thread that hears it ends."""


class Slot(Generic[Item]):
    """Holds one item between two threads.

    With `newest`, an item that was not taken yet is replaced by the next one and counted in `dropped`: what
    is taken is never old. Without, the one that puts waits until the item before was taken: nothing is lost.
    """

    def __init__(self, *, newest: bool) -> None:
        self.dropped = 0
        self._newest = newest
        self._held: list[Item] = []
        self._ended = False
        self._error: BaseException | None = None
        self._cancelled = False
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Hand an item over.

        Raises:
            CancelledError: nobody will take it.
        """
        with self._changed:
            if not self._newest:
                self._changed.wait_for(lambda: not self._held or self._cancelled)
            if self._cancelled:
                raise CancelledError
            self.dropped += len(self._held)
            self._held = [item]
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more items come; after the one that is held, `take` raises the error, if any."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def cancel(self) -> None:
        """Say that no more items are wanted."""
        with self._changed:
            self._cancelled = True
            self._held = []
            self._changed.notify_all()

    def take(self, timeout_s: float | None = None) -> Item | None:
        """The item, as soon as there is one; None when the slot has ended.

        Raises:
            TimeoutError: there was none within the time.
            CancelledError: the slot was cancelled.
            BaseException: what the other side ended with.
        """

        def settled() -> bool:
            return bool(self._held) or self._ended or self._cancelled

        with self._changed:
            if not self._changed.wait_for(settled, timeout_s):
                raise TimeoutError
            if self._cancelled:
                raise CancelledError
            if self._held:
                self._changed.notify_all()
                return self._held.pop()
            if self._error is not None:
                raise self._error
            return None

    def __iter__(self) -> Iterator[Item]:
        """Items until the slot ends."""
        while (item := self.take()) is not None:
            yield item


def start_stage(name: str, work: Callable[[], None], into: Slot[Item]) -> threading.Thread:
    """Run `work`, which fills a slot, in a thread; however it ends, the slot ends with it.

    The thread does not keep the process alive: a read that never returns must not.
    """

    def run() -> None:
        try:
            work()
        except CancelledError:
            into.end()
        except BaseException as error:  # handed to the thread that takes
            into.end(error)
        else:
            into.end()

    thread = threading.Thread(target=run, name=f"depthmask-{name}", daemon=True)
    thread.start()
    return thread
