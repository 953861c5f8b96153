from __future__ import annotations

import subprocess
import sys

import pytest

from depthmask.bench.peaks import last_cache_multiple, measure_peaks, peaks_of_this_process
from depthmask.errors import UnavailableError, UsageError

TINY = {"matrix_sides": (16,), "array_bytes": 1 << 12, "seconds": 0.0}


def test_peaks_are_positive_and_say_how():
    peaks = measure_peaks(2, **TINY)
    assert peaks.threads == 2
    rates = (peaks.fp32_flop_per_s, peaks.int8_op_per_s, peaks.memory_bytes_per_s)
    for rate in rates:
        assert rate.best >= rate.median >= rate.worst > 0
        assert rate.repeats >= 5
    assert peaks.fp32_flop_per_s.how.endswith("16x16")
    assert peaks.fp32_flop_per_s.how.startswith(("NumPy", "ONNX Runtime"))
    assert "MatMulInteger" in peaks.int8_op_per_s.how
    assert peaks.memory_bytes_per_s.how.startswith("copy of")


def test_without_onnx_there_is_numpys_peak_alone(monkeypatch):
    monkeypatch.setattr("depthmask.bench.peaks.has_onnx", lambda: False)
    peaks = peaks_of_this_process(1, (16,), 1 << 12, 0.0)
    assert peaks.fp32_flop_per_s.how.startswith("NumPy")
    assert peaks.int8_op_per_s is None


def test_the_arrays_are_larger_than_the_caches():
    assert last_cache_multiple() >= 32 << 20


@pytest.mark.parametrize(
    "settings", [{"threads": 0}, {"matrix_sides": (0,)}, {"array_bytes": 0}], ids=str
)
def test_unusable_settings_are_refused(settings):
    with pytest.raises(UsageError, match="must be 1 or more, but got 0"):
        measure_peaks(**{"threads": 1, **TINY, **settings})


def test_a_process_that_dies_is_said_in_one_line(monkeypatch):
    def run(command, **options):
        raise subprocess.CalledProcessError(
            -9, command, b"", b"Traceback\nMemoryError: too large\n"
        )

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UnavailableError, match="ended with -9: MemoryError: too large"):
        measure_peaks(1, **TINY)


def test_it_imports_where_there_is_no_runtime():
    program = (
        "import sys; sys.modules.update(onnx=None, onnxruntime=None, openvino=None, torch=None);"
        "import depthmask.bench.peaks, depthmask.bench.work, depthmask.bench.roofline"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
