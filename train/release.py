"""`python -m depthmask.train.release RUN... OUT`: a training's checkpoint, in float16, to ship.

Of several, the mean of their weights: runs that went on from one another or from the same checkpoint
are often better together than each (Wortsman et al., "Model soups", ICML 2022).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from depthmask.chain import MaskDepthChain
from depthmask.checkpoint import SPEC_FILE, load_checkpoint, read_info, save_checkpoint
from depthmask.errors import DepthmaskError, InputError


def release(runs: Sequence[Path], out: Path) -> None:
    """Write a checkpoint to `out`, with its weights in float16.

    Each of `runs` is a finished run's folder, or a checkpoint itself (such as a run's `best`).

    Raises:
        InputError: a run is not finished, its checkpoint is damaged, or they are of other chains.
        OutputError: `out` cannot be written.
    """
    checkpoints = [run if (run / SPEC_FILE).is_file() else run / "checkpoint" for run in runs]
    trainings = [read_info(checkpoint).training for checkpoint in checkpoints]
    chain = _mean([load_checkpoint(checkpoint) for checkpoint in checkpoints])
    training = trainings[0] if len(trainings) == 1 else {"mean_of": trainings}
    save_checkpoint(chain, out, training=training, half=True, overwrite=True)


def _mean(chains: Sequence[MaskDepthChain]) -> MaskDepthChain:
    first = chains[0]
    for other in chains[1:]:
        if (other.spec.mask, other.spec.depth) != (first.spec.mask, first.spec.depth):
            raise InputError(
                f"the checkpoints must be of one chain to be averaged, but got {first.spec.preset}"
                f" and {other.spec.preset}"
            )
    states = [chain.state_dict() for chain in chains]
    first.load_state_dict(
        {
            name: torch.stack([state[name] for state in states]).mean(0)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in states[0].items()
        }
    )
    return first


if __name__ == "__main__":
    try:
        *sources, target = map(Path, sys.argv[1:])
        release(sources, target)
    except DepthmaskError as problem:
        sys.exit(f"error: {problem}")
