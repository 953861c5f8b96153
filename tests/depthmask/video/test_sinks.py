from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from depthmask.errors import OutputError, UsageError
from depthmask.pipeline import Prediction
from depthmask.video.overlay import Look
from depthmask.video.sinks import (
    FolderSink,
    check_folder,
    depth_scale,
    encode_depth,
    has_display,
)
from depthmask.video.sources import Frame, open_source
from depthmask.video.video_file import VideoSink

METRES = Look("foreground", "m")


def frame(index=0, size=(48, 64), name=None, time_s=None):
    image_HW3 = np.full((*size, 3), 40 + 5 * index, np.uint8)
    return Frame(image_HW3, name or f"f{index}", index, index / 10 if time_s is None else time_s)


def write_then_fail(sink, prediction):
    with sink:
        sink.write(frame(), prediction)
        raise RuntimeError


def read_grey(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


# A folder of PNG files


def test_files_have_the_frames_size_and_the_predictions_values(tmp_path, prediction_of):
    prediction = prediction_of(48, 64)
    with FolderSink(tmp_path / "out", ("mask", "depth"), METRES) as sink:
        sink.write(frame(name="a photo é"), prediction)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a photo é.depth.png", "a photo é.mask.png", "depth.json"]
    mask = read_grey(tmp_path / "out" / names[1])
    assert mask.dtype == np.uint8
    assert np.abs(mask / 255 - prediction.mask_HW).max() <= 0.5 / 255 + 1e-6
    depth = read_grey(tmp_path / "out" / names[0])
    document = json.loads((tmp_path / "out" / "depth.json").read_text("utf-8"))
    assert depth.dtype == np.uint16
    assert document["unit"] == "m"
    assert np.abs(depth * document["scale"] - prediction.depth_HW).max() <= document["scale"]


def test_without_depth_there_is_no_depth_json(tmp_path, prediction_of):
    with FolderSink(tmp_path / "out", ("overlay", "side"), METRES) as sink:
        sink.write(frame(), prediction_of(48, 64))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "f0.overlay.png",
        "f0.side.png",
    ]


def test_nothing_is_left_of_a_run_that_failed(tmp_path, prediction_of):
    with pytest.raises(RuntimeError):
        write_then_fail(FolderSink(tmp_path / "out", ("mask",), METRES), prediction_of(48, 64))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_end_leaves_nothing(tmp_path, prediction_of, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    def write():
        with FolderSink(tmp_path / "out", ("depth",), METRES) as sink:
            sink.write(frame(), prediction_of(48, 64))
            monkeypatch.setattr(Path, "write_bytes", full)

    with pytest.raises(OutputError, match="No space left on device"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_read_is_an_output_error(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="Permission denied"):
        check_folder(tmp_path / "out", overwrite=True)


def test_two_frames_of_one_name_are_refused(tmp_path, prediction_of):
    with FolderSink(tmp_path / "out", ("mask",), METRES) as sink:
        sink.write(frame(name="a"), prediction_of(48, 64))
        with pytest.raises(OutputError, match="written twice"):
            sink.write(frame(name="a"), prediction_of(48, 64))


def test_relative_depth_keeps_one_scale_and_counts_what_is_beyond_it(tmp_path):
    ones = np.ones((4, 4), np.float32)
    with FolderSink(tmp_path / "out", ("depth",), Look("relevance", "relative")) as sink:
        sink.write(frame(0), Prediction(ones, 0.5 * ones))
        sink.write(frame(1), Prediction(ones, 1e4 * ones))
    document = json.loads((tmp_path / "out" / "depth.json").read_text())
    assert document["unit"] == "relative"
    assert read_grey(tmp_path / "out" / "f0.depth.png")[0, 0] * document["scale"] == pytest.approx(
        0.5
    )
    assert document["clipped_pixels"] == {"f1.depth.png": 16}


def test_encoded_depth():
    depth_HW = np.array([[1.5, np.nan, np.inf, -np.inf], [0, -2, 65.535, 70]], np.float32)
    encoded = encode_depth(depth_HW, 0.001)
    assert encoded.steps_HW.tolist() == [[1500, 0, 0, 0], [1, 1, 65535, 65535]]
    assert encoded.clipped == 2  # -2 and 70; 0 is one step off, as 0 means no value


@pytest.mark.parametrize("largest", [1e-6, 0.3, 1.0, 80.0, 1e5])
def test_scale_of_relative_depth_is_fine_and_has_room(largest):
    scale = depth_scale(np.array([[0, largest]], np.float32), "relative")
    assert 1500 < largest / scale < 65535 / 3.9


def test_scale_where_there_is_no_depth():
    assert depth_scale(np.full((2, 2), np.nan, np.float32), "relative") > 0
    assert depth_scale(np.zeros((2, 2), np.float32), "relative") > 0


def test_overwriting_never_destroys_other_things(tmp_path, prediction_of):
    out = tmp_path / "out"
    with FolderSink(out, ("mask", "depth"), METRES) as sink:
        sink.write(frame(), prediction_of(48, 64))
    with pytest.raises(UsageError, match="--overwrite"):
        check_folder(out, overwrite=False)
    check_folder(out, overwrite=True)
    (out / "thesis.doc").write_text("mine")
    with pytest.raises(UsageError, match=r"thesis\.doc"):
        check_folder(out, overwrite=True)


# A video file


def test_video_carries_times_and_colours_over(tmp_path, prediction_of):
    times_s = [5.0, 5.1, 5.7, 5.8]
    with VideoSink(tmp_path / "out.mp4", "mask", METRES, fps=10) as sink:
        for index, time_s in enumerate(times_s):
            sink.write(frame(index, time_s=time_s - 5), prediction_of(48, 64))
    with open_source(str(tmp_path / "out.mp4")) as source:
        frames = list(source)
    assert np.allclose([f.time_s for f in frames], np.array(times_s) - 5, atol=1e-3)
    assert frames[0].image_HW3[24, 32].min() > 250
    assert frames[0].image_HW3[2, 2].max() < 5
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


def test_overlay_colours_survive(tmp_path, prediction_of):
    red = Frame(np.full((48, 64, 3), (220, 20, 60), np.uint8), "a", 0, 0.0)
    ones = np.ones((48, 64), np.float32)
    prediction = Prediction(ones, ones)
    with VideoSink(tmp_path / "out.mp4", "overlay", METRES, fps=10) as sink:
        sink.write(red, prediction)
    with FolderSink(tmp_path / "png", ("overlay",), METRES) as png:
        png.write(red, prediction)
    expected = cv2.imread(str(tmp_path / "png" / "a.overlay.png"))[24, 32, ::-1]
    with open_source(str(tmp_path / "out.mp4")) as source:
        shown = next(iter(source)).image_HW3[24, 32]
    assert np.abs(shown.astype(int) - expected).max() <= 4


@pytest.mark.parametrize(
    ("size", "stored"), [((47, 63), (48, 64)), ((48, 63), (48, 64)), ((1, 1), (2, 2))]
)
def test_odd_sizes_get_one_more_pixel(tmp_path, prediction_of, size, stored):
    with VideoSink(tmp_path / "out.mp4", "overlay", METRES, fps=10) as sink:
        for index in range(3):
            sink.write(frame(index, size), prediction_of(*size))
    with open_source(str(tmp_path / "out.mp4")) as source:
        assert [f.image_HW3.shape[:2] for f in source] == [stored] * 3


def test_size_that_changes_in_the_middle_is_fitted(tmp_path, prediction_of):
    with VideoSink(tmp_path / "out.mp4", "mask", METRES, fps=10) as sink:
        sink.write(frame(0, (48, 64)), prediction_of(48, 64))
        sink.write(frame(1, (96, 64)), prediction_of(96, 64))
    with open_source(str(tmp_path / "out.mp4")) as source:
        assert [f.image_HW3.shape for f in source] == [(48, 64, 3)] * 2


def test_times_that_stand_still_or_are_missing(tmp_path, prediction_of):
    with VideoSink(tmp_path / "out.mkv", "mask", METRES, fps=None) as sink:
        for index, time_s in enumerate([0.0, 0.0, -1.0]):
            sink.write(frame(index, time_s=time_s), prediction_of(48, 64))
        sink.write(Frame(frame().image_HW3, "x", 3, None), prediction_of(48, 64))
    with open_source(str(tmp_path / "out.mkv")) as source:
        assert len(list(source)) == 4


def test_without_x264_it_is_mpeg4(tmp_path, prediction_of, monkeypatch):
    monkeypatch.setattr(av.codec, "codecs_available", {"mpeg4"})
    with VideoSink(tmp_path / "out.mp4", "mask", METRES, fps=10) as sink:
        for index in range(3):
            sink.write(frame(index), prediction_of(48, 64))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
        assert len(list(container.decode(video=0))) == 3


def test_failed_video_leaves_the_old_one(tmp_path, prediction_of):
    (tmp_path / "out.mp4").write_text("old")
    sink = VideoSink(tmp_path / "out.mp4", "mask", METRES, fps=10, overwrite=True)
    with pytest.raises(RuntimeError):
        write_then_fail(sink, prediction_of(48, 64))
    assert (tmp_path / "out.mp4").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


_KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from depthmask.pipeline import Prediction
from depthmask.video.overlay import Look
from depthmask.video.frame import Frame
from depthmask.video.video_file import VideoSink

ones = np.ones((48, 64), np.float32)
with VideoSink(Path(sys.argv[1]), "overlay", Look(), fps=10) as sink:
    for index in range(60):
        noise = np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8)
        sink.write(Frame(noise, "x", index, index / 10), Prediction(ones, ones))
    os.kill(os.getpid(), 9)
"""


def test_killed_run_leaves_a_playable_file(tmp_path):
    result = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "out.mp4")], check=False)
    assert result.returncode == -9
    (part,) = tmp_path.iterdir()
    assert part.name.startswith("out.partial-")
    with av.open(str(part)) as container:
        assert len(list(container.decode(video=0))) >= 45  # all but the last second or so


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with (
        pytest.raises(OutputError),
        VideoSink(tmp_path / "locked" / "out.mp4", "mask", METRES, fps=10),
    ):
        pass


def test_full_disk_is_an_output_error(prediction_of, tmp_path, monkeypatch):
    sink = VideoSink(tmp_path / "out.mp4", "mask", METRES, fps=10)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink, "_mux", full)
    with pytest.raises(OutputError, match="No space left"), sink:
        sink.write(frame(), prediction_of(48, 64))
    assert list(tmp_path.iterdir()) == []


def test_display(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not has_display()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert has_display()
