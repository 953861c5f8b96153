"""Tasks on a Ray cluster: workers that each open something once, and then take whatever task is next.

Ray starts the workers, places them, and repeats what a killed one was at; there is no scheduler here.
"""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from depthmask.errors import DepthmaskError, InputError, OutputError, UnavailableError
from depthmask.version import __version__

Task = TypeVar("Task")
Result = TypeVar("Result")
Shared = TypeVar("Shared", contravariant=True)
TaskIn = TypeVar("TaskIn", contravariant=True)
ResultOut = TypeVar("ResultOut", covariant=True)

RETRIES = 5
"""Of a task whose worker died."""
_CONNECT_S = 5.0
_START_S = 180.0
_SAME = ("numpy", "opencv-python", "av")
"""What must be of one version everywhere for the bytes to be the same."""
# HTTP/2's connection preface and empty SETTINGS (RFC 9113, 3.4): a gRPC server answers with its own.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)


class Work(Protocol[Shared, TaskIn, ResultOut]):
    """What every worker does; it is pickled, so its class must be importable there."""

    def open(self, shared: Shared, /) -> Callable[[TaskIn], ResultOut]:
        """In a worker, once: what its tasks go through."""


@dataclass(frozen=True)
class Done(Generic[Task, Result]):
    """What came of a task: a result, or why there is none."""

    task: Task
    result: Result | None
    error: DepthmaskError | None = None


@contextmanager
def connected(address: str | None, workers: int | None = None) -> Iterator[int]:
    """Connect to a cluster, or start one on this machine; gives the number of workers to use.

    Args:
        address: HOST:PORT, `auto`, or a ray:// address; by default $RAY_ADDRESS, or a cluster of this
            machine's own, which ends with the block.
        workers: How many; by default one for each of the cluster's CPUs.

    Raises:
        InputError: nothing answers at the address, or it is none.
        UnavailableError: Ray is not installed, or the cluster runs another version of Ray or Python.

    """
    ray = _import_ray()
    if ray.is_initialized():  # the caller's own
        yield workers or _cpus(ray)
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None:
        _check_answers(address)
    # "local": never a cluster that happens to be found on this machine.
    options: dict[str, Any] = {"address": address}
    if not address:
        options = {"address": "local", "num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(**options, log_to_driver=False, logging_level="CRITICAL")
    except (ValueError, ConnectionError) as error:
        raise _no_cluster(address, _line(error)) from error
    except RuntimeError as error:
        raise UnavailableError(
            f"the cluster at {address} must run this machine's versions of Ray and Python, but got"
            f" {' '.join(str(error).split())}. Try `pip install ray==VERSION` with the cluster's version"
        ) from error
    try:
        yield workers or _cpus(ray)
    finally:
        ray.shutdown()


def map_on_ray(
    work: Work[Shared, Task, Result],
    shared: Shared,
    tasks: Iterable[Task],
    *,
    workers: int,
    cpus: float = 1,
    gpus: float = 0,
    same: Sequence[str] = (),
) -> Iterator[Done[Task, Result]]:
    """Put tasks through `workers` workers, and give what comes of each as it is there, in any order.

    A task whose worker dies is repeated, up to `RETRIES` times, in a new one. One that raises a
    `DepthmaskError` is given with it, and the others go on.

    Args:
        work: What each worker does.
        shared: Goes to every machine once; arrays in it are mapped by its workers, not copied.
        tasks: Small; each is taken when a worker is free.
        workers: How many; those for which the cluster has no room yet join when it has.
        cpus: Of a worker.
        gpus: Of a worker.
        same: Packages that must be of this machine's version there, besides those that always must.

    Raises:
        UnavailableError: no worker could start, or one lacks what it needs or has other versions.
        OutputError: Ray's object store is full.
        DepthmaskError: what `work.open` raised.

    """
    ray = _import_ray()
    make = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES)(
        _Worker
    )
    versions = _versions(same)
    try:
        shared_ref = ray.put(shared)
        actors = [make.remote(pickle.dumps(work)) for _ in range(workers)]
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise _full(error) from error
    waiting = iter(tasks)
    # In a list it stays a reference, which only a worker that has just started follows.
    shared_in = [shared_ref]
    starting = {actor.start.remote(versions, shared_in): actor for actor in actors}
    running: dict[Any, tuple[Any, Task]] = {}
    is_first = True

    def give_next(actor: Any) -> None:  # noqa: ANN401  (Ray's handles have no type)
        for task in waiting:
            running[actor.run.remote(task, shared_in)] = (actor, task)
            return

    try:
        while running or (starting and is_first):
            limit_s = _START_S if is_first else None
            ready, _ = ray.wait([*running, *starting], num_returns=1, timeout=limit_s)
            if not ready:
                raise _none_started(ray, cpus, gpus)
            is_first = False
            (reference,) = ready
            if reference in starting:
                _check_started(ray, reference)
                give_next(starting.pop(reference))
                continue
            actor, task = running.pop(reference)
            give_next(actor)  # before the result is looked at: the worker need not wait for that
            yield _outcome(ray, reference, task)
    finally:
        # A generator that is left may end after the connection, with which its workers ended; Ray would
        # connect again, or even start a cluster.
        for actor in actors if ray.is_initialized() else ():
            ray.kill(actor)


class _Worker:
    """In a worker's process. What was opened goes when it is killed, and is opened again after."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        self._run: Callable[[Any], Any] | None = None

    def start(self, versions: dict[str, str], shared: list[Any]) -> DepthmaskError | None:
        found = _versions(tuple(versions))
        wrong = [name for name, version in versions.items() if found.get(name) != version]
        if wrong:
            name = wrong[0]
            return UnavailableError(
                f"a worker must have {name} {versions[name]}, as here, but {socket.gethostname()} has"
                f" {found.get(name, 'none')}. Try the same environment on every machine"
            )
        try:
            self._open(shared)
        except DepthmaskError as error:
            return error
        return None

    def run(self, task: Any, shared: list[Any]) -> Any:  # noqa: ANN401
        try:
            return (self._run or self._open(shared))(task)
        except DepthmaskError as error:
            return _Failed(error)

    def _open(self, shared: list[Any]) -> Callable[[Any], Any]:
        import cv2

        cv2.setNumThreads(1)
        (reference,) = shared
        self._run = pickle.loads(self._packed).open(_import_ray().get(reference))
        assert self._run is not None
        return self._run


@dataclass(frozen=True)
class _Failed:
    error: DepthmaskError


def _outcome(ray: Any, reference: Any, task: Task) -> Done[Task, Any]:  # noqa: ANN401
    try:
        result = ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise  # a bug of ours, with the worker's traceback
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise _full(error) from error
    except ray.exceptions.RayError as error:
        reason = UnavailableError(
            f"{task} must leave its worker alive, but {RETRIES + 1} died of it, often for lack of memory"
            f" ({type(error).__name__})"
        )
        return Done(task, None, reason)
    if isinstance(result, _Failed):
        return Done(task, None, result.error)
    return Done(task, result)


def _check_started(ray: Any, reference: Any) -> None:  # noqa: ANN401
    try:
        error = ray.get(reference)
    except ray.exceptions.RayError as failure:
        raise UnavailableError(
            f"a worker must be able to import depthmask {__version__}, but it could not start:"
            f" {_line(failure)}. Try the same environment on every machine"
        ) from failure
    if error is not None:
        raise error


def _none_started(ray: Any, cpus: float, gpus: float) -> UnavailableError:  # noqa: ANN401
    free = ray.available_resources()
    return UnavailableError(
        f"a worker must get {cpus:g} CPUs and {gpus:g} GPUs, but within {_START_S:.0f} s none did: the"
        f" cluster has {free.get('CPU', 0):g} and {free.get('GPU', 0):g} free. Try when it has room"
    )


def _full(error: BaseException) -> OutputError:
    return OutputError(
        f"Ray's object store and the disk that it spills to must have room, but {_line(error)}. Try a"
        " smaller --shard-size, or fewer --workers"
    )


def _check_answers(address: str) -> None:
    """Ray itself waits for more than a minute, and then ends the process."""
    if address in ("auto", "local"):
        return
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        raise _no_cluster(address, "it is no HOST:PORT")
    try:
        with socket.create_connection((host, int(port)), _CONNECT_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
                return
            connection.settimeout(_CONNECT_S)
            connection.sendall(_PREFACE)
            header = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, _line(error)) from error
    if header[3:4] != b"\x04":  # SETTINGS
        raise _no_cluster(address, "something else than Ray answers")


def _no_cluster(address: str | None, reason: str) -> InputError:
    return InputError(
        f"a Ray cluster must answer at {address or 'this machine'}, but {reason}. Try `ray status` there,"
        " or without --address"
    )


def _cpus(ray: Any) -> int:  # noqa: ANN401
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _versions(also: Sequence[str]) -> dict[str, str]:
    found = {"depthmask": __version__}
    for name in {*_SAME, *also} - set(found):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # another build of it, such as -headless
            continue
    return found


def _import_ray() -> Any:  # noqa: ANN401
    # It would tell Ray's makers about the cluster; and warns about GPUs that nobody asked for.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UnavailableError(
            "--engine ray needs Ray, which is not installed. Try pip install 'depthmask[ray]'"
        ) from error
    return ray


def _line(error: BaseException) -> str:
    """The first line of a message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
