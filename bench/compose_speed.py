"""How fast samples are composed, against the straightforward way, and what it takes of memory.

    python -m depthmask.bench.compose_speed --assets assets --json

Both ways make the same samples of the reference grid, one after another in one thread; the rates are
by CPU time, so samples per second and core, and their ratio is of one run, in turns. The
straightforward way reads both images from disk, resizes them and blends each colour in floating point;
it makes no depth. Encoding is in neither and stands apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import cv2
import msgspec
import numpy as np

from depthmask.bench.machine import Machine, this_machine
from depthmask.bench.memory import peak_rss_bytes
from depthmask.commands.options import PathType, print_json
from depthmask.frames import IMAGE_SUFFIXES, UInt8Array
from depthmask.train.compose import compose
from depthmask.train.documents import read_recipe
from depthmask.train.encoding import encode_sample
from depthmask.train.grid import placements, prepare
from depthmask.train.material import Assets, Sample, load_material
from depthmask.train.materialise import materialise
from depthmask.train.recipe import GridRecipe, StageRecipe
from depthmask.train.stats import grid_statistics

_ROUNDS = 7


class ComposeSpeed(msgspec.Struct, frozen=True, kw_only=True):
    """Times are CPU time per sample, medians over rounds; ratios are medians of the rounds' ratios."""

    machine: Machine
    rounds: int
    samples_per_round: int
    straightforward_ms: float
    grid_ms: float
    """Image and mask, as the straightforward way."""
    grid_with_depth_ms: float
    stage_ms: float
    """Augmented composites of kind `stage`, with depth."""
    ratio: float
    """Straightforward over ours: the same outputs."""
    ratio_with_depth: float
    encode_image_ms: float
    encode_all_ms: float
    """JPEG, mask PNG and depth PNG."""
    enumerated: int
    enumerate_s: float
    """Listing and checking all samples of the grid, wall time."""
    peak_memory_bytes: dict[str, int]
    """Of materialising so many samples, in a process of its own."""


def straightforward(
    recipe: GridRecipe, backgrounds: list[Path], foregrounds: list[Path], index: int
) -> tuple[UInt8Array, UInt8Array]:
    """Image (H,W,3) and mask (H,W) of sample `index` as one writes it first."""
    chosen = placements(recipe, np.array([index]))
    size = recipe.canvas_px
    image = np.asarray(cv2.imread(str(backgrounds[chosen.background[0]])))
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    cutout = np.asarray(cv2.imread(str(foregrounds[chosen.foreground[0]]), cv2.IMREAD_UNCHANGED))
    cutout = cv2.cvtColor(cutout, cv2.COLOR_BGRA2RGBA)
    share = int(chosen.longest_px[0]) / max(cutout.shape[:2])
    height, width = (max(1, round(side * share)) for side in cutout.shape[:2])
    cutout = cv2.resize(cutout, (width, height), interpolation=cv2.INTER_AREA)
    if chosen.flip[0]:
        cutout = cv2.flip(cutout, 1)
    top, left = int(chosen.top_px[0]), int(chosen.left_px[0])
    box = (slice(top, top + height), slice(left, left + width))
    alpha = cutout[:, :, 3] / 255
    for colour in range(3):
        blended = alpha * cutout[:, :, colour] + (1 - alpha) * image[(*box, colour)]
        image[(*box, colour)] = np.clip(blended + 0.5, 0, 255)
    mask = np.zeros((size, size), np.uint8)
    mask[box] = np.where(alpha > 0, 255, 0)
    return np.asarray(image, np.uint8), mask


def measure(assets_folder: Path, samples: int, memory_counts: list[int]) -> ComposeSpeed:
    """Measure everything, in this process and (memory) in others.

    Raises:
        InputError: the assets are too few for the reference recipe.

    """
    cv2.setNumThreads(1)
    recipe = read_recipe("reference")
    assert isinstance(recipe, GridRecipe)
    bare = msgspec.structs.replace(recipe, depth="none")
    assets = load_material(recipe, assets_folder)
    prepare(recipe, assets)
    backgrounds, foregrounds = (
        _files(assets_folder / role) for role in ("backgrounds", "foregrounds")
    )
    stage = StageRecipe()
    random = load_material(stage, assets_folder)
    made = [compose(recipe, assets, index) for index in _indices(recipe, samples, 0)[:50]]
    ways: dict[str, Callable[[int], object]] = {
        "straightforward": lambda i: straightforward(recipe, backgrounds, foregrounds, i),
        "grid": lambda i: compose(bare, assets, i),
        "depth": lambda i: compose(recipe, assets, i),
        "stage": lambda i: compose(stage, random, i),
        "image": lambda i: encode_sample(_bare(made[i % len(made)]), "m"),
        "all": lambda i: encode_sample(made[i % len(made)], "m"),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(_ROUNDS + 1):
        for name, way in ways.items():
            spent_ms = _cpu_ms(way, _indices(recipe, samples, number))
            if number:  # the first round warms up: caches, the page cache, lazy imports
                times[name].append(spent_ms)
    pairs = list(zip(times["straightforward"], times["grid"], times["depth"], strict=True))
    start = time.perf_counter()
    listed = grid_statistics(recipe)
    enumerate_s = time.perf_counter() - start
    return ComposeSpeed(
        machine=this_machine(),
        rounds=_ROUNDS,
        samples_per_round=samples,
        straightforward_ms=median(times["straightforward"]),
        grid_ms=median(times["grid"]),
        grid_with_depth_ms=median(times["depth"]),
        stage_ms=median(times["stage"]),
        ratio=median(plain / ours for plain, ours, _ in pairs),
        ratio_with_depth=median(plain / ours for plain, _, ours in pairs),
        encode_image_ms=median(times["image"]),
        encode_all_ms=median(times["all"]),
        enumerated=listed.count,
        enumerate_s=enumerate_s,
        peak_memory_bytes={str(n): _memory(assets_folder, n) for n in memory_counts},
    )


def _cpu_ms(way: Callable[[int], object], indices: list[int]) -> float:
    start = time.process_time()
    for index in indices:
        way(index)
    return 1e3 * (time.process_time() - start) / len(indices)


def _indices(recipe: GridRecipe, count: int, seed: int) -> list[int]:
    drawn = np.random.default_rng(seed).integers(recipe.count, size=count)
    return [int(index) for index in drawn]


def _bare(sample: Sample) -> Sample:
    return Sample(sample.image_HW3, None, None)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _memory(assets_folder: Path, count: int) -> int:
    """Peak memory of materialising `count` samples."""
    arguments = ["--assets", str(assets_folder), "--only-materialise", str(count)]
    command = [sys.executable, "-m", "depthmask.bench.compose_speed", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["peak_memory_bytes"])


def _materialise(assets_folder: Path, count: int) -> int:
    recipe = read_recipe("reference")
    assets: Assets = load_material(recipe, assets_folder)
    with tempfile.TemporaryDirectory(prefix="depthmask-") as folder:
        materialise(recipe, assets, Path(folder) / "data", count)
    return peak_rss_bytes()


def _table(found: ComposeSpeed) -> str:
    counts = {int(count): size / 1e6 for count, size in found.peak_memory_bytes.items()}
    memory = ", ".join(f"{size:.1f} MB at {count}" for count, size in counts.items())
    rows = [
        f"{found.machine.cpu}, one thread, CPU time per sample:",
        f"  straightforward           {found.straightforward_ms:7.3f} ms",
        f"  grid                      {found.grid_ms:7.3f} ms   {found.ratio:.1f}x",
        f"  grid with depth           {found.grid_with_depth_ms:7.3f} ms"
        f"   {found.ratio_with_depth:.1f}x",
        f"  stage, augmented          {found.stage_ms:7.3f} ms",
        f"  encoding: JPEG            {found.encode_image_ms:7.3f} ms",
        f"  encoding: JPEG, two PNG   {found.encode_all_ms:7.3f} ms",
        f"listed and checked {found.enumerated} samples in {found.enumerate_s:.2f} s",
        f"peak memory of materialising: {memory}",
    ]
    return "\n".join(rows)


@click.command()
@click.option("--assets", type=PathType(), default=Path("assets"), show_default=True)
@click.option("--samples", type=click.IntRange(min=50), default=300, help="Per round and way.")
@click.option("--memory-counts", default="1000,100000", show_default=True, help="Samples.")
@click.option("--only-materialise", type=click.IntRange(min=1), hidden=True)
@click.option("--json", "as_json", is_flag=True)
def main(
    assets: Path, samples: int, memory_counts: str, only_materialise: int | None, as_json: bool
) -> None:
    r"""Measure how fast samples are composed.

    \b
    Example:
      python -m depthmask.bench.compose_speed --assets assets --json
    """
    if only_materialise is not None:
        print_json({"peak_memory_bytes": _materialise(assets, only_materialise)})
        return
    counts = [int(count) for count in memory_counts.split(",") if count]
    found = measure(assets, samples, counts)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        click.echo(_table(found))


if __name__ == "__main__":
    main()
