from __future__ import annotations

import io
import subprocess
import sys

import msgspec
import pytest
from click.testing import CliRunner
from rich.console import Console

from depthmask.bench.peaks import Peaks, Rate
from depthmask.bench.roofline import Roofline, main, roofline
from depthmask.bench.roofline_table import rich_roofline
from depthmask.bundle import open_bundle
from depthmask.errors import UsageError
from depthmask.frames import Resolution

SMALLEST = Resolution(64, 64)
FRAME = Resolution(48, 64)


def rate(best, median=None):
    return Rate(best=best, median=median or best, worst=1.0, repeats=9, how="by [hand]")


@pytest.fixture(scope="module")
def peaks():
    return Peaks(
        threads=1,
        fp32_flop_per_s=rate(100e9),
        int8_op_per_s=None,
        memory_bytes_per_s=rate(20e9),
    )


@pytest.fixture(scope="module")
def found(peaks):
    bundle = open_bundle(check_files=False)
    return roofline(
        bundle, SMALLEST, threads=1, frame_size=FRAME, peaks=peaks, seconds=0, profiled_runs=1
    )


def shown(found):
    console = Console(file=io.StringIO(), width=100)
    console.print(rich_roofline(found))
    return console.file.getvalue()


def test_the_shares_follow_from_work_time_and_peaks(found, peaks):
    assert found.inference_runs >= 30
    least_ms = 1e3 * max(1e9 * found.work.gflop / 100e9, found.work.moved_bytes / 20e9)
    assert found.reached.share == pytest.approx(least_ms / found.inference_p50_ms)
    assert found.peaks == peaks
    assert (found.height_px, found.frame_height_px, found.threads) == (64, 48, 1)
    assert msgspec.convert(msgspec.to_builtins(found), Roofline) == found


def test_the_table_has_ten_nodes_and_every_figure(found):
    text = shown(found)
    slowest = text.split("slowest nodes")[1].split("Nodes:")[0]
    assert len([line for line in slowest.splitlines() if "%" in line]) == 10
    for said in (
        "lite-bundle fp32 at 64, frames of 48x64, onnxruntime, threads 1",
        "Peak fp32: 100.0 GFLOP/s, the best of 9 (median 100.0); by [hand]",
        "Peak int8: not measured; it needs the packages onnx and onnxruntime",
        "Peak memory: 20.0 GB/s",
        f"{found.reached.share:.0%} of the",
    ):
        assert said in text
    assert "caches" not in text
    assert "busy" not in text


def test_the_table_says_what_spoils_its_figures(found, peaks):
    busy = msgspec.structs.replace(peaks, fp32_flop_per_s=rate(100e9, 60e9))
    fast = msgspec.structs.replace(found.reached, share=1.2)
    text = shown(msgspec.structs.replace(found, peaks=busy, reached=fast, spoilt_by=("heat",)))
    assert "the machine was busy" in text
    assert "Above 100 %: caches" in text
    assert "No fair time of inference: heat." in text


def test_a_time_measured_before_is_taken(peaks):
    bundle = open_bundle(check_files=False)
    given = {"frame_size": FRAME, "peaks": peaks, "inference_p50_ms": 4.0, "profiled_runs": 1}
    found = roofline(bundle, SMALLEST, "openvino", 1, **given)
    assert (found.inference_p50_ms, found.inference_runs) == (4.0, None)
    with pytest.raises(UsageError, match="torch"):
        roofline(bundle, SMALLEST, "torch", 1, **given)


def test_the_command_prints_json_and_nothing_else(peaks, monkeypatch):
    monkeypatch.setattr(
        "depthmask.bench.roofline.measure_peaks",
        lambda threads: msgspec.structs.replace(peaks, threads=threads),
    )
    options = ["--resolution", "64", "--frame-size", "48x64", "--threads", "1", "--seconds", "0"]
    done = CliRunner().invoke(main, [*options, "--json"], catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    found = msgspec.json.decode(done.stdout, type=Roofline)
    assert found.peaks == peaks
    assert (found.frame_height_px, found.frame_width_px) == (48, 64)
    assert found.node_times.runtime == "onnxruntime"


def test_two_sizes_are_refused():
    with pytest.raises(UsageError, match="--resolution must be one size, but got 2"):
        CliRunner().invoke(main, ["--resolution", "64,128"], catch_exceptions=False)


def test_a_users_mistake_is_one_line(tmp_path):
    command = [sys.executable, "-m", "depthmask.bench.roofline", "no-such-bundle"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("error: no-such-bundle must be a bundle")
    assert done.stderr.count("\n") == 1
