from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from depthmask.errors import OutputError
from depthmask.pipeline import Prediction
from depthmask.video.frame import Frame
from depthmask.video.lines_sink import LinesSink
from depthmask.video.overlay import Look

METRES = Look("foreground", "m")


def frame(index=0, size=(40, 60)):
    return Frame(np.zeros((*size, 3), np.uint8), f"clip_{index:06d}", index, index / 10)


def boxed():
    """A mask over rows 10 to 19 and columns 20 to 49, depths there 2 m to 4 m, 9 m elsewhere."""
    mask_HW, depth_HW = np.zeros((40, 60), np.float32), np.full((40, 60), 9, np.float32)
    mask_HW[10:20, 20:50] = 1
    depth_HW[10:20, 20:50] = np.linspace(2, 4, 30)
    return Prediction(mask_HW, depth_HW, {"inference": 2.5})


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_a_line_for_each_frame(tmp_path):
    with LinesSink(tmp_path / "out.jsonl", METRES) as sink:
        for index in range(3):
            sink.write(frame(index), boxed())
            assert len(read(tmp_path / "out.jsonl")) == index + 1  # at once, not at the end
    first, _, third = read(tmp_path / "out.jsonl")
    assert (third["index"], third["name"], third["time_s"]) == (2, "clip_000002", 0.2)
    assert (first["width"], first["height"]) == (60, 40)
    assert first["mask"] == {"area": 300 / 2400, "box": [20, 10, 50, 20]}
    depth = first["depth"]
    assert (depth["unit"], depth["of"], depth["min"], depth["max"]) == ("m", "mask", 2.0, 4.0)
    assert depth["median"] == pytest.approx(3, abs=0.01)
    assert depth["mean"] == pytest.approx(3, abs=0.01)
    assert first["timings_ms"] == {"inference": 2.5}


def test_relevance_chain_counts_the_whole_frame(tmp_path):
    with LinesSink(tmp_path / "out.jsonl", Look("relevance", "relative")) as sink:
        sink.write(frame(), boxed())
    (line,) = read(tmp_path / "out.jsonl")
    assert (line["depth"]["of"], line["depth"]["max"]) == ("frame", 9.0)


def test_nothing_to_measure_is_null(tmp_path):
    empty = Prediction(np.zeros((40, 60), np.float32), np.full((40, 60), np.nan, np.float32))
    photo = Frame(frame().image_HW3, "cat", 0)
    with LinesSink(tmp_path / "out.jsonl", METRES) as sink:
        sink.write(photo, empty)
    (line,) = read(tmp_path / "out.jsonl")
    assert line["time_s"] is None
    assert line["depth"] is None
    assert line["mask"] == {"area": 0.0, "box": None}


def test_standard_output(capsys):
    with LinesSink(None, METRES) as sink:
        sink.write(frame(), boxed())
    assert json.loads(capsys.readouterr().out)["index"] == 0


_WRITES = """
import numpy as np
from depthmask.pipeline import Prediction
from depthmask.video.frame import Frame
from depthmask.video.lines_sink import LinesSink
from depthmask.video.overlay import Look

ones, written = np.ones((8, 8), np.float32), 0
with LinesSink(None, Look()) as sink:
    while sink.is_open and written < 100000:
        sink.write(Frame(np.zeros((8, 8, 3), np.uint8), "a", written, 0.0), Prediction(ones, ones))
        written += 1
assert written < 100000
"""


def test_reader_that_goes_away_ends_the_run_quietly():
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITES], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert json.loads(process.stdout.readline())["index"] == 0
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_an_output_error(tmp_path):
    (tmp_path / "out.jsonl").symlink_to("/dev/full")
    with (
        pytest.raises(OutputError, match="No space left"),
        LinesSink(tmp_path / "out.jsonl", METRES) as sink,
    ):
        sink.write(frame(), boxed())


def test_folder_that_is_not_there(tmp_path):
    with (
        pytest.raises(OutputError, match="cannot be written"),
        LinesSink(tmp_path / "none" / "out.jsonl", METRES),
    ):
        pass
