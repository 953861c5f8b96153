"""Several processes that train one chain, started by torchrun; or this one alone.

Sample k of a batch goes to process k % processes. The first process (rank 0) writes, the others only
compute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from depthmask.devices import cuda_problem
from depthmask.errors import UnavailableError

Sample = TypeVar("Sample")


@dataclass(frozen=True)
class Processes:
    """A process among those that train together."""

    rank: int
    count: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this one writes the run's files."""
        return self.rank == 0

    def share(self, samples: Sequence[Sample]) -> list[Sample]:
        """Of what all processes take together, the part of this one."""
        return list(samples[self.rank :: self.count])

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()

    def largest(self, value: float) -> float:
        """Over the processes; the same answer in all."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return float(tensor.item())

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Of each value over the processes."""
        if self.count == 1:
            return values
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor)
        return dict(zip(values, (tensor / self.count).tolist(), strict=True))


def under_torchrun() -> bool:
    """Whether torchrun started this process, with others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def first_process() -> bool:
    """Whether this is the process that writes and reports."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started; one process without it.

    A process group that is there already is used, and left as it is.

    Raises:
        UnavailableError: CUDA was asked for, but is not there; or another process ended.
    """
    problem = cuda_problem()
    if problem is None and not torch.cuda.is_available():
        problem = "the installed torch was built without CUDA"
    if device == "cuda" and problem:
        raise UnavailableError(f"--device cuda was asked for, but {problem}")
    on_cuda = problem is None if device == "auto" else device == "cuda"
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = torch.device("cuda", local) if on_cuda else torch.device("cpu")
    if not under_torchrun():
        yield Processes(0, 1, chosen)
        return
    if on_cuda:
        torch.cuda.set_device(chosen)
    ours = not distributed.is_initialized()
    if ours:
        distributed.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), chosen)
    except RuntimeError as error:
        if not any(backend in str(error) for backend in ("gloo", "NCCL")):
            raise
        raise UnavailableError(
            "all processes of a training must stay alive, but another one ended. Its own message"
            " says why; the same command goes on"
        ) from error
    finally:
        if ours:
            distributed.destroy_process_group()
