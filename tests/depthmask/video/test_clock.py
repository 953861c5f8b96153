from __future__ import annotations

import pytest

from depthmask.video.clock import SourceClock


def stamps(clock, pairs):
    return [clock.stamp(source_s, arrived_s) for source_s, arrived_s in pairs]


def test_a_frame_that_was_held_up_is_older_than_its_arrival():
    first, late, after = stamps(SourceClock(), [(7.0, 100.0), (7.04, 100.34), (7.08, 100.35)])
    assert first.captured_s == 100.0
    assert late.captured_s == pytest.approx(100.04)
    assert after.captured_s == pytest.approx(100.08)
    assert [first.time_s, late.time_s, after.time_s] == pytest.approx([0, 0.04, 0.08])


def test_a_queue_that_grows_is_seen():
    rows = [(0.04 * n, 50 + 0.12 * n) for n in range(100)]
    last = stamps(SourceClock(), rows)[-1]
    assert rows[-1][1] - last.captured_s == pytest.approx(0.08 * 99)


def test_clocks_that_drift_apart_do_not_age_the_frames():
    """100 parts per million for an hour are 360 ms."""
    rows = [(0.2 * n, 0.2 * n * (1 + 1e-4)) for n in range(5 * 3600)]
    last = stamps(SourceClock(), rows)[-1]
    assert rows[-1][1] - last.captured_s < 0.015


@pytest.mark.parametrize("jump_s", [-3.0, -1000.0, 500.0])
def test_timestamps_that_jump_start_anew(jump_s):
    rows = [(10.0, 1.0), (10.1, 1.1), (10.2 + jump_s, 1.2), (10.3 + jump_s, 1.3)]
    found = stamps(SourceClock(), rows)
    assert [one.captured_s for one in found] == pytest.approx([1.0, 1.1, 1.2, 1.3])
    assert [one.time_s for one in found] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_without_timestamps_the_arrival_counts():
    found = stamps(SourceClock(), [(None, 5.0), (None, 5.5)])
    assert [one.captured_s for one in found] == [5.0, 5.5]
    assert found[1].time_s == 0.5


def test_a_second_connection_goes_on_where_the_first_one_left():
    (found,) = stamps(SourceClock(12.5), [(0.0, 99.0)])
    assert (found.time_s, found.captured_s) == (12.5, 99.0)


def test_cameras_of_this_machine_tell_the_capture_itself():
    clock = SourceClock(same_clock=True)
    assert clock.stamp(40.0, 40.07).captured_s == 40.0
    # A driver whose clock is another one is treated like a stream.
    other = SourceClock(same_clock=True)
    assert other.stamp(1.7e9, 40.0).captured_s == 40.0
