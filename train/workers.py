"""Worker processes that make blocks of a data set, each whichever block comes next.

The workers get the pictures from a file and tell about each sample. One that dies ends the work with
an error; when this process ends, however it does, the workers end too.
"""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.process import BaseProcess

from depthmask.errors import DepthmaskError, UnavailableError
from depthmask.train.parking import ParkedAssets
from depthmask.train.shards import Job, Tick

_Pipe = connection.Connection
_SAMPLE, _BLOCK = "sample", "block"


def make_blocks(
    job: Job, pictures: ParkedAssets, blocks: Iterator[int], workers: int, tick: Tick
) -> None:
    """Have `workers` processes make the blocks.

    Raises:
        OutputError: a block cannot be written.
        UnavailableError: a worker died.

    """
    processes: dict[_Pipe, BaseProcess] = {}
    try:
        _start(processes, job, pictures, workers)
        waiting = {pipe for pipe in processes if _send_next(pipe, blocks)}
        while waiting:
            for pipe in connection.wait(list(waiting)):
                assert isinstance(pipe, _Pipe)
                said = _receive(pipe, processes[pipe])
                if isinstance(said, Exception):
                    raise said
                if said == _SAMPLE:
                    tick()
                elif not _send_next(pipe, blocks):
                    waiting.remove(pipe)
    finally:
        for pipe, process in processes.items():
            process.terminate()
            process.join()
            pipe.close()


@contextmanager
def starting() -> Iterator[None]:
    """Around the start of worker processes: they never see Ctrl-C, and compute with one thread.

    A terminal sends Ctrl-C to the whole group, and a worker that is still importing would die of it
    with a traceback. BLAS reads its number of threads when it loads; a second thread only spins,
    and takes the training's core (19 instead of 40 samples a second on two cores).
    """
    # It is started with the first process, and lets Ctrl-C through again when it is (CPython does so).
    resource_tracker.ensure_running()
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {name: os.environ.get(name) for name in wanted}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start(
    processes: dict[_Pipe, BaseProcess], job: Job, pictures: ParkedAssets, workers: int
) -> None:
    # A fork would inherit the locks of OpenCV's and BLAS' threads, and hang.
    context = get_context("spawn")
    with starting():
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, job, pictures), daemon=True)
            process.start()
            processes[ours] = process
            theirs.close()


def _send_next(pipe: _Pipe, blocks: Iterator[int]) -> bool:
    """Give a worker the next block; False where there is none left."""
    block = next(blocks, None)
    if block is None:
        return False
    with suppress(BrokenPipeError):  # it died: receiving from it will say so
        pipe.send(block)
    return True


def _receive(pipe: _Pipe, process: BaseProcess) -> object:
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise UnavailableError(
            f"a worker that composes samples must stay alive, but it died (exit code"
            f" {process.exitcode}), often for lack of memory. What is finished is kept: the same"
            " command goes on, with fewer --workers perhaps"
        ) from None


def _work(pipe: _Pipe, job: Job, pictures: ParkedAssets) -> None:
    """In a worker: make the blocks that come through the pipe, until it closes."""
    import cv2

    cv2.setNumThreads(1)
    assets = pictures.open()
    prepared = False
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            block = pipe.recv()
            try:
                if not prepared:
                    job.prepare(assets)
                    prepared = True
                job.make(assets, block, lambda: pipe.send(_SAMPLE))
            except (EOFError, BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                if not isinstance(error, DepthmaskError):
                    error.add_note(f"in a worker: {traceback.format_exc()}")
                pipe.send(error)  # raised again where the user is
                return
            pipe.send(_BLOCK)
