"""What each step of a training takes: which samples, at which resolution, at which rate.

Everything here is a pure function of the configuration and the step, so that a run can be stopped
anywhere, gone on with, and split over processes. Samples of a training are numbered from 0; sample
`number` goes to process `number % processes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from depthmask.errors import UsageError
from depthmask.train.config import Phase, TrainingConfig
from depthmask.train.recipe import GridRecipe

Indices = npt.NDArray[np.int64]

HELD_OUT_EVERY = 5
"""With `disjoint`, each so manieth background and foreground is for validation."""
UNSEEN = 2**40
"""Where the validation indices of an unending recipe begin."""
_SPLIT, _ORDER, _CHOICE = 3, 11, 7  # streams of random numbers


@dataclass(frozen=True, order=True, slots=True)
class Draw:
    """One sample to make."""

    source: int
    """0: the recipe; from 1: the data sets."""
    index: int
    """In the source."""
    number: int
    """Of the training's samples; random augmentation hangs on it."""
    resolution_px: int


@dataclass(frozen=True)
class Pool:
    """Which indices of a source are for training and for validation; None: any index will do."""

    train: Indices | None
    validation: Indices
    share: float
    """Of the training's samples."""


def split(count: int, config: TrainingConfig) -> tuple[Indices, Indices]:
    """The training and validation indices of `count` samples, `config.samples` of them at most."""
    order = _drawn(np.arange(count), config.samples, config)
    held = round(config.validation_share * len(order))
    return np.sort(order[held:]), np.sort(order[:held])


def split_grid(recipe: GridRecipe, config: TrainingConfig) -> tuple[Indices, Indices]:
    """As `split`; with `disjoint` no background or foreground is on both sides.

    Samples with one of the two held out, and the other not, are on neither.
    """
    if not config.disjoint:
        return split(recipe.count, config)
    background, foreground, _, _ = recipe.combination(np.arange(recipe.count))
    held_background, held_foreground = (
        number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 for number in (background, foreground)
    )
    train = np.flatnonzero(~held_background & ~held_foreground)
    validation = np.flatnonzero(held_background & held_foreground)
    if config.samples is None:
        return train, validation
    held = round(config.validation_share * config.samples)
    return (
        np.sort(_drawn(train, config.samples - held, config)),
        np.sort(_drawn(validation, held, config)),
    )


def _drawn(indices: Indices, count: int | None, config: TrainingConfig) -> Indices:
    """`count` of them at most, in random order: an even step would miss backgrounds of a grid."""
    return np.random.default_rng([config.seed, _SPLIT]).permutation(indices)[:count]


class Plan:
    """The samples of every step."""

    def __init__(self, config: TrainingConfig, pools: Sequence[Pool]) -> None:
        """Lay the phases out.

        Raises:
            UsageError: a phase has epochs, but the samples are without end; or a source has none.
        """
        self.config = config
        self._pools = pools
        self._shares = np.cumsum([pool.share for pool in pools])
        self._stream = self._ordered_source()
        self.epoch_size = self._epoch_size()
        self._parts: list[_Part] = []
        step = number = epoch = 0
        for phase in config.phases:
            part = _Part(phase, step, number, epoch, self._steps(phase))
            self._parts.append(part)
            step += part.steps
            number += part.steps * phase.batch_size
            epoch += phase.epochs or self._passes(part)
        self.steps = step

    def _ordered_source(self) -> int | None:
        """The source that is gone through pass by pass: the only one, or the recipe."""
        used = [number for number, pool in enumerate(self._pools) if pool.share > 0]
        for number in used:
            train = self._pools[number].train
            if train is not None and not len(train):
                raise UsageError(
                    "each source of samples must have one or more for training, but one has none."
                    " Try a lower validation_share or more samples"
                )
        return used[0] if len(used) == 1 or used[0] == 0 else None

    def _epoch_size(self) -> int | None:
        if self._stream is not None:
            train = self._pools[self._stream].train
            return None if train is None else len(train)
        return sum(len(p.train) for p in self._pools if p.share > 0 and p.train is not None)

    def _steps(self, phase: Phase) -> int:
        if phase.steps is not None:
            return phase.steps
        if self.epoch_size is None:
            raise UsageError(
                "a phase with epochs must have a recipe with an end (kind: grid) or data sets alone"
                " (data_share: 1), but the recipe goes on without end. Try steps"
            )
        assert phase.epochs is not None
        return phase.epochs * math.ceil(self.epoch_size / phase.batch_size)

    def _passes(self, part: _Part) -> int:
        if self.epoch_size is None:
            return 0
        return math.ceil(part.steps * part.phase.batch_size / self.epoch_size)

    def phase(self, step: int) -> Phase:
        """The phase that a step is in."""
        return self._part(step).phase

    def size(self, step: int) -> int:
        """How many samples a step takes, over all processes."""
        part = self._part(step)
        size = part.phase.batch_size
        if part.phase.epochs is None or self.epoch_size is None:
            return size
        local = (step - part.first_step) % (part.steps // part.phase.epochs)
        unit = min(self.config.micro_batch or size, size)
        return min(size, math.ceil((self.epoch_size - local * size) / unit) * unit)

    def epoch_ends(self, done: int) -> bool:
        """Whether an epoch, or a phase of steps, is complete after `done` steps."""
        part = self._part(done - 1)
        local = done - part.first_step
        return local % (part.steps // (part.phase.epochs or 1)) == 0

    def draws(self, step: int) -> list[Draw]:
        """The samples of a step, over all processes.

        An epoch's order is a pure function of the seed and the epoch; its last batch is filled up
        from the order's beginning, to a multiple of `micro_batch`.
        """
        part = self._part(step)
        size = part.phase.batch_size
        local = step - part.first_step
        first = part.first_number + local * size
        return [
            self._draw(first + k, self._place(part, local * size + k), part)
            for k in range(self.size(step))
        ]

    def _place(self, part: _Part, position: int) -> tuple[int, int]:
        """Which pass, and where in it, the sample of a part at `position` is."""
        count = self.epoch_size
        if count is None:
            return 0, 0
        if part.phase.epochs is None:
            passes, place = divmod(position, count)
        else:
            filled = math.ceil(count / part.phase.batch_size) * part.phase.batch_size
            passes, place = divmod(position, filled)
        return part.first_epoch + passes, place % count

    def _draw(self, number: int, place: tuple[int, int], part: _Part) -> Draw:
        resolution_px = part.phase.resolution_px
        rng = np.random.default_rng([self.config.seed, number, _CHOICE])
        total = self._shares[-1]
        source = int(np.searchsorted(self._shares, rng.random() * total, side="right"))
        train = self._pools[source].train
        if train is None:
            return Draw(source, number, number, resolution_px)
        if source == self._stream:
            epoch, position = place
            order = _order(self.config.seed, epoch, len(train))
            return Draw(source, int(train[order[position]]), number, resolution_px)
        return Draw(source, int(rng.choice(train)), number, resolution_px)

    def validation(self, resolution_px: int) -> list[Draw]:
        """The held-out samples that are measured, spread evenly."""
        held = [
            (source, int(index))
            for source, pool in enumerate(self._pools)
            if pool.share > 0
            for index in pool.validation
        ]
        limit = self.config.validation_limit
        chosen = np.sort(_drawn(np.arange(len(held)), limit, self.config))
        return [Draw(held[k][0], held[k][1], k, resolution_px) for k in chosen.tolist()]

    def _part(self, step: int) -> _Part:
        return next(p for p in reversed(self._parts) if p.first_step <= max(step, 0))


@dataclass(frozen=True)
class _Part:
    phase: Phase
    first_step: int
    first_number: int
    first_epoch: int
    steps: int


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Indices:
    return np.random.default_rng([seed, epoch, _ORDER]).permutation(count)


def learning_rate(config: TrainingConfig, step: int, done_share: float) -> float:
    """Linear warm-up, then half a cosine (Loshchilov and Hutter, ICLR 2017), or constant.

    `done_share` is how much of the training is done, 0 to 1.
    """
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "constant":
        return config.learning_rate * warm
    span = 1.0 if config.schedule == "cosine" else config.decay_share
    progress = min(1.0, max(0.0, (done_share - (1 - span)) / span))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return (config.min_rate + (config.learning_rate - config.min_rate) * cosine) * warm
