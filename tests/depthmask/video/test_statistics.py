from __future__ import annotations

import numpy as np
import pytest

from depthmask.video.statistics import Histogram, RunStatistics


def test_quantiles_are_exact_to_a_percent():
    durations_ms = np.random.default_rng(0).lognormal(3, 1, 5000)
    histogram = Histogram()
    for duration_ms in durations_ms:
        histogram.add(float(duration_ms))
    for share in (0.5, 0.95, 0.99):
        assert histogram.quantile_ms(share) == pytest.approx(
            np.quantile(durations_ms, share), rel=0.015
        )
    assert histogram.largest_ms == durations_ms.max()


def test_equal_values_come_out_as_they_went_in():
    histogram = Histogram()
    for _ in range(7):
        histogram.add(3.0)
    assert histogram.quantile_ms(0.5) == 3.0
    assert histogram.summary() == {
        "count": 7, "p50_ms": 3.0, "p95_ms": 3.0, "p99_ms": 3.0, "max_ms": 3.0,
    }  # fmt: skip


def test_nothing_measured():
    assert Histogram().summary()["p95_ms"] is None
    statistics = RunStatistics()
    assert statistics.recent_fps is None
    assert statistics.recent_age_ms(0.5) is None
    statistics.shown(None, None)
    assert statistics.recent_age_ms(0.5) is None
    assert statistics.frames == 1


def test_zero_is_a_duration():
    histogram = Histogram()
    histogram.add(0.0)
    assert histogram.quantile_ms(1) == 0.0
