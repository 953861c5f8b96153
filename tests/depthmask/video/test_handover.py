from __future__ import annotations

import threading
import time

import pytest

from depthmask.video.handover import CancelledError, Slot, start_stage


def test_newest_replaces_what_was_not_taken():
    slot = Slot(newest=True)
    for number in range(5):
        slot.put(number)
    slot.end()
    assert list(slot) == [4]
    assert slot.dropped == 4


def test_blocking_slot_loses_nothing_and_keeps_the_order():
    slot = Slot(newest=False)

    def work():
        for number in range(200):
            slot.put(number)

    start_stage("test", work, slot)
    assert list(slot) == list(range(200))
    assert slot.dropped == 0


def test_item_comes_before_the_error_that_ended_the_slot():
    slot = Slot(newest=True)

    def work():
        slot.put("last")
        raise KeyboardInterrupt

    start_stage("test", work, slot)
    assert slot.take(1) == "last"
    with pytest.raises(KeyboardInterrupt):
        slot.take(1)


def test_cancelling_frees_both_sides():
    slot = Slot(newest=False)
    slot.put("held")
    ended = []

    def put():
        with pytest.raises(CancelledError):
            slot.put("next")
        ended.append("put")

    thread = threading.Thread(target=put)
    thread.start()
    time.sleep(0.02)
    slot.cancel()
    thread.join(1)
    assert ended == ["put"]
    with pytest.raises(CancelledError):
        slot.take(1)


def test_taking_has_a_time_limit():
    with pytest.raises(TimeoutError):
        Slot(newest=True).take(0.01)


def test_a_cancelled_stage_ends_the_next_one():
    first, second = Slot(newest=False), Slot(newest=False)

    def work():
        for item in first:
            second.put(item)

    thread = start_stage("test", work, second)
    first.cancel()
    assert second.take(1) is None
    thread.join(1)
    assert not thread.is_alive()
