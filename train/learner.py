"""The networks that learn, with their optimiser: one step on a batch, and the state to go on from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from depthmask.chain import MaskDepthChain, build
from depthmask.errors import CheckFailedError, DepthmaskError
from depthmask.models.encoder_weights import ENCODERS, load_encoder_weights
from depthmask.presets import ChainSpec
from depthmask.train.config import TrainingConfig
from depthmask.train.dataset import Batch
from depthmask.train.distributed import Processes
from depthmask.train.modes import Objective
from depthmask.train.run_folder import State

Weights = dict[str, Tensor]


class Learner:
    """A chain in training, and its moving average."""

    def __init__(
        self,
        config: TrainingConfig,
        processes: Processes,
        *,
        spec: ChainSpec,
        encoder_weights: Sequence[Weights] = (),
        start: MaskDepthChain | None = None,
        teacher: MaskDepthChain | None = None,
    ) -> None:
        """Build the chain with its first weights.

        Raises:
            InputError: the encoders' weights fit no network.
            UsageError: a teacher is missing or not wanted.
        """
        self.config = config
        self.processes = processes
        torch.manual_seed(config.seed)
        self.chain = build(spec)
        for weights in encoder_weights:
            _load_encoders(self.chain, weights)
        if start is not None:
            self.chain.load_state_dict(start.state_dict())
        self.averaged = build(spec)
        self.averaged.load_state_dict(self.chain.state_dict())
        self.averaged.to(processes.device)
        self.objective = Objective(config, self.chain, teacher).to_device(processes.device)
        self.objective.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.chain, config), weight_decay=config.weight_decay
        )
        self._wrapped = _for_processes(self.objective, processes)

    def step(self, batch: Batch, rate: float, step: int) -> dict[str, float]:
        """One optimiser step on this process's share of the batch; gives the losses.

        With `micro_batch` the gradients of parts are added up.

        Raises:
            CheckFailedError: the loss or its gradient is not finite; the weights are as they were.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.zero_grad(set_to_none=True)
        size = len(batch.number_B)
        part = min(self.config.micro_batch or size, size)
        starts = range(0, size, part)
        losses: dict[str, float] = {}
        for start in starts:
            rows = batch.part(slice(start, start + part)).to(self.processes.device)
            share = len(rows.number_B) / size
            with nullcontext() if start == starts[-1] else self._apart():
                terms = self._wrapped(rows)
                loss = share * torch.stack(list(terms.values())).sum()
                loss.backward()  # type: ignore[no-untyped-call]
            for name, value in terms.items():
                losses[name] = losses.get(name, 0.0) + share * value.item()
        losses = self.processes.mean(losses)
        norm = nn.utils.clip_grad_norm_(self.chain.parameters(), self.config.clip_norm).item()
        total = sum(losses.values())
        if not math.isfinite(total) or not math.isfinite(norm):
            raise CheckFailedError(
                f"the loss and its gradient must be finite, but at step {step} they are {total:g}"
                f" and {norm:g}"
            )
        self.optimizer.step()
        _average(self.averaged, self.chain, self.config.average_decay, step)
        return losses

    def _apart(self) -> Any:  # noqa: ANN401  (a context manager)
        """Gradients of all but the last part stay in this process."""
        if isinstance(self._wrapped, nn.parallel.DistributedDataParallel):
            return self._wrapped.no_sync()
        return nullcontext()

    def state(self) -> State:
        """What `load_state` takes."""
        return {
            "chain": self.chain.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state(self, state: State) -> None:
        """Go on from a state."""
        self.chain.load_state_dict(state["chain"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """One sha256 over names, types, shapes and values, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _for_processes(objective: Objective, processes: Processes) -> nn.Module:
    if processes.count == 1:
        return objective
    on_cuda = processes.device.type == "cuda"
    # As its default is, buffers (batch norm's statistics) are those of rank 0 everywhere, so that
    # its state is all that a run is gone on with.
    return nn.parallel.DistributedDataParallel(
        objective, device_ids=[processes.device] if on_cuda else None
    )


def _load_encoders(chain: MaskDepthChain, weights: Weights) -> None:
    """Into each network that they fit, one at least."""
    errors: list[DepthmaskError] = []
    for network in (chain.mask, chain.depth):
        try:
            load_encoder_weights(network, weights)
        except DepthmaskError as error:
            errors.append(error)
    if len(errors) == 2:
        raise errors[0]


def _parameter_groups(chain: MaskDepthChain, config: TrainingConfig) -> list[dict[str, Any]]:
    """Encoders, which start from published weights, learn at a rate of their own."""
    encoder: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for network in (chain.mask, chain.depth):
        known = [ENCODERS[cls].prefix for cls in type(network).__mro__ if cls in ENCODERS]
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                (encoder if name.startswith(tuple(known)) else others).append(parameter)
    groups = [(encoder, config.encoder_rate), (others, 1.0)]
    return [{"params": params, "rate": rate} for params, rate in groups if params]


@torch.no_grad()
def _average(averaged: nn.Module, chain: nn.Module, decay: float, step: int) -> None:
    decay = min(decay, (1 + step) / (10 + step))  # follow closely at first
    for kept, current in zip(
        averaged.state_dict().values(), chain.state_dict().values(), strict=True
    ):
        if kept.is_floating_point():
            kept.lerp_(current, 1 - decay)
        else:
            kept.copy_(current)
