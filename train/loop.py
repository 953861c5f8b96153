"""Training of a chain: one linear loop, exactly resumable.

A run folder holds what `run_folder` says, and at the end `checkpoint/`, which is what everything else
takes. Data are a pure function of the step, and nothing else in a step is random, so a resumed run
goes on as if it had not been stopped.
"""

from __future__ import annotations

import hashlib
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import msgspec
import torch
from msgspec import structs

from depthmask.atomic import write_file
from depthmask.chain import MaskDepthChain
from depthmask.checkpoint import save_checkpoint
from depthmask.errors import CheckFailedError, InputError, UsageError
from depthmask.frames import Normalisation
from depthmask.presets import preset
from depthmask.train.config import TrainingConfig
from depthmask.train.dataset import Batch, MixedDataset, batches
from depthmask.train.distributed import Processes, processes
from depthmask.train.learner import Learner, Weights, weights_digest
from depthmask.train.material import Assets
from depthmask.train.modes import spec_after
from depthmask.train.pictures import learning_curves, picture_grid
from depthmask.train.run_folder import RunFolder
from depthmask.train.schedule import Draw, Plan, learning_rate
from depthmask.train.sources import DataSet, Material, gather
from depthmask.train.validation import Validation


class StepReport(NamedTuple):
    """What is told after each step."""

    step: int
    """Steps done, of all parts of the run."""
    steps: int
    batch_size: int
    losses: dict[str, float]


@dataclass(frozen=True)
class TrainingResult:
    """A finished training."""

    checkpoint: Path
    steps: int
    wait_share: float | None
    """Of this part's time: waiting for samples, from the second step on. None: fewer steps."""


Report = Callable[[StepReport], None]


@dataclass(frozen=True)
class Beginning:
    """The first weights: random, with published ones in the encoders, or an earlier training's."""

    encoder_weights: tuple[Weights, ...] = ()
    start: MaskDepthChain | None = None
    teacher: MaskDepthChain | None = None
    """Of mode `distill`."""

    def digests(self) -> dict[str, str]:
        """By role, as `Material.digests`."""
        return {
            "encoder weights": " ".join(map(weights_digest, self.encoder_weights)),
            "starting checkpoint": weights_digest(self.start.state_dict()) if self.start else "",
            "teacher": weights_digest(self.teacher.state_dict()) if self.teacher else "",
        }


def train(
    config: TrainingConfig,
    assets: Assets | None,
    out: Path,
    *,
    data: Sequence[DataSet] = (),
    validation_assets: Assets | None = None,
    beginning: Beginning | None = None,
    workers: int = 1,
    device: str = "auto",
    report: Report = lambda _: None,
) -> TrainingResult:
    """Train, or go on training, in the run folder `out`.

    A run that is complete already trains no more. `workers` processes make the samples (0: this one
    does), and their number does not change the result; the number of torch's threads does, in the
    last bits. `validation_assets` are for the metrics of a recipe without end; by default they are
    of unseen composites of `assets`. Under torchrun all processes call this alike.

    Raises:
        UsageError: `out` holds a run with another configuration, other samples or first weights, or
            something else; or the configuration, the material and the first weights do not agree.
        InputError: the saved state is damaged, or weights do not fit.
        UnavailableError: the device is not there, or a worker died.
        OutputError: `out` cannot be written.
        CheckFailedError: the loss is not finite; the last good state is kept.
        KeyboardInterrupt: after the step in progress was finished and saved.

    """
    material = gather(config, assets, data, validation_assets)
    plan = Plan(config, material.pools)
    with processes(device) as group, _stop_flag() as stopped:
        run = Run(config, out, material, plan, beginning or Beginning(), group)
        return run.train(workers, report, stopped)


class Run:
    """A training run between its folder, its samples and its learner."""

    def __init__(
        self,
        config: TrainingConfig,
        out: Path,
        material: Material,
        plan: Plan,
        beginning: Beginning,
        group: Processes,
    ) -> None:
        self.config, self.plan, self.group = config, plan, group
        self.folder = RunFolder(out)
        self.step = 0
        self.seconds = 0.0
        self.best = -math.inf
        self._newest_score: float | None = None
        self._saved_at = time.monotonic()
        self._origin = {
            "configuration": _digest(config),
            **material.digests,
            **beginning.digests(),
            "number of processes": str(group.count),
        }
        _require_equal_parts(config, group)
        self.learner = Learner(
            config,
            group,
            spec=spec_after(
                config, beginning.start.spec if beginning.start else preset(config.preset)
            ),
            encoder_weights=beginning.encoder_weights,
            start=beginning.start,
            teacher=beginning.teacher,
        )
        spec = self.learner.chain.spec
        self._dataset = MixedDataset(material.sources, Normalisation(spec.mean, spec.std))
        self._validation = Validation(config, material.validation_sources, plan)
        if group.writes:
            self.folder.prepare(config)
        group.wait()
        self._load()

    def train(self, workers: int, report: Report, stopped: Callable[[], bool]) -> TrainingResult:
        """Take the steps that are left."""
        clock = _Clock()
        left = range(self.plan.steps if self._out_of_time() else self.step, self.plan.steps)
        made = batches(self._dataset, self._draws(left), workers if left else 0, self.folder.path)
        # Closed here, not whenever it is collected: its workers end before this returns or raises.
        with self._folder_opened(), closing(made):
            for batch in clock.waits(made):
                losses = self._one_step(batch)
                self.seconds += clock.step_done()
                if self.group.writes:
                    self.folder.record(self.step, {**losses, "wait_share": clock.newest_share})
                batch_size = self.plan.size(self.step - 1)
                report(StepReport(self.step, self.plan.steps, batch_size, losses))
                if self._measuring_is_due():
                    self._measure()
                if self.group.largest(float(stopped())):
                    self._save()
                    raise KeyboardInterrupt
                if self._out_of_time():
                    break
                if self._saving_is_due():
                    self._save()
            self._save()
        checkpoint = self.folder.path / "checkpoint"
        if self.group.writes:
            self._write_checkpoint(checkpoint)
        self.group.wait()
        return TrainingResult(checkpoint, self.step, clock.share)

    def _draws(self, steps: range) -> Iterator[list[Draw]]:
        """Of the steps to come, this process's samples."""
        for step in steps:
            yield self.group.share(self.plan.draws(step))

    def _one_step(self, batch: Batch) -> dict[str, float]:
        self._newest_score = None
        rate = learning_rate(self.config, self.step, self._done_share())
        try:
            losses = self.learner.step(batch, rate, self.step)
        except CheckFailedError as error:
            states = self.folder.states()
            kept = f"{states[-1]} is the last good state" if states else "no state was saved before"
            raise CheckFailedError(
                f"{error}; {kept}. Try a lower learning_rate, in another --out"
            ) from error
        self.step += 1
        return {**losses, "rate": rate}

    def _done_share(self) -> float:
        """How much of the training is done: of its steps or, if that is more, of its time."""
        by_steps = self.step / self.plan.steps
        if self.config.hours is None:
            return by_steps
        by_time = self.group.largest(self.seconds) / (3600 * self.config.hours)
        return min(1.0, max(by_steps, by_time))

    def _out_of_time(self) -> bool:
        return self.config.hours is not None and self._done_share() >= 1

    def _saving_is_due(self) -> bool:
        late = time.monotonic() - self._saved_at > 60 * self.config.save_every_minutes
        return late or self.step % self.config.save_every_steps == 0

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if not self.group.writes:
            return
        state = {
            **self.learner.state(),
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "score": self._newest_score,
            "origin": self._origin,
        }
        self.folder.save(state, self.config.keep_states)

    def _load(self) -> None:
        state = self.folder.newest()
        if state is None:
            return
        self._require_origin(state.get("origin", {}))
        try:
            self.learner.load_state(state)
            self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
            self._newest_score = state["score"]
        except (RuntimeError, ValueError, KeyError) as error:
            raise InputError(
                f"the newest state in {self.folder.path} must fit the chain, but it does not"
                f" ({' '.join(str(error).split())[:200]}). Try another --out"
            ) from error

    def _require_origin(self, origin: dict[str, str]) -> None:
        for what, digest in self._origin.items():
            if origin.get(what) != digest:
                raise UsageError(
                    f"{self.folder.path} must be gone on with from the same {what}, but they differ."
                    f" Try the run's own {what}, or another --out"
                )

    @contextmanager
    def _folder_opened(self) -> Iterator[None]:
        if not self.group.writes:
            yield
            return
        with self.folder.opened(self.step):
            yield

    def _measuring_is_due(self) -> bool:
        if not self.group.writes or self.config.validation_share == 0:
            return False
        every = self.config.validate_every_steps
        if self.step == self.plan.steps or self._out_of_time():
            return True
        return self.step % every == 0 if every else self.plan.epoch_ends(self.step)

    def _measure(self) -> None:
        """Metrics and pictures of the averaged weights; the best ones so far are kept in `best/`."""
        resolution_px = self.plan.phase(self.step - 1).resolution_px
        measured = self._validation.measure(self.learner.averaged, resolution_px)
        self.folder.record_metrics(self.step, measured.metrics)
        with self.folder.writing():
            path = self.folder.path / "pictures" / f"step-{self.step:08d}.png"
            path.parent.mkdir(exist_ok=True)
            write_file(path, picture_grid(measured.rows))
            write_file(self.folder.path / "curves.png", learning_curves(self.folder.path))
        self._newest_score = measured.score
        if measured.score is not None and measured.score > self.best:
            self.best = measured.score
            self._write_checkpoint(self.folder.path / "best")

    def _write_checkpoint(self, path: Path) -> None:
        save_checkpoint(self.learner.averaged, path, training=self._summary(), overwrite=True)

    def _summary(self) -> dict[str, Any]:
        """What a checkpoint records of its making; `score` is of these very weights, if measured."""
        return {
            "config": msgspec.to_builtins(self.config),
            "origin": self._origin,
            "steps": self.step,
            "hours": round(self.seconds / 3600, 2),
            "score": self._newest_score,
            "torch": str(torch.__version__),
        }


def _digest(config: TrainingConfig) -> str:
    """Of what the weights depend on: not of when they are saved."""
    always = {"save_every_steps": 1, "save_every_minutes": 1.0, "keep_states": 1}
    return hashlib.sha256(msgspec.json.encode(structs.replace(config, **always))).hexdigest()


class _Clock:
    """How long steps take, and how much of that is waiting for samples.

    The wait for the first batch, when workers start, is not counted.
    """

    def __init__(self) -> None:
        self._waited = self._spent = 0.0
        self._last_end = self._asked = self._ready = time.perf_counter()
        self._steps = 0
        self.newest_share = 0.0

    def waits(self, made: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, noting when each was asked for and when it was there."""
        self._asked = time.perf_counter()
        for batch in made:
            self._ready = time.perf_counter()
            yield batch
            self._asked = time.perf_counter()

    def step_done(self) -> float:
        """Note the end of a step; gives the seconds since the one before, all told."""
        now = time.perf_counter()
        wait, step = self._ready - self._asked, now - self._asked
        self._steps += 1
        self.newest_share = wait / max(step, 1e-9)
        if self._steps > 1:
            self._waited += wait
            self._spent += step
        since, self._last_end = now - self._last_end, now
        return since

    @property
    def share(self) -> float | None:
        """Of the time of all steps but the first; measuring and saving between them is neither."""
        return self._waited / self._spent if self._spent else None


def _require_equal_parts(config: TrainingConfig, group: Processes) -> None:
    for phase in config.phases:
        # An epoch's last batch is a multiple of the micro_batch.
        parts = (phase.batch_size, config.micro_batch if phase.epochs else None)
        for size in parts:
            if size is not None and size % group.count:
                raise UsageError(
                    f"a batch_size (and the micro_batch, where there are epochs) must be a multiple"
                    f" of the {group.count} processes, but got {size}"
                )


@contextmanager
def _stop_flag() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C and SIGTERM finish the step in progress; a second Ctrl-C stops at once."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for wanted in (signal.SIGINT, signal.SIGTERM):
        previous[wanted] = signal.signal(wanted, note)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
