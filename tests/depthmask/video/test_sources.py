from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from depthmask.errors import InputError, SourceLostError, UnavailableError, UsageError
from depthmask.video import cameras
from depthmask.video.images import unique_names
from depthmask.video.names import without_credentials
from depthmask.video.sources import Frame, local_paths, open_source


def photo(path, level=100, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)
    return path


def test_the_paths_that_a_source_names(tmp_path):
    photos = [photo(tmp_path / name) for name in ("a.png", "b[1].png")]
    assert local_paths(str(photos[1])) == [photos[1]]
    assert local_paths(f"{tmp_path}/*.png") == photos
    for text in ("0", "/dev/video0", "rtsp://" + "x" * 5000, "HTTP://host/a.png", "none.png"):
        assert local_paths(text) == []


def read_all(text):
    with open_source(str(text)) as source:
        return list(source)


def read_until_lost(source):
    frames = []
    try:
        for frame in source:
            frames.append(frame)  # noqa: PERF402  (extend would drop them at the error)
    except SourceLostError as lost:
        return frames, lost
    pytest.fail("the source was not lost")


def keep_share(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


# Photographs


def test_folder_gives_its_images_sorted_and_nothing_else(tmp_path):
    for name in ("b.png", "a.JPG", "c é ü.webp", ".hidden.png"):
        photo(tmp_path / name)
    photo(tmp_path / "inner" / "deep.png")
    (tmp_path / "notes.txt").write_text("no image")
    with open_source(str(tmp_path)) as source:
        assert (source.kind, source.count, source.fps) == ("images", 3, None)
        frames = list(source)
    assert [frame.name for frame in frames] == ["a", "b", "c é ü"]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert frames[0].image_HW3.shape == (30, 40, 3)
    assert frames[0].time_s is None


def test_labels_beside_their_photo_are_not_photos(tmp_path):
    for name in ("a.jpg", "a.mask.png", "a.depth.png", "b.mask.png"):
        photo(tmp_path / name)
    assert [frame.name for frame in read_all(tmp_path)] == ["a", "b.mask"]


def test_empty_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="must hold images"):
        open_source(str(tmp_path))


def test_glob(tmp_path):
    for name in ("a1.png", "a2.png", "b1.png"):
        photo(tmp_path / name)
    assert [frame.name for frame in read_all(tmp_path / "a*.png")] == ["a1", "a2"]
    with pytest.raises(InputError, match="nothing matches"):
        open_source(str(tmp_path / "z*.png"))


def test_name_with_brackets_is_no_glob(tmp_path):
    photo(tmp_path / "a[1].png")
    assert [frame.name for frame in read_all(tmp_path / "a[1].png")] == ["a[1]"]


def test_image_is_known_by_its_bytes(tmp_path):
    photo(tmp_path / "a.png").rename(tmp_path / "a.dat")
    assert read_all(tmp_path / "a.dat")[0].image_HW3[0, 0].tolist() == [100, 100, 100]


def test_unreadable_photos_are_left_out_and_named(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        photo(tmp_path / name)
    keep_share(tmp_path / "b.jpg", 0.6)
    (tmp_path / "c.jpg").write_text("<html><body>404</body></html>")
    with open_source(str(tmp_path)) as source:
        assert [frame.name for frame in source] == ["a", "d"]
        assert len(source.unreadable) == 2
        assert "b.jpg" in str(source.unreadable[0])
        assert "HTML" in str(source.unreadable[1])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.jpg", "b.jpg"], ["a", "b"]),
        (["a.jpg", "a.png", "b.jpg"], ["a.jpg", "a.png", "b"]),
        (["a.jpg", "A.png"], ["a.jpg", "A.png"]),
        (["x/a.jpg", "y/a.jpg"], ["x_a", "y_a"]),
        (["x/a.jpg", "x/a.png", "y/a.jpg"], ["x_a", "a.png", "y_a"]),
        (["p/x/a.jpg", "q/x/a.jpg"], ["x_a.jpg-1", "x_a.jpg-2"]),
    ],
)
def test_names_are_unique(paths, names):
    assert unique_names([Path(path) for path in paths]) == names


# Files that are neither


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"hello world\n" * 50),  # libavformat would show it as a teletype
        ("page.html", b"<html><body>404</body></html>"),
        ("empty.mp4", b""),
        ("empty.jpg", b""),
        ("noise.mp4", bytes(range(256)) * 20),
        ("page.jpg", b"<!doctype html><html></html>"),
    ],
)
def test_neither_image_nor_video(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert name in input_error(tmp_path / name)


def input_error(path):
    """Its message, whether it comes at opening or as an unreadable photo."""
    try:
        with open_source(str(path)) as source:
            assert list(source) == []
            return str(source.unreadable[0])
    except InputError as error:
        return str(error)


def test_missing_file():
    with pytest.raises(InputError, match="does not exist"):
        open_source("no/such/file.mp4")


def test_sound_only(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        samples = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        samples.rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    with pytest.raises(InputError, match="only sound"):
        open_source(str(path))


# Videos


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_every_frame_in_order_with_its_time(tmp_path, write_video, suffix):
    path = write_video(tmp_path / f"clip 1:ü{suffix}")
    with open_source(str(path)) as source:
        assert (source.kind, source.fps, source.count) == ("video", 10.0, 20)
        frames = list(source)
    levels = [int(frame.image_HW3[40, 40].mean()) for frame in frames]
    assert np.allclose(levels, [20 + 6 * index for index in range(20)], atol=3)
    assert np.allclose([frame.time_s for frame in frames], np.arange(20) / 10, atol=2e-3)
    assert frames[3].name == "clip_1_ü_000003"


def test_colour_range(tmp_path, write_video):
    frame = read_all(write_video(tmp_path / "clip.mp4"))[0]
    assert np.allclose(frame.image_HW3[4, 4], (200, 30, 30), atol=6)


def test_full_range_is_not_stretched(tmp_path):
    path = tmp_path / "full.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 245, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert abs(int(read_all(path)[0].image_HW3[9, 9].mean()) - 245) <= 2


@pytest.mark.parametrize(
    ("rotation", "corner"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))]
)
def test_rotation_counterclockwise_is_applied(tmp_path, write_video, rotation, corner):
    path = write_video(tmp_path / "clip.mp4", 3, rotation=rotation)
    image_HW3 = read_all(path)[0].image_HW3
    assert image_HW3.shape == ((48, 64, 3) if rotation % 180 == 0 else (64, 48, 3))
    quarter = image_HW3[corner[0] * 12 + (6 if corner[0] == 0 else 0)]
    red = quarter[corner[1] * 12 + (6 if corner[1] == 0 else 0)]
    assert red[0] > 150 > red[1]


def test_uneven_times_are_carried_over(tmp_path, write_video):
    path = write_video(tmp_path / "clip.mkv", 4, ticks=[0, 1, 5, 6])
    times_s = [frame.time_s for frame in read_all(path)]
    assert np.allclose(times_s, [0, 0.1, 0.5, 0.6], atol=2e-3)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".mp4", {"movflags": "faststart"}),
        (".mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
        (".mkv", {}),
        (".avi", {}),
    ],
)
def test_truncated_video_gives_what_is_there_then_says_so(tmp_path, write_video, suffix, options):
    path = write_video(tmp_path / f"clip{suffix}", options=options)
    with open_source(str(keep_share(path, 0.7))) as source:
        frames, error = read_until_lost(source)
    assert 5 < len(frames) < 20
    assert f"{len(frames)} frames" in str(error)
    assert "cut short" in str(error)
    assert error.exit_code == 5


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_pictures_left_out_by_the_camera_are_no_loss(tmp_path, write_video, suffix):
    path = write_video(tmp_path / f"clip{suffix}", 4, ticks=[0, 1, 30, 40])
    assert len(read_all(path)) == 4


def test_video_without_its_index(tmp_path, write_video):
    path = keep_share(write_video(tmp_path / "clip.mp4"), 0.7)
    with pytest.raises(InputError, match="cut short: its index is missing"):
        open_source(str(path))


def test_stopping_early_is_no_loss(tmp_path, write_video):
    path = write_video(tmp_path / "clip.mp4", options={"movflags": "faststart"})
    with open_source(str(keep_share(path, 0.7))) as source:
        assert next(iter(source)).index == 0


# Cameras and addresses


@pytest.mark.parametrize("text", ["97", "/dev/video97"])
def test_absent_camera_names_what_there_is(text):
    with pytest.raises(
        UnavailableError, match=r"/dev/video97 must exist.*(there are|no camera)"
    ) as error:
        open_source(text)
    assert error.value.exit_code == 4


def test_device_that_is_no_camera():
    with pytest.raises(UnavailableError, match="cannot be opened"):
        cameras.open_camera(Path("/dev/null"))


def test_camera_options_need_a_camera(tmp_path, write_video):
    path = write_video(tmp_path / "clip.mp4", 3)
    with pytest.raises(UsageError, match="must go with a camera"):
        open_source(str(path), camera=cameras.CameraRequest(format="mjpeg"))
    with pytest.raises(UsageError, match="width and height"):
        cameras.CameraRequest(width=640)


def test_address_without_a_server_hides_the_password():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{unused.getsockname()[1]}/cam"
        with pytest.raises(SourceLostError, match="cannot be opened") as error:
            open_source(url)
    assert "secret" not in str(error.value)
    # Nor in the traceback that --debug shows: PyAV's error holds the address.
    assert error.value.__context__ is error.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://host/cam", "rtsp://host/cam"),
        ("rtsp://user:secret@host:554/cam", "rtsp://host:554/cam"),
        ("rtsp://user:s@cr/e?t@host/cam", "rtsp://host/cam"),
        ("http://host/cam?user=me&pwd=secret", "http://host/cam"),
        ("http://me:secret@host/cam?pwd=sec@ret#x", "http://ret"),
    ],
)
def test_addresses_are_shown_without_what_is_secret(url, shown):
    assert without_credentials(url) == shown


def test_an_unknown_kind_of_address_hides_the_password():
    with pytest.raises(InputError, match="does not exist") as error:
        open_source("gopher://user:secret@host/cam")
    assert "secret" not in str(error.value)


def test_named_pipe_and_standard_input(tmp_path, write_video, monkeypatch):
    data = write_video(tmp_path / "clip.mkv", 6).read_bytes()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True).start()
    frames = read_all(pipe)
    assert [frame.name for frame in frames] == [f"pipe_00000{index}" for index in range(6)]
    script = "from depthmask.video.sources import open_source; print(len(list(open_source('-'))))"
    given = subprocess.run(
        [sys.executable, "-c", script], input=data, capture_output=True, check=True
    )
    assert given.stdout.strip() == b"6"


def test_size_that_changes_in_mid_stream_is_followed(tmp_path, write_video):
    parts = [
        write_video(tmp_path / f"{size[0]}.ts", 4, size=size).read_bytes()
        for size in ((48, 64), (96, 80))
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    with open_source(str(tmp_path / "both.ts")) as source:
        sizes = [frame.image_HW3.shape[:2] for frame in source]
    assert list(dict.fromkeys(sizes)) == [(48, 64), (96, 80)]


@pytest.mark.parametrize("height", [480, 720])
def test_colours_of_a_video_that_does_not_name_its_matrix(tmp_path, height):
    """As players do: BT.601 for small pictures, BT.709 from 720 rows on."""
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = height, 64, "yuv420p"
        image = np.full((height, 64, 3), (30, 180, 60), np.uint8)
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709" if height == 720 else "ITU601"
        )
        frame.colorspace = 2
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert np.abs(read_all(path)[0].image_HW3[9, 9].astype(int) - (30, 180, 60)).max() <= 4


def test_http_video_and_missing_page(tmp_path, write_video):
    write_video(tmp_path / "clip.mp4", 5)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path))

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with open_source(f"{address}/clip.mp4") as source:
            assert source.kind == "video"
            assert len(list(source)) == 5
        with pytest.raises(InputError, match="404"):
            open_source(f"{address}/none.mp4")
    finally:
        server.shutdown()
        server.server_close()


def test_frame_shows_its_shape():
    assert repr(Frame(np.zeros((4, 6, 3), np.uint8), "a", 2, 0.5)) == "Frame('a', 2, 4x6, 0.500 s)"
    with pytest.raises(ValueError, match="must be"):
        Frame(np.zeros((4, 6), np.uint8), "a", 0)
