from __future__ import annotations

import time

import numpy as np
import pytest

from depthmask.bench.cells import OpenedCell, all_cells
from depthmask.bench.sweep import sweep
from depthmask.errors import InputError, UnavailableError, UsageError
from depthmask.frames import write_png
from depthmask.samples import open_samples


def opener(fake_pipeline, ms_by_side, faults=None):
    """A pipeline that takes the given time, and is the better the larger its side, up to 128."""

    def open_cell(request):
        side = request.resolution.height
        if side in (faults or {}):
            raise faults[side]
        return OpenedCell(SpinningPipeline(fake_pipeline(), ms_by_side[side], side / 256), "cpu")

    return open_cell


class SpinningPipeline:
    """Takes real time: a sweep is judged by the clock on the wall."""

    open_ms = 1.0

    def __init__(self, fake, ms, share):
        self.fake = fake
        self.ms = ms
        self.share = share

    def __call__(self, frame_HW3):
        end = time.perf_counter() + self.ms / 1000
        while time.perf_counter() < end:
            pass
        found = self.fake(frame_HW3)
        found.mask_HW[:] = 0  # the true mask is the upper half
        found.mask_HW[: round(self.share * len(found.mask_HW))] = 1
        return found

    def close(self):
        pass


def run(fake_bundle, samples, open_cell, sides, target_ms, **settings):
    requests = all_cells([fake_bundle(resolutions=sides)], runtimes=["onnxruntime"], threads=[1])
    return sweep(
        requests,
        samples,
        target_ms,
        share=0.5,
        max_warmup_seconds=0,
        open_cell=open_cell,
        **settings,
    )


def outcomes(result):
    return {one.cell.height_px: one.outcome for one in result.candidates}


def test_the_most_accurate_within_the_target_is_chosen(fake_bundle, fake_pipeline, samples):
    times = {32: 0.1, 64: 0.3, 96: 1.0, 128: 60.0}
    result = run(fake_bundle, samples, opener(fake_pipeline, times), tuple(times), 20)
    assert result.chosen.cell.height_px == 96
    assert result.chosen.latency_ms < 20
    assert outcomes(result)[128] == "misses the target"
    assert {outcomes(result)[32], outcomes(result)[64]} == {"less accurate"}
    scores = [one.score for one in result.candidates]
    assert scores == sorted(scores, reverse=True)


def test_where_nothing_meets_the_target_nothing_is_chosen(fake_bundle, fake_pipeline, samples):
    result = run(fake_bundle, samples, opener(fake_pipeline, {32: 2.0, 64: 3.0}), (32, 64), 0.5)
    assert result.chosen is None
    assert set(outcomes(result).values()) == {"misses the target"}


def test_time_goes_to_those_that_are_close(fake_bundle, fake_pipeline, samples):
    times = dict.fromkeys((32, 48, 64, 80, 96, 112, 128), 0.2)
    result = run(fake_bundle, samples, opener(fake_pipeline, times), tuple(times), 20)
    runs = {one.cell.height_px: one.cell.latency.runs for one in result.candidates}
    assert result.chosen.cell.height_px == 128
    assert runs[128] > 2 * runs[32]


def test_a_candidate_that_fails_does_not_end_the_sweep(fake_bundle, fake_pipeline, samples):
    faults = {64: RuntimeError("no luck"), 96: UnavailableError("not here")}
    times = {32: 0.2, 64: 0.2, 96: 0.2}
    open_cell = opener(fake_pipeline, times, faults=faults)
    result = run(fake_bundle, samples, open_cell, tuple(times), 20)
    assert outcomes(result) == {32: "chosen", 64: "failed", 96: "unavailable"}
    assert result.candidates[0].cell.height_px == 32


@pytest.mark.parametrize(("target_ms", "share"), [(0, 0.5), (float("nan"), 0.5), (5, 0.2), (5, 1)])
def test_unusable_targets_are_refused(fake_bundle, fake_pipeline, samples, target_ms, share):
    requests = all_cells([fake_bundle()], runtimes=["onnxruntime"])
    with pytest.raises(UsageError, match="a target must be above 0 ms"):
        sweep(requests, samples, target_ms, share=share, open_cell=opener(fake_pipeline, {}))


def test_without_labels_nothing_is_most_accurate(fake_bundle, fake_pipeline, tmp_path):
    (tmp_path / "photos").mkdir()
    write_png(tmp_path / "photos" / "a.png", np.zeros((9, 12, 3), np.uint8))
    requests = all_cells([fake_bundle()], runtimes=["onnxruntime"])
    with pytest.raises(InputError, match="must have labels"):
        sweep(requests, open_samples(tmp_path / "photos"), 5, open_cell=opener(fake_pipeline, {}))
