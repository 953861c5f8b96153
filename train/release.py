"""`python -m depthmask.train.release RUN OUT`: a training's checkpoint, in float16, to ship."""

from __future__ import annotations

import sys
from pathlib import Path

from depthmask.checkpoint import SPEC_FILE, load_checkpoint, read_info, save_checkpoint
from depthmask.errors import DepthmaskError


def release(run: Path, out: Path) -> None:
    """Write a checkpoint to `out`, with its weights in float16.

    `run` is a finished run's folder, or a checkpoint itself (such as a run's `best`).

    Raises:
        InputError: the run is not finished, or its checkpoint is damaged.
        OutputError: `out` cannot be written.
    """
    checkpoint = run if (run / SPEC_FILE).is_file() else run / "checkpoint"
    training = read_info(checkpoint).training
    save_checkpoint(load_checkpoint(checkpoint), out, training=training, half=True, overwrite=True)


if __name__ == "__main__":
    try:
        release(Path(sys.argv[1]), Path(sys.argv[2]))
    except DepthmaskError as problem:
        sys.exit(f"error: {problem}")
