"""kill -9 at random moments: an artefact is the old one or the new one, and the next run clears up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).parent / "kill.py"


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("export", 4),
        ("run", 5),
        pytest.param("export", 200, marks=pytest.mark.slow),
        pytest.param("run", 100, marks=pytest.mark.slow),
        pytest.param("compose", 200, marks=pytest.mark.slow),
        pytest.param("bench", 50, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_nothing_is_half_and_nothing_is_left(
    tiny_bundle_path, tmp_path, kind, count
):
    done = subprocess.run(
        [sys.executable, DRIVER, kind, str(count), "0", tmp_path, tiny_bundle_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(kind, found)
    assert found["broken"] == []
    assert found["left"] == []
    assert found["killed"] >= count / 2
