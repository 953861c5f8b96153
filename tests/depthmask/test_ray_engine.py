"""Tasks on a real Ray cluster of two nodes on this machine."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest
from ray_work import Scaled

from depthmask import ray_engine
from depthmask.errors import InputError, OutputError, UnavailableError
from depthmask.ray_engine import connected, map_on_ray


def test_results_are_the_tasks_and_workers_share_the_load(ray_cluster, tmp_path):
    shared = np.arange(3)
    found = list(map_on_ray(Scaled(tmp_path), shared, iter(range(12)), workers=2))
    assert sorted(done.task for done in found) == list(range(12))
    for done in found:
        values, _ = done.result
        np.testing.assert_array_equal(values, shared * done.task)
    assert len({done.result[1] for done in found}) == 2


def test_a_failed_input_is_told_and_the_others_go_on(ray_cluster, tmp_path):
    found = list(map_on_ray(Scaled(tmp_path), 1, [1, "bad", 2], workers=1))
    assert [done.task for done in found] == [1, "bad", 2]
    assert isinstance(found[1].error, InputError)
    assert found[1].result is None
    assert [done.error for done in found[::2]] == [None, None]


def test_a_task_that_kills_its_worker_is_given_up_and_the_others_go_on(
    ray_cluster, tmp_path, monkeypatch
):
    monkeypatch.setattr(ray_engine, "RETRIES", 2)
    found = {
        done.task: done for done in map_on_ray(Scaled(tmp_path), 1, ["deadly", 1, 2], workers=1)
    }
    assert set(found) == {"deadly", 1, 2}
    assert isinstance(found["deadly"].error, UnavailableError)
    assert found[1].error is None
    assert found[2].error is None
    assert len(list(tmp_path.glob("deadly-*"))) == 3


def test_a_bug_keeps_its_kind_and_its_traceback(ray_cluster, tmp_path):
    with pytest.raises(ZeroDivisionError, match="_call"):
        list(map_on_ray(Scaled(tmp_path), 1, ["bug"], workers=1))


def test_a_worker_without_what_it_needs_stops_the_job(ray_cluster, tmp_path):
    with pytest.raises(UnavailableError, match="but openvino is not"):
        list(map_on_ray(Scaled(tmp_path, missing="openvino"), 1, [1], workers=1))
    assert list(tmp_path.iterdir()) == []


def test_a_worker_of_another_version_is_refused(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "_versions", lambda _: {"depthmask": "99.0"})
    with pytest.raises(
        UnavailableError, match=r"must have depthmask 99\.0, as here, but .+ has \d"
    ):
        list(map_on_ray(Scaled(tmp_path), 1, [1], workers=1))


def test_a_cluster_without_room_is_told_in_time(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "_START_S", 0.5)
    with pytest.raises(UnavailableError, match="must get 64 CPUs and 0 GPUs"):
        list(map_on_ray(Scaled(tmp_path), 1, [1], workers=1, cpus=64))


def test_a_full_object_store_is_one_line(ray_cluster, tmp_path, monkeypatch):
    def put(value):
        raise ray_cluster.exceptions.ObjectStoreFullError("the store is full\nwith details")

    monkeypatch.setattr(ray_cluster, "put", put)
    with pytest.raises(OutputError, match="must have room") as caught:
        list(map_on_ray(Scaled(tmp_path), 1, [1], workers=1))
    assert "\n" not in str(caught.value)


def test_results_that_nobody_takes_start_no_cluster_later(ray_cluster, tmp_path, monkeypatch):
    results = map_on_ray(Scaled(tmp_path), 1, range(3), workers=1)
    next(results)
    with monkeypatch.context() as patch:
        patch.setattr(ray_cluster, "is_initialized", lambda: False)
        patch.setattr(ray_cluster, "kill", lambda actor: pytest.fail("Ray was asked"))
        results.close()


def test_a_caller_that_is_connected_stays_so(ray_cluster):
    with connected(None) as workers:
        assert workers == 2
    assert ray_cluster.is_initialized()


@pytest.fixture
def disconnected(monkeypatch):
    """As in a process that has not connected yet."""
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_engine, "_CONNECT_S", 0.5)
    return ray


@pytest.mark.parametrize("address", ["nonsense", "host:", "127.0.0.1:1", "127.0.0.1:99999999"])
def test_an_address_where_nothing_is_costs_one_line(disconnected, address):
    with (
        pytest.raises(InputError, match="a Ray cluster must answer at") as caught,
        connected(address),
    ):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_something_else_at_the_address_is_not_waited_for(disconnected, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer)
                time.sleep(1)

        thread = threading.Thread(target=serve)
        thread.start()
        started = time.monotonic()
        with pytest.raises(InputError, match="must answer at"), connected(f"127.0.0.1:{port}"):
            pass
        assert time.monotonic() - started < 10
        thread.join()


def test_another_version_of_ray_is_one_line(disconnected, monkeypatch):
    from ray._private import utils

    mine = utils.compute_version_info()
    # The comparison is Ray's own; only what this process says of itself is another.
    monkeypatch.setattr(utils, "compute_version_info", lambda: ("1.0.0", *mine[1:]))
    cluster = dict(zip(("ray_version", "python_version"), mine, strict=True))
    monkeypatch.setattr(disconnected, "init", lambda **_: utils.check_version_info(cluster, "here"))
    monkeypatch.setattr(ray_engine, "_check_answers", lambda address: None)
    with (
        pytest.raises(UnavailableError, match="versions of Ray and Python") as caught,
        connected("127.0.0.1:6379"),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert "1.0.0" in str(caught.value)


def test_without_ray_its_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnavailableError, match=r"depthmask\[ray\]"), connected(None):
        pass
