from __future__ import annotations

import pytest

from depthmask.chain import build
from depthmask.checkpoint import read_info, save_checkpoint
from depthmask.errors import InputError
from depthmask.train.release import release


def test_a_run_or_its_best_checkpoint_is_released_in_half_the_size(tmp_path):
    for name in ("checkpoint", "best"):
        save_checkpoint(build("lite", seed=0), tmp_path / "run" / name, training={"name": name})
    for source, name in ((tmp_path / "run", "checkpoint"), (tmp_path / "run" / "best", "best")):
        release(source, tmp_path / "out")
        assert read_info(tmp_path / "out").training == {"name": name}
    sizes = [
        (folder / "weights.safetensors").stat().st_size
        for folder in (tmp_path / "out", tmp_path / "run" / "best")
    ]
    assert sizes[0] < 0.52 * sizes[1]


def test_an_unfinished_run_is_an_input_error(tmp_path):
    with pytest.raises(InputError):
        release(tmp_path, tmp_path / "out")
