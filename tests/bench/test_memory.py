from __future__ import annotations

import subprocess
import sys

import numpy as np

from depthmask.bench.memory import peak_rss_bytes

BALLAST_BYTES = 400 << 20


def test_memory_is_in_bytes():
    assert 10 << 20 < peak_rss_bytes() < 1 << 40


def test_a_childs_peak_leaves_its_parents_out():
    ballast = np.ones(BALLAST_BYTES, np.uint8)
    program = "from depthmask.bench.memory import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert peak_rss_bytes() > ballast.nbytes
    assert int(done.stdout) < BALLAST_BYTES
