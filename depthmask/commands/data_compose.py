"""`dmx data compose`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.progress import MofNCompleteColumn, Progress

from depthmask.commands.options import (
    json_option,
    messages,
    overwrite_option,
    print_json,
)
from depthmask.commands.ray_options import check_engine, ray_connection, ray_options
from depthmask.commands.recipe_options import (
    open_recipe,
    recipe_options,
    report_skipped,
    strict_option,
)
from depthmask.errors import InputError, UsageError

if TYPE_CHECKING:
    from depthmask.train.material import SkippedAsset
    from depthmask.train.materialise import MaterialiseResult


@click.command()
@recipe_options
@click.option(
    "--out",
    required=True,
    metavar="FOLDER|URL",
    help="The folder for the data set; with --engine ray also s3://BUCKET/PREFIX and the like.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Number of samples.  [default: all of a grid, else 1000]",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of everything random.  [default: 0]")
@click.option(
    "--split",
    type=click.Choice(["train", "test", "all"]),
    help="Which part of the material, by groups of the same thing.  [default: the recipe's]",
)
@click.option("--size", type=click.IntRange(32, 4096), metavar="PX", help="[default: 224]")
@click.option("--no-augment", is_flag=True, help="Clean composites: no light, blur, noise, JPEG.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["shards", "files"]),
    default="shards",
    show_default=True,
    help="WebDataset tar shards, or loose files.",
)
@click.option(
    "--shard-size",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    metavar="N",
    help="Samples per shard.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 4096),
    help="Processes, one shard at a time each; the bytes do not depend on it.  [default: 1; on Ray all CPUs]",
)
@ray_options
@strict_option
@overwrite_option
@json_option
def compose(
    assets: Path,
    recipe: Path | None,
    depth: str | None,
    mask_teacher: str | None,
    out: str,
    limit: int | None,
    seed: int | None,
    split: str | None,
    size: int | None,
    no_augment: bool,
    form: Literal["shards", "files"],
    shard_size: int,
    workers: int | None,
    engine: Literal["local", "ray"],
    address: str | None,
    strict: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Compose a data set: images with masks and depths.

    Samples: NAME.jpg, NAME.mask.png (255 is foreground), NAME.depth.png (16 bit, millimetres) and
    NAME.json, in tar shards beside dataset.json. Interrupted or killed, the same command goes on; its
    bytes are the same as in one go, with any number of workers.

    The recipe comes from the options, or from FILE, whose fields the options replace. Pictures of the
    material that cannot be used are left out and named, and the command ends with exit code 3.

    \b
    Example:
      dmx data compose --limit 2000 --out DATA
      dmx data compose --recipe reference --workers 2 --out REFERENCE
      dmx data compose --recipe reference --engine ray --address head:6379 --out s3://bucket/reference
      dmx data compose --assets assets --split test --seed 1 --limit 200 --out TEST
    """
    from depthmask.train.recipe import count_of

    check_engine(engine, address, out)
    chosen, loaded, teachers = open_recipe(
        assets,
        recipe,
        depth,
        mask_teacher,
        strict=strict,
        seed=seed,
        split=split,
        canvas_px=size,
        augment=False if no_augment else None,
    )
    with (
        _maker(engine, address, out, form, workers) as make,
        Progress(
            *Progress.get_default_columns(),
            MofNCompleteColumn(),
            console=messages,
            transient=True,
            disable=not messages.is_terminal,
        ) as bar,
    ):
        task = bar.add_task("composing", total=None)
        try:
            result = make(
                chosen,
                loaded,
                count=limit or count_of(chosen) or 1000,
                teachers=teachers,
                shard_size=shard_size,
                overwrite=overwrite,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            messages.print(
                f"stopped; what is in {out} is kept. The same command goes on (without --overwrite)",
                soft_wrap=True,
            )
            raise
    if as_json:
        skipped = [str(one.file) for one in loaded.skipped]
        report = {"out": str(out), "count": result.count, "made": result.made, "skipped": skipped}
        print_json(report)
    else:
        click.echo(f"{out}: {result.count} samples, {result.made} of them made now")
    report_skipped(loaded.skipped)
    _require_all(loaded.skipped)


@contextmanager
def _maker(
    engine: Literal["local", "ray"],
    address: str | None,
    out: str,
    form: Literal["shards", "files"],
    workers: int | None,
) -> Iterator[Callable[..., MaterialiseResult]]:
    """What makes the data set: `materialise`, here or on Ray, or `compose_to_store`."""
    from depthmask.storage import Storage, is_url
    from depthmask.train.materialise import materialise

    if engine == "local":
        yield partial(materialise, out=Path(out), form=form, workers=workers or 1)
        return
    from depthmask.train.compose_to_store import compose_to_store
    from depthmask.train.ray_blocks import make_on_ray

    if form != "shards":
        raise UsageError("--engine ray makes shards, but got --format files. Try --format shards")
    with ray_connection(address, workers) as count:
        if is_url(out):
            yield partial(compose_to_store, storage=Storage(out), workers=count)
        else:
            yield partial(materialise, out=Path(out), workers=count, on_ray=make_on_ray)


def _require_all(skipped: tuple[SkippedAsset, ...]) -> None:
    """End with an error where pictures were left out.

    Raises:
        InputError: there are some.

    """
    if not skipped:
        return
    names = ", ".join(one.file.name for one in skipped[:3])
    more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    raise InputError(
        f"every picture of the material must be usable, but {len(skipped)} are not and were left out"
        f" ({names}{more}); the data set is complete without them. Try --strict to stop at the first"
    )
