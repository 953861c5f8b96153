"""One policy for all readers of images, on files as they come; and what asks for too much memory."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from depthmask.bench.data import open_data, timed_frames
from depthmask.errors import InputError
from depthmask.frames import LARGEST_IMAGE_PX, read_image
from depthmask.image_size import size_px
from depthmask.samples import open_samples
from depthmask.train.material import load_assets
from depthmask.video.sources import open_source

RED = (220, 30, 40)
SIZE = (48, 40)


def picture(mode="RGB"):
    image = Image.new("RGB", SIZE, RED)
    image.paste((20, 200, 60), (0, 0, 24, 20))
    return image.convert(mode)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


def clear(mode):
    image = picture(mode)
    image.putalpha(Image.linear_gradient("L").resize(SIZE))
    return image


def deep():
    return Image.fromarray(np.linspace(0, 65535, 48 * 40).astype(np.uint16).reshape(40, 48))


FILES = {
    "turned.jpg": (picture, turned()),
    "turned.png": (picture, turned()),
    "turned alpha.webp": (lambda: clear("RGBA"), {**turned(), "lossless": True}),
    "cmyk.jpg": (lambda: picture("CMYK"), {}),
    "palette.png": (lambda: picture("RGB").quantize(8), {}),
    "palette clear.png": (lambda: picture("RGB").quantize(8), {"transparency": 0}),
    "alpha.png": (lambda: clear("RGBA"), {}),
    "alpha.tif": (lambda: clear("RGBA"), {}),
    "grey alpha.png": (lambda: clear("L"), {}),
    "one bit.png": (lambda: picture("1"), {}),
    "one bit.bmp": (lambda: picture("1"), {}),
    "16 bit.png": (deep, {}),
    "16 bit.tif": (deep, {}),
    "grey.jpg": (lambda: picture("L"), {}),
    "animated.webp": (
        picture,
        {"save_all": True, "append_images": [Image.new("RGB", SIZE)], "lossless": True},
    ),
    "animated.png": (picture, {"save_all": True, "append_images": [Image.new("RGB", SIZE)]}),
    "with spaces  and \U0001f600.png": (picture, {}),
    "l" * 240 + ".png": (picture, {}),
    "upper.JPG": (picture, {"format": "JPEG"}),
    "png by content.jpg": (picture, {"format": "PNG"}),
    os.fsdecode(b"not utf-8 \xff\xfe.png"): (picture, {}),
}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


def save(folder, name):
    make, options = FILES[name]
    with (folder / name).open("wb") as file:
        image = make()
        suffix = name.rsplit(".", 1)[1].lower()
        kinds = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP"}
        image.save(file, **{"format": kinds[suffix], **options})


def as_training_reads(photos):
    (assets := photos.parent / "assets").mkdir()
    (assets / "photos").symlink_to(photos)
    (photo_HW3,) = load_assets(assets, roles=("photos",), strict=True).photos
    return photo_HW3


def as_calibration_reads(photos):
    return open_samples(photos).image(0)


def as_bench_reads(photos):
    return timed_frames(open_data(photos))[0][0]


def as_run_reads(photos):
    with open_source(str(photos)) as source:
        (frame,) = source
        assert not source.unreadable
    return frame.image_HW3


READERS = (as_training_reads, as_calibration_reads, as_bench_reads, as_run_reads)


@pytest.mark.parametrize("name", FILES, ids=lambda name: ascii(name)[:30])
def test_all_readers_see_the_same(photos, name):
    save(photos, name)
    expected_HW3 = read_image(photos / name)
    assert expected_HW3.shape == ((48, 40, 3) if name.startswith("turned") else (40, 48, 3))
    assert expected_HW3.dtype == np.uint8
    for read in READERS:
        assert np.array_equal(read(photos), expected_HW3), read.__name__


def test_animations_show_their_first_picture(photos):
    for name in ("animated.webp", "animated.png"):
        save(photos, name)
        assert read_image(photos / name)[-1, -1].tolist() == list(RED)


def _html(path):
    path.write_text("<!DOCTYPE html><title>404</title>")


REFUSED = {
    "no bytes": lambda path: path.write_bytes(b""),
    "html": _html,
    "folder": lambda path: path.mkdir(),
    "fifo": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "gif": lambda path: picture().save(path, "GIF"),
    "netpbm": lambda path: path.write_bytes(b"P6 1 1 255\nabc"),
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_what_is_no_image_is_one_line(photos, make):
    path = photos / "x.jpg"
    make(path)
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert "x.jpg" in str(caught.value)


def test_a_folder_or_pipe_called_x_png_is_no_image_to_any_reader(photos):
    save(photos, "alpha.png")
    (photos / "x.png").mkdir()
    os.mkfifo(photos / "y.png")
    for read in READERS[1:]:
        assert read(photos).shape == (40, 48, 3)


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "a/" * 2100 + "b.png", "zero\0byte.png"])
def test_paths_that_no_file_can_have(photos, name):
    with pytest.raises(InputError):
        read_image(photos / name)


# Bombs: a few bytes that ask for gigabytes


def png_of(width, height):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


def jpeg_of(width, height):
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 17, 0, 2, 17, 0, 3, 17, 0])
    scan = bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0])
    return (
        b"\xff\xd8"
        + b"\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame
        + b"\xff\xda" + struct.pack(">H", len(scan) + 2) + scan
        + bytes(50) + b"\xff\xd9"
    )  # fmt: skip


def bmp_of(width, height):
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + header + bytes(100)


def tiff_of(width, height):
    entries = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 200), (279, 9)]
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + bytes(200)


def webp_of(width, height):
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + b"VP8L" + struct.pack("<I", 9)
    body += b"\x2f" + struct.pack("<I", 16383 | 16383 << 14) + bytes(5)
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS = [
    png_of(60000, 60000),
    png_of(2**31 - 1, 1000),
    jpeg_of(65500, 65500),
    bmp_of(60000, -60000),
    tiff_of(60000, 60000),
    webp_of(60000, 60000),
]


@pytest.mark.parametrize("content", BOMBS, ids=["png", "wide", "jpeg", "bmp", "tiff", "webp"])
def test_bombs_are_refused_by_their_header(photos, content):
    """In less memory than a hundredth of what they ask for."""
    path = photos / "bomb.png"
    path.write_bytes(content)
    height, width = size_px(content)
    assert height * width > LARGEST_IMAGE_PX
    before_kb = _peak_kb()
    with pytest.raises(InputError, match=r"must be of 1 to \d+ pixels"):
        read_image(path)
    assert _peak_kb() - before_kb < 20_000


@pytest.mark.parametrize("name", [name for name in FILES if "turned" not in name], ids=ascii)
def test_headers_say_what_decoding_gives(photos, name):
    save(photos, name)
    assert size_px((photos / name).read_bytes()) == (40, 48)


def _peak_kb():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_run_of_names_that_are_not_utf_8(photos, dmx_inside, tiny_bundle_path, monkeypatch):
    monkeypatch.chdir(photos.parent)
    name = os.fsdecode(b"not utf-8 \xff\xfe.png")
    save(photos, name)
    arguments = ("run", tiny_bundle_path, "--source", photos, "--view", "mask,depth", "--json")
    code, _, err = dmx_inside(*arguments, "--out", "out", "--stats", "stats.json")
    assert code == 0, err
    assert {path.name for path in (photos.parent / "out").iterdir()} == {
        name.replace(".png", ".mask.png"),
        name.replace(".png", ".depth.png"),
        "depth.json",
    }
    (photos / name).write_bytes(b"")
    code, _, err = dmx_inside(*arguments, "--out", "other")
    assert code == 3
    assert "error: " in err
