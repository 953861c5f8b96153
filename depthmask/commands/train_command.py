"""`dmx train`: a chain from its assets and data sets, resumable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from depthmask.commands.options import (
    PathType,
    device_option,
    json_option,
    messages,
    out_option,
    print_json,
)
from depthmask.commands.recipe_options import DEFAULT_ASSETS, report_skipped, strict_option
from depthmask.errors import UsageError

if TYPE_CHECKING:
    from depthmask.train.config import TrainingConfig
    from depthmask.train.loop import Beginning, StepReport
    from depthmask.train.material import Assets

_PLAIN_EVERY_S = 30.0  # a line where stderr is no terminal
_RATE_WEIGHT = 0.05  # of the newest step, in the samples per second shown


@click.command()
@click.option(
    "--assets",
    type=PathType(),
    help="Cut-outs and backgrounds, by `dmx data fetch`; by default ./assets. Not needed where all"
    " samples come from --data.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="PATH[:WEIGHT]",
    help="A labelled data set, mixed in by the config's data_share; may be repeated.",
)
@out_option("The run's folder; an unfinished one is gone on with.", required=True)
@click.option(
    "--config", metavar="FILE|NAME", help="A configuration; lite, reference and others ship."
)
@click.option("--preset", metavar="NAME", help="Replaces the config's.")
@click.option(
    "--mode", metavar="NAME", help="supervised, relevance or distill; replaces the config's."
)
@click.option(
    "--teacher",
    type=PathType(),
    help="A checkpoint folder: the chain that teaches in mode distill.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help="Use so many samples of each finite source, drawn by the seed; replaces the config's.",
)
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    help="End after so much training; replaces the config's.",
)
@click.option(
    "--encoder-weights",
    type=PathType(),
    multiple=True,
    metavar="FILE",
    help="Published ImageNet weights, .pth, for the encoders that they fit; may be repeated.",
)
@click.option(
    "--checkpoint", type=PathType(), help="Start from the weights of this checkpoint folder."
)
@click.option("--seed", type=click.IntRange(min=0), help="Replaces the config's and its recipe's.")
@device_option
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads for training.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Processes that make samples; 0 makes them between the steps.",
)
@strict_option
@json_option
def command(
    assets: Path | None,
    data: tuple[str, ...],
    out: Path,
    config: str | None,
    preset: str | None,
    mode: str | None,
    teacher: Path | None,
    samples: int | None,
    hours: float | None,
    encoder_weights: tuple[Path, ...],
    checkpoint: Path | None,
    seed: int | None,
    device: str,
    threads: int | None,
    workers: int,
    strict: bool,
    as_json: bool,
) -> None:
    """Train a chain, or go on with an unfinished training.

    Ctrl-C finishes the step, saves and stops; the same command goes on from there, and ends with
    the same weights as if it had not been stopped. Several processes, by torchrun, share each batch.

    \b
    Example:
      dmx train --config lite --encoder-weights lite0.pth --out RUN
      dmx train --config reference --preset hu2019 --samples 2000 --out RUN
      torchrun --nproc-per-node 2 -m depthmask train --config lite --out RUN
    """
    from depthmask import models

    models.require_torch()
    replaced = {"preset": preset, "mode": mode, "samples": samples, "hours": hours}
    chosen = _config(config, replaced, seed)

    import torch

    from depthmask.train.distributed import first_process
    from depthmask.train.loop import train
    from depthmask.train.sources import open_data

    if threads is not None:
        torch.set_num_threads(threads)
    data_sets = [open_data(argument) for argument in data]
    trained_on, held_out = _assets(assets, chosen, bool(data), strict=strict)
    if first_process():
        report_skipped(one for part in (trained_on, held_out) if part for one in part.skipped)
    beginning = _beginning(chosen, encoder_weights, checkpoint, teacher)
    with _progress_bar(shown=first_process()) as bar:
        try:
            result = train(
                chosen,
                trained_on,
                out,
                data=data_sets,
                validation_assets=held_out,
                beginning=beginning,
                workers=workers,
                device=device,
                report=_Reporter(bar) if first_process() else lambda _: None,
            )
        except KeyboardInterrupt:
            bar.stop()
            messages.print(
                f"stopped; the state is in {out}. The same command goes on from there",
                soft_wrap=True,
            )
            raise
    if not first_process():
        return
    if as_json:
        print_json(
            {
                "checkpoint": str(result.checkpoint),
                "steps": result.steps,
                "wait_share": result.wait_share,
            }
        )
        return
    waited = "" if result.wait_share is None else f", {result.wait_share:.1%} waiting for samples"
    click.echo(f"{result.checkpoint}: {chosen.preset}, {result.steps} steps{waited}")


def _config(name: str | None, replaced: dict[str, Any], seed: int | None) -> TrainingConfig:
    import msgspec

    from depthmask import presets
    from depthmask.train.config import TrainingConfig, read_config

    config = TrainingConfig() if name is None else read_config(name)
    given = {key: value for key, value in replaced.items() if value is not None}
    if seed is not None:
        given |= {"seed": seed, "recipe": msgspec.structs.replace(config.recipe, seed=seed)}
    config = msgspec.structs.replace(config, **given)
    if config.recipe.split == "test":
        raise UsageError("a training's recipe must be of split train or all, but got test")
    presets.preset(config.preset)
    return config


def _assets(
    folder: Path | None, config: TrainingConfig, has_data: bool, *, strict: bool
) -> tuple[Assets | None, Assets | None]:
    """The pictures to train on, and those of the held-out groups, for the metrics."""
    from depthmask.train.material import load_assets, load_material
    from depthmask.train.recipe import count_of

    if has_data and config.data_share == 1:
        return None, None
    folder = folder or DEFAULT_ASSETS
    assets = load_material(config.recipe, folder, strict=strict)
    measured = config.validation_share > 0 and count_of(config.recipe) is None
    if not measured or config.recipe.split == "all":
        return assets, None
    return assets, load_assets(folder, "test", strict=strict)


def _beginning(
    config: TrainingConfig,
    encoder_weights: tuple[Path, ...],
    checkpoint: Path | None,
    teacher: Path | None,
) -> Beginning:
    import msgspec

    from depthmask import presets
    from depthmask.checkpoint import load_checkpoint
    from depthmask.import_pth import read_pth
    from depthmask.train.loop import Beginning

    if encoder_weights and checkpoint is not None:
        raise UsageError(
            "--encoder-weights and --checkpoint exclude each other, but both were given"
        )
    if config.mode == "relevance" and checkpoint is None:
        raise UsageError(
            "mode relevance must start from a trained depth network, which is its target. Try"
            " --checkpoint, of a training in mode supervised"
        )
    spec = presets.preset(config.preset)
    start = load_checkpoint(checkpoint, spec) if checkpoint else None
    if start is not None:
        # Normalisation and options are the checkpoint's; what the chain is for is the preset's.
        start.spec = msgspec.structs.replace(
            start.spec, preset=spec.preset, kind=spec.kind, depth_unit=spec.depth_unit
        )
    return Beginning(
        encoder_weights=tuple(read_pth(path) for path in encoder_weights),
        start=start,
        teacher=load_checkpoint(teacher) if teacher else None,
    )


def _progress_bar(*, shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=messages,
        disable=not (shown and messages.is_terminal),
    )


class _Reporter:
    """Shows losses and samples per second, after every step."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("training", total=None, figures="")
        self._last = self._told = time.perf_counter()
        self._rate = 0.0

    def __call__(self, done: StepReport) -> None:
        now = time.perf_counter()
        newest = done.batch_size / max(now - self._last, 1e-6)
        self._rate = self._rate + _RATE_WEIGHT * (newest - self._rate) if self._rate else newest
        self._last = now
        losses = "  ".join(
            f"{name.removeprefix('loss_').replace('_', ' ')} {value:.3f}"
            for name, value in done.losses.items()
            if name.startswith("loss_")
        )
        figures = f"{losses}  {self._rate:.1f} samples/s"
        self._bar.update(self._task, completed=done.step, total=done.steps, figures=figures)
        if not messages.is_terminal and now - self._told > _PLAIN_EVERY_S:
            self._told = now
            messages.print(f"{done.step}/{done.steps}  {figures}", soft_wrap=True)
