"""Training of a chain: one linear loop, exactly resumable.

A run folder holds `config.json`, `state.pt` (replaced atomically), `log.jsonl`, TensorBoard events,
and at the end `checkpoint/`, which is what everything else takes. Data are a pure function of the
step, and nothing else in a step is random, so a resumed run goes on as if it had not been stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from depthmask.atomic import write_file
from depthmask.chain import MaskDepthChain, build
from depthmask.checkpoint import save_checkpoint
from depthmask.errors import CheckFailedError, InputError, OutputError, UsageError
from depthmask.frames import Normalisation, Resolution
from depthmask.presets import DEFAULT_PRESET
from depthmask.train.compose import Assets
from depthmask.train.config import TrainingConfig, read_config
from depthmask.train.dataset import Batch, CompositeDataset, batches
from depthmask.train.losses import depth_loss, mask_loss
from depthmask.train.materialise import assets_digest

CONFIG_FILE = "config.json"
STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"


Report = Callable[[int, dict[str, float]], None]
"""Called after each step with the number of steps done and the losses."""


def train(
    config: TrainingConfig,
    assets: Assets,
    out: Path,
    *,
    encoder_weights: dict[str, Tensor] | None = None,
    start: MaskDepthChain | None = None,
    workers: int = 1,
    report: Report = lambda step, losses: None,
) -> Path:
    """Train, or go on training, in the run folder `out`; gives the checkpoint's folder.

    A run that is complete already trains no more. `workers` processes compose the samples (0: this
    one does), and their number does not change the result; the number of torch's threads does, in
    the last bits. The first weights are random, with `encoder_weights` in the encoders, or those of
    `start`, an earlier training's chain.

    Raises:
        UsageError: `out` holds a run with another configuration, other assets or first weights, or
            something else; or the preset is not `lite`, the only one that can be trained so far.
        InputError: the saved state is damaged, or the encoder's weights do not fit.
        OutputError: `out` cannot be written.
        CheckFailedError: the loss is not finite; the last good state is kept.
        KeyboardInterrupt: after the step in progress was finished and saved.

    """
    if config.preset != DEFAULT_PRESET:
        raise UsageError(
            f"a preset to train must be {DEFAULT_PRESET}, but got {config.preset}, which cannot be"
            f" trained so far. Try --preset {DEFAULT_PRESET}"
        )
    origin = {
        "assets_sha256": assets_digest(assets),
        "encoder_weights_sha256": weights_digest(encoder_weights) if encoder_weights else None,
        "start_sha256": weights_digest(start.state_dict()) if start else None,
    }
    run = _Run(config, out, encoder_weights, start, origin)
    # Closed here, not whenever it is collected: its workers end before this returns or raises.
    source = closing(_batches(config, assets, run, workers))
    with run, _stop_flag() as stopped, source as made:
        for batch in made:
            losses = run.step_once(batch)
            report(run.step, losses)
            if stopped():
                run.save()
                raise KeyboardInterrupt
            if run.step % config.save_every_steps == 0:
                run.save()
        run.save()
    checkpoint = out / "checkpoint"
    save_checkpoint(run.averaged, checkpoint, training=run.summary(), overwrite=True)
    return checkpoint


class _Run:
    """The mutable state of a training run and its folder."""

    def __init__(
        self,
        config: TrainingConfig,
        out: Path,
        encoder_weights: dict[str, Tensor] | None,
        start: MaskDepthChain | None,
        origin: dict[str, str | None],
    ) -> None:
        self.config = config
        self.out = out
        self.origin = origin
        self.step = 0
        self.seconds = 0.0
        torch.manual_seed(config.seed)
        self.chain = build(config.preset)
        if encoder_weights is not None:
            from depthmask.models.encoder_weights import load_encoder_weights

            load_encoder_weights(self.chain.mask, encoder_weights)
            load_encoder_weights(self.chain.depth, encoder_weights)
        if start is not None:
            self.chain.load_state_dict(start.state_dict())
        self.averaged = build(config.preset)
        self.averaged.load_state_dict(self.chain.state_dict())
        self.chain.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(self.chain, config), weight_decay=config.weight_decay
        )
        self._open_folder()
        with _writing(out):
            _forget_later_steps(out / LOG_FILE, self.step)
            self._log = (out / LOG_FILE).open("a", buffering=1, encoding="utf-8")
            self._board = _summary_writer(out, self.step + 1)

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        with _writing(self.out), closing(self._board), closing(self._log):
            pass

    def _open_folder(self) -> None:
        config_path, state_path = self.out / CONFIG_FILE, self.out / STATE_FILE
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            if not config_path.exists():
                self._require_empty()
                document = msgspec.json.format(msgspec.json.encode(self.config), indent=2)
                write_file(config_path, document + b"\n")
        except FileExistsError as error:
            raise UsageError(f"{self.out} must be a folder, but got a file") from error
        except OSError as error:
            raise OutputError(f"{self.out} cannot be written: {error.strerror}") from error
        if read_config(config_path) != self.config:
            raise UsageError(
                f"{self.out} must be a new folder or hold a run of the same configuration, but its"
                f" {CONFIG_FILE} differs. Try another --out"
            )
        if state_path.exists():
            self._load(state_path)

    def _require_empty(self) -> None:
        # A kill between mkdir and the first file may leave only the temporary one.
        others = [path.name for path in self.out.iterdir() if not path.name.startswith(".config.")]
        if others:
            raise UsageError(
                f"{self.out} must be a new folder or hold a run, but got one with {others[0]} and"
                f" no {CONFIG_FILE}. Try another --out"
            )

    def _load(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True)
            self.chain.load_state_dict(state["chain"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]
            # A state of before this was kept is taken as it is.
            origin = dict(state.get("origin", self.origin))
        except Exception as error:
            raise InputError(
                f"{path} must be the saved state of this run, but it cannot be loaded ({error})."
                " Try another --out"
            ) from error
        self._require_origin(origin)

    def _require_origin(self, origin: dict[str, str | None]) -> None:
        for key, what in (
            ("assets_sha256", "assets"),
            ("encoder_weights_sha256", "encoder weights"),
            ("start_sha256", "starting checkpoint"),
        ):
            if origin.get(key) != self.origin[key]:
                raise UsageError(
                    f"{self.out} must be gone on with from the same {what}, but they differ. Try"
                    f" the run's own {what}, or another --out"
                )

    def save(self) -> None:
        """Replace the saved state; the old one or the new one is always there."""
        state = {
            "chain": self.chain.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "origin": self.origin,
        }
        # In memory first: torch.save hides why a disk refuses.
        content = io.BytesIO()
        torch.save(state, content)
        with _writing(self.out):
            self._log.flush()
            write_file(self.out / STATE_FILE, lambda file: file.write(content.getbuffer()))

    def step_once(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; gives the losses."""
        started = time.perf_counter()
        rate = learning_rate_at(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        loss_mask, loss_depth = self._losses(batch)
        loss = loss_mask + loss_depth
        if not math.isfinite(loss.item()):
            raise CheckFailedError(
                f"the loss must be finite, but at step {self.step} it is {loss.item()}."
                f" {self.out} keeps the last good state, if one was saved. Try a lower"
                " learning_rate, in another --out"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.chain.parameters(), self.config.clip_norm)
        self.optimizer.step()
        _average(self.averaged, self.chain, self.config.average_decay, self.step)
        self.step += 1
        self.seconds += time.perf_counter() - started
        losses = {"loss_mask": loss_mask.item(), "loss_depth": loss_depth.item(), "rate": rate}
        self._record(losses)
        return losses

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        image_B3HW, mask_B1HW, depth_m_B1HW = batch
        image_B3HW = image_B3HW.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.bf16):
            logits_B1HW = mask_logits(self.chain, image_B3HW)
            used_B1HW = self._mask_for_depth(logits_B1HW, mask_B1HW)
            predicted_m = self.chain.predict_depth(image_B3HW * used_B1HW)
        predicted_m_B1HW = nn.functional.interpolate(
            predicted_m.float(), size=depth_m_B1HW.shape[2:], mode="bilinear"
        )
        return (
            mask_loss(logits_B1HW.float(), mask_B1HW),
            depth_loss(predicted_m_B1HW, depth_m_B1HW, mask_B1HW),
        )

    def _mask_for_depth(self, logits_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """The depth network learns on the mask it will see, and on the true one for steadiness."""
        rng = np.random.default_rng([self.config.seed, self.step, 1])
        true_B = torch.from_numpy(rng.random(len(mask_B1HW)) < self.config.true_mask_share)
        predicted_B1HW = torch.sigmoid(logits_B1HW.detach().float())
        return torch.where(true_B[:, None, None, None], mask_B1HW, predicted_B1HW)

    def _record(self, losses: dict[str, float]) -> None:
        with _writing(self.out):
            self._log.write(json.dumps({"step": self.step, **losses}) + "\n")
            for name, value in losses.items():
                self._board.add_scalar(name, value, self.step)

    def summary(self) -> dict[str, Any]:
        """What the checkpoint records of its making."""
        return {
            "config": msgspec.to_builtins(self.config),
            **self.origin,
            "steps": self.step,
            "hours": round(self.seconds / 3600, 2),
            "torch": str(torch.__version__),
        }


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """One sha256 over names, types, shapes and values, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def mask_logits(chain: MaskDepthChain, image_B3HW: Tensor) -> Tensor:
    """The mask before its sigmoid, at the image's size, from any mask network."""
    network: Any = chain.mask
    if hasattr(network, "logits"):
        logits_B1HW: Tensor = network.logits(image_B3HW)
        return logits_B1HW
    return torch.logit(chain.predict_mask(image_B3HW).float(), eps=1e-6)


def learning_rate_at(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero (Loshchilov and Hutter, ICLR 2017)."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def _batches(
    config: TrainingConfig, assets: Assets, run: _Run, workers: int
) -> Generator[Batch, None, None]:
    """The batches from the run's step on; sample indices continue across phases."""
    spec = run.chain.spec
    first_step = first_index = 0
    for phase in config.phases:
        done = min(max(run.step - first_step, 0), phase.steps)
        if done < phase.steps:
            resolution = Resolution(phase.resolution_px, phase.resolution_px)
            dataset = CompositeDataset(
                config.recipe, assets, resolution, Normalisation(spec.mean, spec.std)
            )
            yield from batches(
                dataset,
                phase.batch_size,
                first_index + done * phase.batch_size,
                phase.steps - done,
                workers,
            )
        first_step += phase.steps
        first_index += phase.steps * phase.batch_size


def _parameter_groups(chain: MaskDepthChain, config: TrainingConfig) -> list[dict[str, Any]]:
    encoder = [p for name, p in chain.named_parameters() if ".encoder." in name]
    others = [p for name, p in chain.named_parameters() if ".encoder." not in name]
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


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror or error}") from error


def _forget_later_steps(log: Path, step: int) -> None:
    """Drop what a killed run logged after its last saved state: those steps are taken again."""
    if not log.exists():
        return
    kept = []
    for line in log.read_bytes().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):  # cut short by the kill
            break
        kept.append(line)
    write_file(log, b"".join(kept))


def _summary_writer(out: Path, first_step: int) -> Any:  # noqa: ANN401  (tensorboard has no types)
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(out), purge_step=first_step)


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
