from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import torch

from depthmask import chain as chains
from depthmask.bench import peers as module
from depthmask.bench.peer_list import PEERS, OwnMeter, Peer
from depthmask.bench.peers import compare_peers, main
from depthmask.bench.peers_result import markdown_peers
from depthmask.errors import UnavailableError, UsageError
from depthmask.export.exporter import export_chain
from depthmask.frames import Resolution

SIZE = Resolution(32, 32)


def named(name):
    return next(peer for peer in PEERS if peer.name == name)


def of_eager(change):
    """A peer that gives what PyTorch gives, changed."""

    def open_it(subject):
        def run(image_13HW):
            with torch.inference_mode():
                mask, depth = subject.chain(torch.from_numpy(image_13HW))
            return change(mask.numpy(), depth.numpy())

        return run

    return open_it


def missing(subject):
    raise UnavailableError("this peer needs the package nowhere, which is not installed")


def broken(subject):
    raise RuntimeError("no kernel\nfor this")


def wrong_shape(mask, depth):
    return mask[..., 1:], depth


FAKES = (
    Peer("wrong", "off by a tenth", of_eager(lambda m, d: (m, d + 0.1 * np.ptp(d)))),
    Peer("cropped", "another shape", of_eager(wrong_shape)),
    Peer("missing", "not installed", missing),
    Peer("broken", "cannot convert", broken),
    Peer("meter", "times itself", lambda subject: OwnMeter(lambda seconds: 4.0)),
)


@pytest.fixture(scope="module")
def bundle(tiny_chain, trace, tmp_path_factory):
    out = tmp_path_factory.mktemp("peers") / "ours"
    return export_chain(tiny_chain, out, resolution=SIZE, input="image", trace=trace)


@pytest.fixture
def exported_once(bundle, monkeypatch):
    monkeypatch.setattr(module, "export_chain", lambda *_, **__: bundle)


@pytest.fixture(scope="module")
def result(tiny_chain):
    peers = [named("depthmask, ONNX Runtime"), named("PyTorch eager"), *FAKES]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    found = compare_peers(
        tiny_chain,
        {"init_seed": 0},
        resolutions=[SIZE],
        threads=1,
        seconds=0,
        rounds=3,
        max_warmup_seconds=0,
        peers=peers,
    )
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    return found


def row(result, name):
    return next(row for row in result.rows if row.peer == name)


def test_peers_are_timed_and_compared_with_eager(result):
    ours, eager = row(result, "depthmask, ONNX Runtime"), row(result, "PyTorch eager")
    assert eager.difference == 0
    assert 0 < ours.difference < 1e-3
    assert ours.times_ours == 1
    assert eager.times_ours == pytest.approx(eager.p50_ms / ours.p50_ms)
    assert len(eager.latency.turns) == 3
    assert eager.ready_ms > 0


def test_a_fast_wrong_peer_is_shown_to_be_wrong(result):
    assert row(result, "wrong").difference == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "status", "problem"),
    [
        ("missing", "unavailable", "this peer needs the package nowhere, which is not installed"),
        ("broken", "failed", "RuntimeError: no kernel for this"),
        ("cropped", "failed", r"ValueError: a map must be (1, 1, 32, 32), but got (1, 1, 32, 31)"),
    ],
)
def test_a_peer_that_fails_is_a_row_that_says_why(result, name, status, problem):
    found = row(result, name)
    assert (found.status, found.problem) == (status, problem)
    assert found.p50_ms is None
    assert found.latency is None


def test_a_tool_that_times_itself_is_asked_once_a_round(result):
    found = row(result, "meter")
    assert found.own_medians_ms == (4.0, 4.0, 4.0)
    assert found.p50_ms == 4
    assert found.times_ours_interval is None  # three medians carry no interval


def test_the_table_has_a_row_for_every_peer(result):
    lines = markdown_peers(result).splitlines()
    assert lines[0] == "|  | 32: ms (times ours) | differs |"
    assert [line.split(" | ")[0] for line in lines[2:9]] == [
        f"| {found.peer}" for found in result.rows
    ]
    assert lines[6] == "| missing | unavailable | - |"
    assert "- broken at 32 failed: RuntimeError: no kernel for this" in lines


def test_without_ours_there_are_no_ratios(exported_once, tiny_chain):
    found = compare_peers(
        tiny_chain,
        {},
        resolutions=[SIZE],
        threads=1,
        seconds=0,
        rounds=1,
        max_warmup_seconds=0,
        peers=[FAKES[0]],
    )
    assert found.rows[0].times_ours is None
    assert "(-)" in markdown_peers(found)


def test_settings_are_checked():
    with pytest.raises(UsageError, match="rounds"):
        compare_peers(chains.build("lite", seed=0), {}, rounds=0)


def test_the_command_prints_json_and_writes_the_same(tmp_path, monkeypatch, exported_once):
    monkeypatch.setattr(module, "PEERS", [named("depthmask, ONNX Runtime"), FAKES[3]])
    out = tmp_path / "peers.json"
    options = ["--resolution", "32", "--threads", "1", "--seconds", "0", "--rounds", "1"]
    done = CliRunner().invoke(main, [*options, "--peers", "broken", "--json", "--out", str(out)])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed == json.loads(out.read_text())
    assert [found["status"] for found in printed["rows"]] == ["ok", "failed"]
    assert printed["preset"] == "lite"


def test_an_unknown_peer_is_a_usage_error():
    done = CliRunner().invoke(main, ["--peers", "nobody"])
    assert isinstance(done.exception, UsageError)
    assert "nobody" in str(done.exception)
