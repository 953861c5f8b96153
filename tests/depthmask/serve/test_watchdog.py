from __future__ import annotations

from types import SimpleNamespace

import pytest

from depthmask.serve.metrics import ServiceMetrics
from depthmask.serve.settings import ServeSettings
from depthmask.serve.watchdog import Watchdog, phase_of


class Connection:
    """What the watchdog reads of uvicorn's."""

    def __init__(self):
        self.cycle, self.timeout_keep_alive_task = None, None
        self.unsent_bytes, self.ended = 0, None
        self.transport = SimpleNamespace(
            is_closing=lambda: self.ended is not None,
            get_write_buffer_size=lambda: self.unsent_bytes,
            write=lambda data: None,
            close=lambda: setattr(self, "ended", "told"),
            abort=lambda: setattr(self, "ended", "aborted"),
        )


def request(**state):
    usual = {"more_body": True, "response_started": False, "response_complete": False}
    return SimpleNamespace(**(usual | state))


@pytest.fixture
def watchdog():
    settings = ServeSettings(read_timeout_s=10, write_timeout_s=20)
    return Watchdog(
        SimpleNamespace(connections=set()), settings, ServiceMetrics(lambda: 0, lambda: 0)
    )


def test_uploads_right_after_each_other_each_have_the_whole_time(watchdog):
    connection = Connection()
    watchdog.look(connection, 0)
    connection.cycle = first = request()  # its head is here
    watchdog.look(connection, 9)
    first.response_started = first.response_complete = True
    watchdog.look(connection, 9.5)  # the next head comes already
    connection.cycle = request()
    for now_s in (12, 19):
        watchdog.look(connection, now_s)
        assert connection.ended is None
    watchdog.look(connection, 19.6)
    assert connection.ended == "told"


def test_head_and_body_have_one_time(watchdog):
    connection = Connection()
    watchdog.look(connection, 0)
    connection.cycle = request()
    watchdog.look(connection, 9)
    assert connection.ended is None
    watchdog.look(connection, 10.1)
    assert connection.ended == "told"


def test_who_does_not_take_the_answer_and_who_does_not_take_the_refusal_is_aborted(watchdog):
    slow, silent = Connection(), Connection()
    slow.cycle = request(more_body=False, response_started=True, response_complete=True)
    slow.unsent_bytes = 1000
    silent.ended = "told"
    for connection in (slow, silent):
        for now_s in (0, 19):
            watchdog.look(connection, now_s)
        assert connection.ended != "aborted"
        watchdog.look(connection, 20.1)
        assert connection.ended == "aborted"


def test_work_and_rest_have_no_limit_here(watchdog):
    working, resting = Connection(), Connection()
    working.cycle = request(more_body=False)
    resting.cycle = request(more_body=False, response_started=True, response_complete=True)
    resting.timeout_keep_alive_task = object()
    assert (phase_of(working), phase_of(resting)) == ("working", "idle")
    for connection in (working, resting):
        for now_s in (0, 1000):
            watchdog.look(connection, now_s)
        assert connection.ended is None
