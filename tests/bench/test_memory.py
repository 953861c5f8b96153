from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest

from depthmask.bench.memory import PeakMemory, main, peak_rss_bytes

BALLAST_BYTES = 400 << 20


def test_memory_is_in_bytes():
    assert 10 << 20 < peak_rss_bytes() < 1 << 40


def test_a_childs_peak_leaves_its_parents_out():
    ballast = np.ones(BALLAST_BYTES, np.uint8)
    program = "from depthmask.bench.memory import main, peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert peak_rss_bytes() > ballast.nbytes
    assert int(done.stdout) < BALLAST_BYTES


@pytest.mark.gpu
def test_a_cell_on_a_gpu_holds_some_of_its_memory(capsys, tiny_bundle_path):
    main([str(tiny_bundle_path), "32", "onnxruntime", "cuda", "0", "1"])
    found = msgspec.json.decode(capsys.readouterr().out, type=PeakMemory)
    assert found.host_bytes > 10 << 20
    assert found.device_bytes is None or found.device_bytes > 10 << 20


def test_a_cell_on_the_cpu_holds_no_memory_of_a_gpu(capsys, tiny_bundle_path):
    main([str(tiny_bundle_path), "32", "onnxruntime", "cpu", "1", "1"])
    found = msgspec.json.decode(capsys.readouterr().out, type=PeakMemory)
    assert found.host_bytes > 10 << 20
    assert found.device_bytes is None
