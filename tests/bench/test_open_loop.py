from __future__ import annotations

import numpy as np
import pytest

from depthmask.bench.open_loop import measure_under_load
from depthmask.errors import UsageError

FRAMES = [np.zeros((4, 6, 3), np.uint8)]


def run(pipeline, rate, **settings):
    def sleep(seconds):
        pipeline.now_s += seconds

    def clock():
        pipeline.now_s += 1e-6  # waiting awake takes time, too
        return pipeline.now_s

    return measure_under_load(pipeline, FRAMES, rate, clock=clock, sleep=sleep, **settings)


def test_below_its_capacity_a_pipeline_answers_as_if_alone(fake_pipeline):
    result = run(fake_pipeline([10.0]), 50, seconds=4)
    assert (result.offered, result.done, result.sustained) == (200, 200, True)
    assert result.p50_ms == pytest.approx(10, abs=0.1)
    assert result.p90_ms == pytest.approx(10, abs=0.1)
    assert result.p99_ms is None


def test_a_stall_is_charged_to_all_frames_that_wait_behind_it(fake_pipeline):
    durations = [10.0] * 10 + [200.0] + [10.0] * 89
    result = run(fake_pipeline(durations), 50, seconds=2)
    assert result.sustained
    assert result.longest_ms == pytest.approx(200, abs=1)
    # The queue of 190 ms shrinks by 10 ms a frame; timed from the start of the work, one would be slow.
    assert sum(sample > 20 for sample in result.samples_ms) >= 17


def test_a_hiccup_at_the_end_is_no_growing_queue(fake_pipeline):
    durations = [10.0] * 97 + [60.0] + [10.0] * 2
    result = run(fake_pipeline(durations), 50, seconds=2)
    assert result.sustained
    assert result.samples_ms[-1] > 20


def test_a_rate_just_above_the_capacity_is_not_sustained(fake_pipeline):
    result = run(fake_pipeline([20.5]), 50, seconds=2)
    assert result.done == result.offered
    assert not result.sustained


def test_a_rate_above_the_capacity_is_not_sustained(fake_pipeline):
    result = run(fake_pipeline([50.0]), 100, seconds=2)
    assert not result.sustained
    assert result.done < result.offered
    assert result.longest_ms > 1000


def test_rates_and_times_must_be_above_zero(fake_pipeline):
    for rate, seconds in ((0, 1), (1, 0), (float("nan"), 1)):
        with pytest.raises(UsageError, match="must be above 0"):
            run(fake_pipeline(), rate, seconds=seconds)
