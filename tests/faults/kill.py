"""kill -9 at random moments: what is done over and over in processes that are forked off and killed.

    python tests/faults/kill.py KIND COUNT SEED FOLDER BUNDLE

Prints as JSON how many were killed in the middle, how many ended first, and all that was found broken: after
each kill, and after one more run that nobody kills.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Check = Callable[[], str]


@dataclass(frozen=True)
class Job:
    """What is killed; `check` gives what is wrong with what is there, empty where nothing is."""

    work: Callable[[], None]
    check: Check
    out: Path


def _dmx(*arguments: object) -> None:
    from depthmask.cli import main

    try:
        main([str(argument) for argument in arguments])
    except SystemExit as ended:
        if ended.code:
            raise


def export(folder: Path, bundle: Path) -> Job:
    """A tiny chain into the same folder, again and again; traced once."""
    import tiny_networks
    import torch

    from depthmask.chain import MaskDepthChain
    from depthmask.errors import DepthmaskError
    from depthmask.export import export_chain
    from depthmask.export.to_onnx import to_onnx
    from depthmask.frames import Resolution

    torch.set_num_threads(1)
    chain = MaskDepthChain(tiny_networks.TinyMask(), tiny_networks.TinyDepth()).eval()
    trace = functools.cache(to_onnx)
    out, size = folder / "bundle", Resolution(32, 32)

    def work() -> None:
        export_chain(chain, out, resolution=size, trace=trace, overwrite=True)

    def check() -> str:
        from depthmask.bundle import open_bundle

        try:
            if out.exists():
                open_bundle(out)
        except DepthmaskError as error:
            return str(error)
        return ""

    work()  # traces
    return Job(work, check, out)


def run(folder: Path, bundle: Path) -> Job:
    """Photographs to maps."""
    import cv2
    import numpy as np

    import depthmask.commands.run_command

    (photos := folder / "photos").mkdir()
    for number in range(6):
        picture = np.random.default_rng(number).integers(0, 255, (60, 80, 3), np.uint8)
        cv2.imwrite(str(photos / f"{number}.png"), picture)
    out = folder / "maps"

    def work() -> None:
        _dmx("run", bundle, "--source", photos, "--view", "mask,depth", "--out", out, "--overwrite")

    def check() -> str:
        if not out.exists():
            return ""
        names = sorted(path.name for path in out.iterdir())
        expected = sorted(
            [f"{k}.{role}.png" for k in range(6) for role in ("mask", "depth")] + ["depth.json"]
        )
        if names != expected:
            return f"{names} instead of {expected}"
        json.loads((out / "depth.json").read_text())
        pictures = [path for path in out.iterdir() if path.suffix == ".png"]
        return "".join(f"{p.name} is cut" for p in pictures if cv2.imread(str(p), -1) is None)

    assert depthmask.commands.run_command
    return Job(work, check, out)


def compose(folder: Path, bundle: Path) -> Job:
    """A data set, which goes on where it was killed; its seed changes, so that it begins anew."""
    import depthmask.commands.data_command
    import depthmask.train.materialise
    from depthmask.errors import DepthmaskError
    from depthmask.samples import open_samples

    assets = Path(__file__).parents[1] / "data" / "material"
    (recipe := folder / "recipe.yaml").write_text("kind: stage\n")
    out = folder / "data"
    options = ("--assets", assets, "--recipe", recipe, "--limit", 12, "--size", 48, "--out", out)

    def work() -> None:
        _dmx("data", "compose", *options, "--shard-size", 3, "--workers", 1)
        if os.getpid() != parent:  # the next one begins anew
            _dmx("data", "compose", *options, "--shard-size", 3, "--workers", 1, "--overwrite")

    def check() -> str:
        if not out.exists():
            return ""
        try:
            samples = open_samples(out, unfinished=True)
            samples.check()
            for index in range(len(samples)):
                _ = samples[index]
        except DepthmaskError as error:
            return "" if "holds none" in str(error) else str(error)
        return ""

    parent = os.getpid()
    assert depthmask.commands.data_command
    assert depthmask.train.materialise
    return Job(work, check, out)


def bench(folder: Path, bundle: Path) -> Job:
    """A benchmark's result."""
    import depthmask.commands.bench_command
    from depthmask.bench.result import read_result
    from depthmask.errors import DepthmaskError

    out = folder / "bench.json"
    options = ("--runtimes", "onnxruntime", "--seconds", 0.05, "--min-runs", 5, "--rounds", 3)

    def work() -> None:
        _dmx("bench", bundle, *options, "--limit", 2, "--out", out, "--overwrite")

    def check() -> str:
        try:
            if out.exists():
                read_result(out)
        except DepthmaskError as error:
            return str(error)
        return ""

    assert depthmask.commands.bench_command
    return Job(work, check, out)


KINDS = {kind.__name__: kind for kind in (export, run, compose, bench)}


def _forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def main() -> None:
    """Run from the command line."""
    kind, count, seed, folder, bundle = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parents[1] / "user_code"))
    place = Path(folder)
    job = KINDS[kind](place, Path(bundle))
    gc.collect()
    gc.freeze()  # forked processes collect what they make, not what they were given
    rng = random.Random(int(seed))
    begun = time.monotonic()
    if os.waitpid(_forked(job.work), 0)[1] != 0:
        raise SystemExit("the work does not work")
    whole_s = time.monotonic() - begun
    existing = set(place.iterdir())
    killed = ended = 0
    broken: list[str] = []
    for number in range(int(count)):
        child = _forked(job.work)
        time.sleep(rng.uniform(0, whole_s))
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        killed += os.WIFSIGNALED(status)
        ended += os.WIFEXITED(status)
        if problem := job.check():
            broken.append(f"{number}: {problem}")
    last = os.waitpid(_forked(job.work), 0)[1]
    if last != 0:
        broken.append(f"the last run ended with {last}")
    if problem := job.check() or ("" if job.out.exists() else "nothing is there"):
        broken.append(f"at the end: {problem}")
    left = [str(path.relative_to(place)) for path in set(place.iterdir()) - existing]
    if job.out.is_dir():
        left += [str(path.relative_to(place)) for path in job.out.rglob(".*")]
    print(json.dumps({"killed": killed, "ended": ended, "broken": broken, "left": left,
                      "whole_s": round(whole_s, 2)}))  # fmt: skip


if __name__ == "__main__":
    main()
