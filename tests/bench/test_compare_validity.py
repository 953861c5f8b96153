from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from depthmask.bench.compare_validity import (
    Kept,
    Subject,
    in_turns,
    judge,
    main,
    read_recording,
    record,
    windows,
    write_recording,
)
from depthmask.bench.machine import this_machine
from depthmask.bench.statistics import Recording
from depthmask.errors import InputError, UsageError
from depthmask.frames import Resolution


@pytest.fixture
def kept():
    """Two minutes of white noise around 20 ms."""
    noise = np.random.default_rng(0).standard_normal(6050)
    subject = Subject(
        machine=this_machine(),
        bundle="b",
        resolution="64x64",
        runtime="onnxruntime",
        threads=1,
    )
    return Kept(subject, Recording(20 * np.exp(0.03 * noise)))


def test_windows_are_disjoint_and_whole():
    samples_ms = np.arange(1.0, 1001)  # 500.5 s
    found = windows(Recording(samples_ms, speed_ms=2 * samples_ms), 100)
    assert len(found) == 5
    joined = np.concatenate([window.samples_ms for window in found])
    assert (joined == samples_ms[: joined.size]).all()
    assert all((window.speed_ms == 2 * window.samples_ms).all() for window in found)
    assert all(99 <= window.seconds <= 101 for window in found)


def test_dealing_out_in_turns_loses_nothing_and_pairs_neighbours():
    samples_ms = np.repeat(np.arange(1.0, 11.0), 125)  # 0.125 s of each, in ascending order
    a, b = in_turns(Recording(10 * samples_ms), 0)
    assert (a.rounds[-1], b.rounds[-1]) == (a.rounds.max(), a.rounds.max())
    both = np.sort(np.concatenate([a.samples_ms, b.samples_ms]))
    assert (both == 10 * samples_ms[: both.size]).all()
    pairs = np.stack([a.round_medians_ms(), b.round_medians_ms()])
    assert (pairs.max(0)[:-1] <= pairs.min(0)[1:]).all()
    assert 0 < (pairs[0] < pairs[1]).mean() < 1


def test_white_noise_gives_no_alarm_and_every_find(kept):
    found = judge(kept)
    assert found.same_next.pairs == 11
    assert found.same_far.pairs == 6
    assert found.same_next.counts.get("slower", 0) + found.same_next.counts.get("faster", 0) == 0
    assert found.slower_by_5_percent.counts == {"slower": 3}
    assert found.same_in_turns.pairs == 6
    assert set(found.same_in_turns.counts) <= {"no difference shown", "cannot tell"}
    assert found.slower_in_turns.counts == {"slower": 2}
    assert found.p50_ms == pytest.approx(20, rel=0.01)
    assert found.drift["0.1"] > 2 * found.drift["1"]


def test_a_short_recording_is_refused(kept):
    with pytest.raises(UsageError, match=r"60 s or longer, but is 20\.\d s"):
        judge(Kept(kept.subject, Recording(kept.recording.samples_ms[:1000])))


def test_a_recording_is_kept_and_judged_again(kept, tmp_path):
    path = tmp_path / "long.npz"
    write_recording(kept, path)
    again = read_recording(path)
    assert again.subject == kept.subject
    assert (again.recording.samples_ms == kept.recording.samples_ms).all()
    done = CliRunner().invoke(main, ["--recording", str(path), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["slower_by_5_percent"]["counts"] == {"slower": 3}
    done = CliRunner().invoke(main, ["--recording", str(path)])
    assert "30 s, the next one 5 % slower: 3 pairs: 3 slower" in done.output


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged"])
def test_a_damaged_recording_is_refused(tmp_path, content):
    path = tmp_path / "long.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="must be a recording by this program"):
        read_recording(path)


def test_a_bundle_is_recorded():
    pytest.importorskip("onnxruntime")
    kept = record(
        None, seconds=0.05, resolution=Resolution(64, 64), runtime="onnxruntime", threads=1
    )
    assert kept.recording.samples_ms.size >= 1
    assert kept.recording.seconds >= 0.045
    assert (kept.subject.resolution, kept.subject.runtime) == ("64", "onnxruntime")
