from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from depthmask.errors import InputError, OutputError, UsageError
from depthmask.frames import (
    Normalisation,
    Resolution,
    decode_image,
    read_image,
    read_rgba,
    resize_weights,
    to_frame,
    to_network,
    write_png,
)

RED, GREEN = (220, 30, 40), (20, 200, 60)


@pytest.fixture
def save(tmp_path):
    """Save a Pillow image and give its path."""

    def save_as(image, name="photo.png", **options):
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save_as


def halves(size=(40, 30)):
    """Red on the left, green on the right."""
    image = Image.new("RGB", size, GREEN)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image


# Reading: one policy


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif"])
def test_rgb_of_every_format(save, suffix):
    image_HW3 = read_image(save(halves(), f"name with spaces é{suffix}"))
    assert image_HW3.shape == (30, 40, 3)
    assert image_HW3.dtype == np.uint8
    assert image_HW3.flags.c_contiguous
    assert np.abs(image_HW3[15, 5].astype(int) - RED).max() <= 12
    assert np.abs(image_HW3[15, 35].astype(int) - GREEN).max() <= 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_applied(save, orientation, suffix):
    image = halves((64, 32))
    image.paste((255, 255, 255), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(image, f"turned{suffix}", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    image_HW3 = read_image(path)
    assert image_HW3.shape == expected.shape
    assert np.abs(image_HW3.astype(int) - expected).mean() < 2


def test_grey(save):
    image_HW3 = read_image(save(Image.new("L", (8, 6), 77)))
    assert image_HW3.shape == (6, 8, 3)
    assert (image_HW3 == 77).all()


def test_one_bit(save):
    image = Image.new("1", (8, 6), 0)
    image.paste(1, (0, 0, 4, 6))
    image_HW3 = read_image(save(image))
    assert (image_HW3[:, :4] == 255).all()
    assert (image_HW3[:, 4:] == 0).all()


def test_palette(save):
    image_HW3 = read_image(save(halves().quantize(8)))
    assert image_HW3[15, 5].tolist() == list(RED)
    assert image_HW3[15, 35].tolist() == list(GREEN)


def test_palette_with_transparency_is_on_white(save):
    image = halves().quantize(8)
    path = save(image, transparency=image.getpixel((35, 15)))
    image_HW3 = read_image(path)
    assert image_HW3[15, 5].tolist() == list(RED)
    assert image_HW3[15, 35].tolist() == [255, 255, 255]


def test_cmyk(save):
    image_HW3 = read_image(save(halves().convert("CMYK"), "photo.jpg", quality=95))
    assert np.abs(image_HW3[15, 5].astype(int) - RED).max() <= 12
    assert np.abs(image_HW3[15, 35].astype(int) - GREEN).max() <= 12


def test_16_bit_becomes_8_bit(save):
    levels = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    image_HW3 = read_image(save(Image.fromarray(levels)))
    assert np.abs(image_HW3[0, :, 0].astype(int) - np.arange(256)).max() <= 1
    assert image_HW3.max() == 255


def test_16_bit_with_alpha(tmp_path):
    import cv2

    pixels = np.full((4, 4, 4), 65535, np.uint16)
    pixels[:, :, 0] = pixels[:, :, 1] = 0  # blue and green: red remains
    pixels[:, 2:, 3] = 0
    cv2.imwrite(str(tmp_path / "deep.png"), pixels)
    image_HW3 = read_image(tmp_path / "deep.png")
    assert image_HW3[0, 0].tolist() == [255, 0, 0]
    assert image_HW3[0, 3].tolist() == [255, 255, 255]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_alpha_is_on_white(save, suffix):
    image = Image.new("RGBA", (32, 32), (*RED, 255))
    image.paste((0, 0, 0, 0), (16, 0, 32, 32))
    image.paste((0, 0, 0, 128), (0, 16, 16, 32))
    options = {"lossless": True} if suffix == ".webp" else {}
    image_HW3 = read_image(save(image, f"cut{suffix}", **options))
    assert image_HW3[4, 4].tolist() == list(RED)
    assert image_HW3[4, 28].tolist() == [255, 255, 255]
    assert np.abs(image_HW3[28, 4].astype(int) - 127).max() <= 1


def test_grey_with_alpha_is_on_white(save):
    image = Image.new("LA", (8, 8), (50, 255))
    image.paste((50, 0), (4, 0, 8, 8))
    image_HW3 = read_image(save(image))
    assert image_HW3[0, 0].tolist() == [50, 50, 50]
    assert image_HW3[0, 7].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_turned_photo_with_alpha(save, orientation, suffix):
    image = Image.new("RGBA", (64, 32), (*RED, 255))
    image.paste((0, 0, 0, 0), (32, 0, 64, 32))
    image.paste((*GREEN, 255), (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    path = save(image, f"photo{suffix}", exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(path))
    assert np.array_equal(read_rgba(path)[:, :, 3], np.asarray(expected)[:, :, 3])
    on_white = Image.new("RGB", expected.size, (255, 255, 255))
    on_white.paste(expected, mask=expected)
    assert np.array_equal(read_image(path), np.asarray(on_white))


@pytest.mark.parametrize(
    "exif", [b"", b"Exif", b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"]
)
def test_damaged_exif_is_upright(save, exif):
    image = Image.new("RGBA", (8, 4), (*RED, 255))
    assert read_image(save(image, exif=exif)).shape == (4, 8, 3)


def test_rgba(save):
    image = Image.new("RGBA", (8, 8), (*RED, 99))
    assert read_rgba(save(image))[0, 0].tolist() == [*RED, 99]
    assert read_rgba(save(halves()))[15, 5].tolist() == [*RED, 255]


# Reading: what is refused


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated(save, suffix, share):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = save(Image.fromarray(noise), f"photo{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match="photo"):
        read_image(path)


def test_truncated_progressive_jpeg_with_thumbnail(save):
    """The end marker of an embedded thumbnail is not the photo's."""
    thumbnail = io.BytesIO()
    halves((16, 16)).save(thumbnail, "JPEG")
    exif = Image.Exif()
    exif[0x9286] = thumbnail.getvalue()
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    path = save(noise, "photo.jpg", exif=exif, progressive=True)
    assert read_image(path).shape == (64, 64, 3)
    data = path.read_bytes()
    assert thumbnail.getvalue() in data
    path.write_bytes(data[: int(0.8 * len(data))])
    with pytest.raises(InputError, match="cut short"):
        read_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"<html><body>404 Not Found</body></html>", "HTML"),
        (b"\n  <!DOCTYPE html>", "HTML"),
        (b"hello world", "cannot be decoded"),
        (bytes(range(256)), "cannot be decoded"),
    ],
)
def test_not_an_image(tmp_path, content, message):
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_image(tmp_path / "photo.jpg")
    assert "photo.jpg" in str(error.value)


def test_missing_and_folder(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="folder"):
        read_image(tmp_path)


def test_error_names_what_was_given():
    with pytest.raises(InputError, match="upload 3"):
        decode_image(b"", "upload 3")


# Writing


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_round_trip(tmp_path, shape, dtype):
    import cv2

    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    write_png(tmp_path / "map.png", image)
    read = cv2.imread(str(tmp_path / "map.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(read[:, :, ::-1] if len(shape) == 3 else read, image)


def test_png_into_a_missing_folder(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_png(tmp_path / "none" / "map.png", np.zeros((2, 2), np.uint8))


# Geometry


@pytest.mark.parametrize(
    ("size_in", "size_out"),
    [(480, 224), (224, 224), (100, 224), (1080, 64), (7, 3), (1, 32), (33, 1)],
)
def test_resize_is_torchs_antialiased_bilinear(size_in, size_out):
    signal = np.random.default_rng(0).normal(size=(size_in, 4)).astype(np.float32)
    # Four columns, as torch 2.13 gets a single one wrong.
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(signal)[None, None], (size_out, 4), mode="bilinear", antialias=True
    )
    weights = resize_weights(size_in, size_out)
    assert weights.shape == (size_out, size_in)
    assert weights.dtype == np.float32
    assert np.allclose(weights.sum(1), 1, atol=1e-5)
    # Sample positions up to 1080 in float32 are good to 6e-5 of a sample.
    assert np.allclose(weights @ signal, expected.numpy()[0, 0], atol=3e-4)


def test_to_network_resizes_and_normalises():
    frames = np.random.default_rng(0).integers(0, 256, (2, 90, 160, 3), np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image_N3HW = to_network(frames, Resolution(64, 96), Normalisation(mean, std))
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255,
        (64, 96),
        mode="bilinear",
        antialias=True,
    ).numpy()
    expected = (resized - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert image_N3HW.shape == (2, 3, 64, 96)
    assert image_N3HW.dtype == np.float32
    assert np.abs(image_N3HW - expected).max() < 1e-4


def test_to_frame():
    map_HW = np.linspace(0, 1, 32, dtype=np.float32)[None].repeat(16, 0)
    assert to_frame(map_HW, 16, 32) is map_HW
    larger = to_frame(map_HW, 48, 96)
    assert larger.shape == (48, 96)
    assert larger.dtype == np.float32
    assert (np.diff(larger[0]) >= 0).all()


@pytest.mark.parametrize(
    ("text", "height", "width", "shown"),
    [
        ("224", 224, 224, "224"),
        ("192x256", 192, 256, "192x256"),
        (" 64X128 ", 64, 128, "64x128"),
        ("224x224", 224, 224, "224"),
    ],
)
def test_resolution_is_height_first(text, height, width, shown):
    resolution = Resolution.parse(text)
    assert (resolution.height, resolution.width, str(resolution)) == (height, width, shown)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "224x",
        "x224",
        "-64",
        "64.5",
        "31",
        "4097",
        "64x8192",
        "0",
        "64x64x3",
        "64,",
        "²²⁴",
    ],
)
def test_resolution_that_cannot_be_used(text):
    with pytest.raises(UsageError, match="must be"):
        Resolution.parse(text)


def test_resolution_list_is_sorted_and_unique():
    listed = Resolution.parse_list("224,64,128x96,64")
    assert [str(resolution) for resolution in listed] == ["64", "128x96", "224"]


def test_a_path_may_be_a_string(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    write_png(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), image)
