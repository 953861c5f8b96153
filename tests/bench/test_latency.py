from __future__ import annotations

import numpy as np
import pytest

from depthmask.bench import measure
from depthmask.bench.latency import LatencyMeter
from depthmask.errors import UsageError

FRAMES = [np.zeros((4, 6, 3), np.uint8)]


def run(pipeline, **settings):
    return measure(pipeline, FRAMES, clock=pipeline.clock, **settings)


def test_a_steady_pipeline_is_measured_for_the_time_asked(fake_pipeline):
    result = run(fake_pipeline([50.0, 10.0]), min_seconds=2.0)
    assert result.first_inference_ms == pytest.approx(50)
    assert result.open_ms == 120
    assert result.stable
    assert result.runs in (200, 201)  # 2 s of 10 ms
    assert len(result.samples_ms) == result.runs
    for value in (result.p50_ms, result.p90_ms, result.p95_ms, result.mean_ms):
        assert value == pytest.approx(10)
    assert result.p99_ms is None
    assert result.cv == pytest.approx(0, abs=1e-6)
    assert result.throughput_frames_per_s == pytest.approx(100)
    assert list(result.stage_p50_ms) == ["preprocess", "inference", "postprocess"]
    assert list(result.stage_p50_ms.values()) == pytest.approx((1, 7, 2))


def test_a_slow_start_is_not_in_the_samples(fake_pipeline):
    falling = [float(ms) for ms in range(400, 10, -10)]
    result = run(fake_pipeline([*falling, 10.0]), max_warmup_seconds=60)
    assert result.stable
    assert result.warmup_runs >= len(falling)
    assert max(result.samples_ms) == pytest.approx(10)


def test_a_warm_up_that_never_gets_steady_ends(fake_pipeline):
    pipeline = fake_pipeline([1.05**step for step in range(200)])
    result = run(pipeline, min_seconds=0, min_runs=1, max_warmup_seconds=3)
    assert not result.stable


def test_a_warm_up_ends_within_a_run_of_its_time(fake_pipeline):
    pipeline = fake_pipeline([4000.0])
    result = run(pipeline, min_seconds=0, min_runs=1, max_warmup_seconds=5)
    assert result.warmup_runs == 2
    assert not result.stable


@pytest.mark.parametrize(
    ("name", "enough"), [("p90_ms", 100), ("p95_ms", 200), ("p99_ms", 1000), ("p999_ms", 10_000)]
)
def test_a_percentile_needs_ten_runs_beyond_it(fake_pipeline, name, enough):
    assert getattr(run(fake_pipeline(), min_seconds=0, min_runs=enough - 1), name) is None
    result = run(fake_pipeline(), min_seconds=0, min_runs=enough)
    assert getattr(result, name) == pytest.approx(10)


def test_percentiles_are_of_the_raw_samples(fake_pipeline):
    pipeline = fake_pipeline()
    meter = LatencyMeter(pipeline, FRAMES, pipeline.clock)
    pipeline.durations_ms = [5.0, 5.0, *map(float, range(1, 102))]
    meter.sample(0, 101)
    result = meter.result()
    assert result.samples_ms == pytest.approx(tuple(range(1, 102)))
    assert (result.p50_ms, result.p90_ms) == pytest.approx((51, 91))
    assert result.mean_ms == pytest.approx(51)
    assert result.cv == pytest.approx(np.std(range(1, 102)) / 51)


def test_samples_of_several_turns_add_up(fake_pipeline):
    pipeline = fake_pipeline()
    meter = LatencyMeter(pipeline, FRAMES, pipeline.clock)
    meter.warm_up()
    for _ in range(3):
        meter.sample(0.05, 2)
    result = meter.result()
    assert meter.runs == result.runs == sum(turn.runs for turn in result.turns)
    assert len(result.turns) == 3
    assert meter.runs >= 15


def test_frames_are_taken_in_turn():
    seen = []

    class Recorder:
        open_ms = 0.0
        timings_ms = {"preprocess": 0.0, "inference": 0.0, "postprocess": 0.0}  # noqa: RUF012

        def __call__(self, frame_HW3):
            seen.append(int(frame_HW3[0, 0, 0]))
            return self

    frames = [np.full((2, 2, 3), value, np.uint8) for value in (7, 8, 9)]
    LatencyMeter(Recorder(), frames).sample(0, 5)
    assert seen[:6] == [7, 8, 9, 7, 8, 9]


def test_unusable_settings_are_refused(fake_pipeline):
    with pytest.raises(UsageError, match="1 or more, but there are none"):
        measure(fake_pipeline(), [])
    with pytest.raises(UsageError, match="min_runs must be 1 or more, but got 0"):
        run(fake_pipeline(), min_runs=0)
    with pytest.raises(UsageError, match="none was made"):
        LatencyMeter(fake_pipeline(), FRAMES).result()


class OnGpu:
    """Each call's inference takes 2 ms on the GPU, for `enqueue_ms` of the host's work."""

    open_ms = 0.0

    def __init__(self, **enqueue):
        self.timings_ms = {"copy_to_device": 0.1, "inference": 2.0, "copy_back": 0.2, **enqueue}

    def __call__(self, frame_HW3):
        return self


def test_enqueueing_is_no_part_beside_the_others():
    result = measure(OnGpu(enqueue=0.5), FRAMES, min_seconds=0, min_runs=3, max_warmup_seconds=0)
    assert result.stage_p50_ms == {"copy_to_device": 0.1, "inference": 2.0, "copy_back": 0.2}
    assert result.enqueue_p50_ms == 0.5
    assert result.stage_samples_ms["enqueue"] == (0.5,) * 3
    assert result.enqueue_bound is None


def test_a_gpu_that_waits_for_the_host_is_named():
    result = measure(OnGpu(enqueue=1.7), FRAMES, min_seconds=0, min_runs=3, max_warmup_seconds=0)
    assert result.enqueue_bound == (
        "bound by enqueueing: 1.70 ms of host work for 2.00 ms on the GPU"
    )


def test_without_a_time_for_enqueueing_nothing_is_said_of_it():
    result = measure(OnGpu(), FRAMES, min_seconds=0, min_runs=3, max_warmup_seconds=0)
    assert result.enqueue_p50_ms is result.enqueue_bound is None
