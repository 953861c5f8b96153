"""`dmx train`: a chain from its assets, resumable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from depthmask.commands.data_command import assets_option, check_assets
from depthmask.commands.options import (
    PathType,
    json_option,
    messages,
    out_option,
    print_json,
)
from depthmask.errors import UsageError

if TYPE_CHECKING:
    from depthmask.train.config import TrainingConfig
    from depthmask.train.loop import Report

_PLAIN_EVERY_STEPS = 50  # a line where stderr is no terminal
_RATE_WEIGHT = 0.05  # of the newest step, in the samples per second shown


@click.command()
@assets_option
@out_option("The run's folder; an unfinished one is gone on with.", required=True)
@click.option(
    "--config",
    type=PathType(),
    metavar="FILE",
    help="Phases, rates and recipe, as configs/lite.json.",
)
@click.option(
    "--preset",
    metavar="NAME",
    help="Replaces the config's; only lite (the default) can be trained so far.",
)
@click.option(
    "--encoder-weights",
    type=PathType(),
    metavar="FILE",
    help="Published ImageNet weights of EfficientNet-Lite0, .pth; both networks start from them.",
)
@click.option(
    "--checkpoint", type=PathType(), help="Start from the weights of this checkpoint folder."
)
@click.option("--seed", type=click.IntRange(min=0), help="Replaces the config's and its recipe's.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads for training.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Processes that compose samples; 0 composes between the steps.",
)
@json_option
def command(
    assets: Path,
    out: Path,
    config: Path | None,
    preset: str | None,
    encoder_weights: Path | None,
    checkpoint: Path | None,
    seed: int | None,
    threads: int | None,
    workers: int,
    as_json: bool,
) -> None:
    """Train a chain on composites made on the fly, or go on with an unfinished training.

    Ctrl-C finishes the step, saves and stops; the same command goes on from there, and ends with
    the same weights as if it had not been stopped.

    \b
    Example:
      dmx train --assets assets --config configs/lite.json --encoder-weights lite0.pth --out RUN
    """
    from depthmask import models

    models.require_torch()
    chosen = _config(config, preset, seed)
    check_assets(assets)

    import torch

    from depthmask import presets
    from depthmask.checkpoint import load_checkpoint
    from depthmask.import_pth import read_pth
    from depthmask.train.compose import load_assets
    from depthmask.train.loop import train

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_assets(assets, chosen.recipe.split)
    if encoder_weights is not None and checkpoint is not None:
        raise UsageError(
            "--encoder-weights and --checkpoint exclude each other, but both were given"
        )
    encoder = read_pth(encoder_weights) if encoder_weights else None
    start = load_checkpoint(checkpoint, presets.preset(chosen.preset)) if checkpoint else None
    with _progress_bar() as bar:
        report = _reporter(bar, chosen)
        try:
            made = train(
                chosen,
                loaded,
                out,
                encoder_weights=encoder,
                start=start,
                workers=workers,
                report=report,
            )
        except KeyboardInterrupt:
            bar.stop()
            messages.print(
                f"stopped; the state is in {out}. The same command goes on from there",
                soft_wrap=True,
            )
            raise
    if as_json:
        print_json({"checkpoint": str(made), "steps": chosen.steps})
    else:
        click.echo(f"{made}: {chosen.preset}, {chosen.steps} steps")


def _config(path: Path | None, preset: str | None, seed: int | None) -> TrainingConfig:
    import msgspec

    from depthmask import presets
    from depthmask.train.config import TrainingConfig, read_config

    config = TrainingConfig() if path is None else read_config(path)
    if preset is not None:
        config = msgspec.structs.replace(config, preset=preset)
    if seed is not None:
        recipe = msgspec.structs.replace(config.recipe, seed=seed)
        config = msgspec.structs.replace(config, seed=seed, recipe=recipe)
    if config.recipe.split == "test":
        raise UsageError("a training's recipe must be of split train or all, but got test")
    presets.preset(config.preset)
    return config


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=messages,
        disable=not messages.is_terminal,
    )


def _reporter(bar: Progress, config: TrainingConfig) -> Report:
    """Show losses and samples per second, after every step."""
    task = bar.add_task("training", total=config.steps, figures="")
    sizes = [phase.batch_size for phase in config.phases for _ in range(phase.steps)]
    last = time.perf_counter()
    rate = 0.0

    def report(step: int, losses: dict[str, float]) -> None:
        nonlocal last, rate
        now = time.perf_counter()
        newest = sizes[step - 1] / max(now - last, 1e-6)
        rate, last = (newest if rate == 0 else rate + _RATE_WEIGHT * (newest - rate)), now
        figures = (
            f"mask {losses['loss_mask']:.3f}  depth {losses['loss_depth']:.3f}"
            f"  {rate:.1f} samples/s"
        )
        bar.update(task, completed=step, figures=figures)
        if not messages.is_terminal and step % _PLAIN_EVERY_STEPS == 0:
            messages.print(f"{step}/{config.steps}  {figures}", soft_wrap=True)

    return report
