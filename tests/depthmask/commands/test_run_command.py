from __future__ import annotations

import json
import signal
import socket
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from depthmask.bundle import SHIPPED_BUNDLE
from depthmask.cli import main
from depthmask.frames import Resolution
from depthmask.pipeline import Pipeline, Prediction
from depthmask.video import v4l2


class FakePipeline:
    """The lower half is the foreground, its depth the frame's brightness in metres / 100."""

    runtime = SimpleNamespace(name="fake", device="cpu")
    manifest = SimpleNamespace(chain=SimpleNamespace(kind="foreground", depth_unit="m"))
    resolution = Resolution(64, 64)
    interrupt_at: int | None = None
    calls = 0

    def __call__(self, frame_HW3):
        if self.calls == self.interrupt_at:
            raise KeyboardInterrupt
        self.calls += 1
        mask_HW = np.zeros(frame_HW3.shape[:2], np.float32)
        mask_HW[len(mask_HW) // 2 :] = 1
        return Prediction(mask_HW, frame_HW3.mean(2, dtype=np.float32) / 100, {"inference": 3.0})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def pipeline(monkeypatch):
    fake = FakePipeline()
    fake.opened_with = []

    def fake_open(*arguments, **options):
        fake.opened_with.append((arguments, options))
        return fake

    monkeypatch.setattr(Pipeline, "open", fake_open)
    return fake


@pytest.fixture
def run(pipeline, tmp_path, monkeypatch, capsys):
    """`dmx run ...` in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["run", *map(str, arguments)])
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=captured.out, err=captured.err)

    return call


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "my photos"
    folder.mkdir()
    Image.new("RGB", (61, 43), (90, 100, 110)).save(folder / "a b.jpg")
    Image.new("L", (40, 50), 200).save(folder / "ç.png")
    return folder


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.options = {"g": "5", "preset": "ultrafast"}
        for index in range(20):
            noise = np.random.default_rng(index).integers(0, 255, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(noise, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def count_frames(path):
    with av.open(str(path)) as container:
        return len(list(container.decode(video=0)))


# Photographs


def test_masks_and_depths_of_a_folder(run, photos, tmp_path):
    result = run("--source", photos, "--view", "mask,depth", "--out", "out")
    assert result.code == 0, result.err
    assert names(tmp_path / "out") == [
        "a b.depth.png", "a b.mask.png", "depth.json", "ç.depth.png", "ç.mask.png",
    ]  # fmt: skip
    depth = cv2.imread(str(tmp_path / "out" / "ç.depth.png"), cv2.IMREAD_UNCHANGED)
    scale = json.loads((tmp_path / "out" / "depth.json").read_text("utf-8"))["scale"]
    assert depth.shape == (50, 40)
    assert depth.dtype == np.uint16
    assert np.allclose(depth * scale, 2.0, atol=scale)
    assert result.out == ""
    assert "2 frames" in result.err


def test_default_views_of_photographs(run, photos, tmp_path):
    assert run("--source", photos / "a b.jpg", "--out", "out").code == 0
    assert names(tmp_path / "out") == [
        "a b.depth.png", "a b.mask.png", "a b.overlay.png", "depth.json",
    ]  # fmt: skip


def test_photos_of_one_stem_keep_apart(run, photos, tmp_path):
    Image.new("RGB", (10, 12)).save(photos / "a b.png")
    assert run("--source", photos, "--view", "mask", "--out", "out").code == 0
    assert names(tmp_path / "out") == ["a b.jpg.mask.png", "a b.png.mask.png", "ç.mask.png"]


def test_json_is_all_there_is_on_stdout(run, photos):
    result = run("--source", photos, "--out", "out", "--json")
    document = json.loads(result.out)
    assert document["frames"] == 2
    assert document["inference_median_ms"] == 3.0
    assert document["complete"] is True
    assert document["runtime"] == "fake"


def test_corrupt_photo_among_several(run, photos, tmp_path):
    whole = (photos / "a b.jpg").read_bytes()
    (photos / "b.jpg").write_bytes(whole[: len(whole) // 2])
    result = run("--source", photos, "--view", "mask", "--out", "out", "--json")
    assert result.code == 3
    assert "b.jpg" in result.err
    assert "error: 1 of 3 could not be read" in result.err
    assert names(tmp_path / "out") == ["a b.mask.png", "ç.mask.png"]
    document = json.loads(result.out)
    assert not document["complete"]
    assert len(document["unreadable"]) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_no_photo_can_be_read(run, tmp_path, count):
    (tmp_path / "bad").mkdir()
    for index in range(count):
        (tmp_path / "bad" / f"{index}.jpg").write_text("<html></html>")
    result = run("--source", "bad", "--out", "out")
    assert result.code == 3
    assert "0.jpg" in result.err
    assert not (tmp_path / "out").exists()


def test_interrupted_photographs_leave_nothing(run, photos, pipeline, tmp_path):
    pipeline.interrupt_at = 1
    assert run("--source", photos, "--out", "out").code == 130
    assert names(tmp_path) == ["my photos"]


# Videos


def test_video_to_video(run, clip, tmp_path):
    result = run("--source", clip, "--view", "side", "--out", "new/out.mp4", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["frames"] == 20
    with av.open(str(tmp_path / "new" / "out.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [round(frame.time, 3) for frame in frames] == [index / 10 for index in range(20)]
    assert (frames[0].height, frames[0].width) == (48, 192)


def test_video_to_folder_with_limit(run, clip, tmp_path):
    assert run("--source", clip, "--view", "mask", "--out", "out", "--limit", 3).code == 0
    assert names(tmp_path / "out") == [f"clip_00000{index}.mask.png" for index in range(3)]


@pytest.mark.parametrize("out", ["out.mp4", "out"])
def test_truncated_video_keeps_what_was_there(run, clip, tmp_path, out):
    data = clip.read_bytes()
    clip.write_bytes(data[: int(0.7 * len(data))])
    result = run("--source", clip, "--view", "mask", "--out", out, "--json")
    assert result.code == 5
    assert "cut short" in result.err.splitlines()[-1]
    frames = json.loads(result.out)["frames"]
    assert 5 < frames < 20
    made = tmp_path / out
    assert (len(names(made)) if made.is_dir() else count_frames(made)) == frames


def test_interrupted_video_keeps_the_playable_part(run, clip, pipeline, tmp_path):
    pipeline.interrupt_at = 7
    result = run("--source", clip, "--out", "out.mp4")
    assert result.code == 130
    assert count_frames(tmp_path / "out.mp4") == 7
    assert names(tmp_path) == ["clip.mp4", "out.mp4"]


def test_interrupt_before_the_first_frame_keeps_the_old_video(run, clip, pipeline, tmp_path):
    pipeline.interrupt_at = 0
    (tmp_path / "out.mp4").write_text("old")
    assert run("--source", clip, "--out", "out.mp4", "--overwrite").code == 130
    assert (tmp_path / "out.mp4").read_text() == "old"
    assert names(tmp_path) == ["clip.mp4", "out.mp4"]


def test_video_to_a_folder_of_16_bit_depth(run, clip, tmp_path):
    result = run("--source", clip, "--view", "depth,side,cutout", "--out", "out", "--limit", 2)
    assert result.code == 0, result.err
    out = tmp_path / "out"
    assert names(out) == [
        *(f"clip_00000{index}.{view}.png" for index in (0, 1) for view in ("cutout", "depth", "side")),
        "depth.json",
    ]  # fmt: skip
    depth = cv2.imread(str(out / "clip_000001.depth.png"), cv2.IMREAD_UNCHANGED)
    document = json.loads((out / "depth.json").read_text())
    with av.open(str(clip)) as container:
        second = list(container.decode(video=0))[1].to_ndarray(format="rgb24")
    assert depth.dtype == np.uint16
    assert np.abs(depth * document["scale"] - second.mean(2) / 100).max() <= document["scale"]
    cutout = cv2.imread(str(out / "clip_000000.cutout.png"), cv2.IMREAD_UNCHANGED)
    assert cutout.shape == (48, 64, 4)  # transparent
    assert (cutout[:24, :, 3] == 0).all()
    assert (cutout[24:, :, 3] == 255).all()


def test_lines_of_a_video(run, clip, tmp_path):
    assert run("--source", clip, "--out", "out.jsonl").code == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(20))
    assert lines[3]["time_s"] == pytest.approx(0.3)
    assert lines[3]["mask"] == {"area": 0.5, "box": [0, 24, 64, 48]}
    assert lines[3]["timings_ms"] == {"inference": 3.0}


def test_lines_on_standard_output(run, photos):
    result = run("--source", photos, "--out", "-")
    assert [json.loads(line)["name"] for line in result.out.splitlines()] == ["a b", "ç"]
    assert "2 frames" in result.err


def test_cutout_of_a_video_is_on_green_unless_told_otherwise(run, clip, tmp_path):
    assert run("--source", clip, "--view", "cutout", "--out", "green.mp4").code == 0
    background = ("--background", "#0000ff")
    assert run("--source", clip, "--view", "cutout", *background, "--out", "blue.mp4").code == 0
    for name, channel in (("green.mp4", 1), ("blue.mp4", 2)):
        with av.open(str(tmp_path / name)) as container:
            shown = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert shown[8, 30, channel] > 230
        assert np.delete(shown[8, 30], channel).max() < 25


def test_photo_on_another_picture(run, photos, tmp_path):
    Image.new("RGB", (30, 30), (1, 2, 3)).save(tmp_path / "beach.png")
    result = run(
        "--source", photos, "--view", "cutout", "--background", "beach.png", "--out", "out"
    )
    assert result.code == 0, result.err
    shown = np.asarray(Image.open(tmp_path / "out" / "ç.cutout.png"))
    assert shown[5, 5].tolist() == [1, 2, 3]
    assert shown[45, 5].tolist() == [200, 200, 200]


@pytest.fixture
def still_clip(tmp_path):
    """Lossless, so that equal frames stay equal: 1 2 2 2 3."""
    path = tmp_path / "still.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "bgr0"
        for index, level in enumerate((50, 90, 90, 90, 200)):
            image = np.full((48, 64, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_skip_identical_gives_the_same_with_less_work(run, still_clip, pipeline, tmp_path):
    view = ("--source", still_clip, "--view", "depth,mask")
    assert run(*view, "--out", "all").code == 0
    assert pipeline.calls == 5
    result = run(*view, "--out", "fewer", "--skip-identical")
    assert result.code == 0, result.err
    assert pipeline.calls == 5 + 3
    assert "2 frames were identical" in result.err
    for path in (tmp_path / "all").iterdir():
        assert path.read_bytes() == (tmp_path / "fewer" / path.name).read_bytes()


def test_smoothing_is_off_unless_asked_for(run, still_clip, tmp_path):
    def depths(*options):
        assert run("--source", still_clip, *options, "--out", "o.jsonl", "--overwrite").code == 0
        lines = (tmp_path / "o.jsonl").read_text().splitlines()
        return [json.loads(line)["depth"]["median"] for line in lines]

    assert depths() == [0.5, 0.9, 0.9, 0.9, 2.0]
    # The picture jumps where the depth does, so that nothing is late.
    assert depths("--smooth-ms", 1000) == pytest.approx([0.5, 0.9, 0.9, 0.9, 2.0])


def test_port_in_use_is_one_line(run, clip):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("--source", clip, "--out", f"http://127.0.0.1:{port}/")
    assert result.code == 6
    assert len([line for line in result.err.splitlines() if line.startswith("error: ")]) == 1
    assert f"http://127.0.0.1:{port}/ cannot be listened on" in result.err


# What is refused, before the bundle is opened


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--source", "clip.mp4"), 2, "no display"),
        (("--source", "my photos"), 2, "--out must be given"),
        (("--source", "my photos", "--out", "out.mp4"), 2, "must be a folder for photographs"),
        (("--source", "my photos", "--out", "out.png"), 2, "--out must be a folder, or"),
        (
            ("--source", "clip.mp4", "--out", "o.mp4", "--view", "mask,depth"),
            2,
            "--view must be one",
        ),
        (
            ("--source", "clip.mp4", "--out", "o.mp4", "--view", "x-ray"),
            2,
            "must be one or several",
        ),
        (("--source", "clip.mp4", "--out", "o", "--view", ","), 2, "must be one or several"),
        (("--source", "clip.mp4", "--out", "o", "--resolution", "64,128"), 2, "must be one here"),
        (("--source", "clip.mp4", "--out", "clip.mp4", "--overwrite"), 2, "replace the source"),
        (("--source", "my photos/ç.png", "--out", "my photos", "--overwrite"), 2, "the source"),
        (("--source", "my photos/*.png", "--out", "my photos", "--overwrite"), 2, "the source"),
        (("--source", "cl*.mp4", "--out", "clip.mp4", "--overwrite"), 2, "replace the source"),
        (
            ("--source", "x" * 5000, "--out", "o"),
            3,
            "x" * 500 + " cannot be read: File name too long",
        ),
        (("--source", "clip.mp4", "--out", "there"), 2, "--overwrite"),
        (("--source", "clip.mp4", "--out", "there", "--overwrite"), 2, "precious.txt"),
        (("--source", "clip.mp4", "--out", "there/precious.txt/o.mp4"), 6, "cannot be written"),
        (("--source", "none.mp4", "--out", "o"), 3, "does not exist"),
        (("--source", "there", "--out", "o"), 3, "must hold images"),
        (("--source", "97", "--out", "o"), 4, "/dev/video97"),
        (("--out", "o"), 2, "--source"),
        (("--source", "clip.mp4", "--out", "o.json"), 2, "or .jsonl, but got o.json"),
        (("--source", "clip.mp4", "--out", "o.jsonl", "--view", "mask"), 2, "show no picture"),
        (("--source", "clip.mp4", "--out", "-", "--json"), 2, "both print on stdout"),
        (("--source", "clip.mp4", "--out", "no/o.jsonl"), 6, "cannot be written"),
        (("--source", "clip.mp4", "--out", "http://0.0.0.0:8090/"), 2, "this machine's own"),
        (("--source", "clip.mp4", "--out", "http://127.0.0.1/"), 2, "http://HOST:PORT/"),
        (("--source", "my photos", "--out", "http://127.0.0.1:1/"), 2, "a folder for photographs"),
        (
            ("--source", "clip.mp4", "--out", "o", "--background", "#fff000"),
            2,
            "with --view cutout",
        ),
        (
            ("--source", "clip.mp4", "--out", "o", "--view", "cutout", "--background", "clip.mp4"),
            3,
            "clip.mp4 must be a JPEG",
        ),
        (
            ("--source", "clip.mp4", "--out", "o", "--view", "cutout", "--background", "none.jpg"),
            3,
            "no such file",
        ),
        (
            ("--source", "clip.mp4", "--out", "o", "--view", "cutout", "--background", "#12"),
            2,
            "hexadecimal",
        ),
        (
            (
                "--source",
                "clip.mp4",
                "--out",
                "o.mp4",
                "--view",
                "cutout",
                "--background",
                "transparent",
            ),
            2,
            "only PNG files can be transparent",
        ),
        (("--source", "my photos", "--out", "o", "--smooth-ms", "9"), 2, "have no time"),
        (("--source", "my photos", "--out", "o", "--skip-identical"), 2, "have no time"),
        (("--source", "clip.mp4", "--out", "o", "--smooth-ms", "0"), 2, "--smooth-ms"),
    ],
)
def test_refusals(run, pipeline, photos, clip, tmp_path, arguments, code, message):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious.txt").write_text("mine")
    result = run(*arguments)
    assert result.code == code
    assert message in result.err
    assert len([line for line in result.err.splitlines() if line.startswith("error: ")]) == 1
    assert pipeline.opened_with == []
    assert names(tmp_path) == ["clip.mp4", "my photos", "there"]
    assert names(tmp_path / "there") == ["precious.txt"]


def test_overwrite_replaces(run, photos, tmp_path):
    assert run("--source", photos, "--out", "out").code == 0
    assert run("--source", photos, "--out", "out", "--view", "mask").code == 2
    assert run("--source", photos, "--out", "out", "--view", "mask", "--overwrite").code == 0
    assert names(tmp_path / "out") == ["a b.mask.png", "ç.mask.png"]


def test_options_reach_the_pipeline(run, photos, pipeline, tmp_path):
    run("b", "--source", photos, "--out", "o", "--runtime", "openvino", "--device", "cpu",
        "--threads", 2, "--resolution", "64")  # fmt: skip
    ((arguments, options),) = pipeline.opened_with
    assert [str(argument) for argument in arguments] == ["b", "openvino", "cpu", "2"]
    assert options == {
        "resolution": Resolution(64, 64),
        "check_files": True,
        "spin": False,
        "allow_fallback": False,
    }


def test_window(run, clip, monkeypatch):
    shown, sizes = [], []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "resizeWindow", lambda _, *size: sizes.append(size))
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
    monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image.shape))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 4 else -1)
    result = run("--source", clip)
    assert result.code == 0, result.err
    assert shown == [(48, 64, 3)] * 4
    assert sizes == [(64, 48)]


def test_statistics_file(run, clip, tmp_path):
    result = run("--source", clip, "--out", "out.mp4", "--stats", "stats.json", "--json")
    assert result.code == 0, result.err
    document = json.loads((tmp_path / "stats.json").read_text("utf-8"))
    assert document["frames"] == document["age"]["count"] == 20
    assert document["inference"]["p50_ms"] == 3.0
    assert set(document["stages"]) == {"predict", "draw", "write"}
    assert document["dropped"] == {"captured": 0, "handed_over": 0, "late": 0}
    assert document["losses"] == document["decode_errors"] == 0
    assert run("--source", clip, "--out", "o.mp4", "--stats", "stats.json").code == 2


def test_live_pattern_says_how_old_its_frames_are(run):
    pattern = "lavfi:testsrc2=size=64x48:rate=50:duration=0.4,realtime"
    result = run("--source", pattern, "--out", "out.mkv", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["kind"] == "camera"
    assert "age p50/p95/p99" in result.err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--max-age-ms", 100), 2, "must go with a live source"),
        (("--camera-size", "640x480"), 2, "must go with a camera"),
        (("--camera-size", "640"), 2, "must be WIDTHxHEIGHT"),
        (("--stats", "none/stats.json"), 6, "not a writable folder"),
    ],
)
def test_live_options_that_do_not_fit(run, clip, options, code, message):
    result = run("--source", clip, "--out", "out.mp4", *options)
    assert result.code == code
    assert message in result.err


def test_cameras_are_listed(run, monkeypatch):
    modes = (v4l2.CameraMode("mjpeg", 640, 480, (30.0, 15.0)),)
    found = (
        v4l2.Camera(Path("/dev/video0"), "A [red] camera", modes),
        v4l2.Camera(Path("/dev/video2"), "", (), "Permission denied"),
    )
    monkeypatch.setattr(v4l2, "list_cameras", lambda: found)
    result = run("--list-cameras")
    assert result.code == 0
    assert result.out.splitlines() == [
        "/dev/video0: A [red] camera",
        "  mjpeg 640x480 at 30, 15 fps",
        "/dev/video2: Permission denied",
    ]
    monkeypatch.setattr(v4l2, "list_cameras", lambda: ())
    assert "no camera" in run("--list-cameras").err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_run_and_keep_the_video(run, clip, pipeline, monkeypatch, tmp_path, number):
    real = FakePipeline.__call__

    def call(self, frame_HW3):
        if self.calls == 5:
            signal.raise_signal(number)
        return real(self, frame_HW3)

    monkeypatch.setattr(FakePipeline, "__call__", call)
    result = run("--source", clip, "--out", "out.mp4")
    assert result.code == 130
    assert "error: interrupted" in result.err
    assert 1 <= count_frames(tmp_path / "out.mp4") <= 8
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_help_has_an_example(run):
    result = run("--help")
    assert result.code == 0
    assert "dmx run --source 0" in result.out


# The real thing


@pytest.mark.skipif(not SHIPPED_BUNDLE.is_dir(), reason="no bundle is shipped yet")
def test_shipped_bundle_on_a_shipped_photo(tmp_path, monkeypatch, capsys):
    photo = SHIPPED_BUNDLE.parent / "samples" / "photos" / "coffee.jpg"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["run", "--source", str(photo), "--out", "out", "--threads", "1", "--json"])
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert document["frames"] == 1
    assert document["inference_median_ms"] > 0
    size = Image.open(photo).size
    assert {Image.open(path).size for path in (tmp_path / "out").glob("*.png")} == {size}
    mask = cv2.imread(str(tmp_path / "out" / "coffee.mask.png"), cv2.IMREAD_UNCHANGED)
    assert 0.02 < (mask > 127).mean() < 0.9
