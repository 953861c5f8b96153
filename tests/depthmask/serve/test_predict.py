from __future__ import annotations

import io
import json
import struct
import zlib

import cv2
import numpy as np
import pytest

from depthmask.bundle import MANIFEST_FILE, SHIPPED_BUNDLE
from depthmask.frames import decode_image
from depthmask.video.overlay import Look, mask_levels, next_range, render


def decoded(body: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_the_npz_is_what_the_pipeline_gives(lite, pipeline, helpers, frame_HW3, suffix):
    image = helpers.encoded(frame_HW3, suffix)
    media_type = {".jpg": "image/jpeg"}.get(suffix, f"image/{suffix[1:]}")
    reply = lite.ask("POST", "/v1/predict", image, Content_Type=f"{media_type}; charset=x")
    assert reply.status == 200, reply.body
    assert reply.headers["Content-Type"] == "application/x-npz"
    assert reply.headers["Depth-Unit"] == "m"
    expected = pipeline(decode_image(image, "image"))
    with np.load(io.BytesIO(reply.body)) as found:
        assert sorted(found) == ["depth", "mask"]
        assert found["mask"].dtype == found["depth"].dtype == np.float32
        np.testing.assert_array_equal(found["mask"], expected.mask_HW)
        np.testing.assert_array_equal(found["depth"], expected.depth_HW)


def test_the_pictures_are_what_the_pipeline_gives(lite, pipeline, frame_HW3, png):
    expected = pipeline(frame_HW3)
    mask = lite.predict(png, "?format=png&output=mask")
    np.testing.assert_array_equal(decoded(mask.body), mask_levels(expected.mask_HW))

    depth = lite.predict(png, "?output=depth")
    steps_HW = decoded(depth.body)
    assert steps_HW.dtype == np.uint16
    assert depth.headers["Depth-Unit"] == "m"
    assert depth.headers["Depth-Clipped-Pixels"] == "0"
    scale = float(depth.headers["Depth-Scale"])
    np.testing.assert_allclose(steps_HW * scale, expected.depth_HW, atol=0.51 * scale)

    depth_range = next_range(None, expected, "foreground")
    drawn_HW3 = render("overlay", frame_HW3, expected, depth_range, Look("foreground", "m"))
    for query in ("?output=overlay", "?format=png"):
        overlay = lite.predict(png, query)
        assert overlay.headers["Content-Type"] == "image/png"
        np.testing.assert_array_equal(decoded(overlay.body), drawn_HW3[:, :, ::-1])


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/x-npz"),
        ("image/png", "image/png"),
        ("image/*, */*;q=0.5", "image/png"),
        ("image/png;q=0.2, application/zip;q=0.8", "application/x-npz"),
    ],
)
def test_the_accept_header_chooses(lite, png, accept, media_type):
    reply = lite.ask("POST", "/v1/predict", png, Content_Type="image/png", Accept=accept)
    assert (reply.status, reply.headers["Content-Type"]) == (200, media_type)


def test_accept_that_allows_neither_is_406(lite, png):
    for accept in ("text/html", "image/png;q=0", "image/png;q=x"):
        reply = lite.ask("POST", "/v1/predict", png, Content_Type="image/png", Accept=accept)
        assert reply.status == 406
        assert "Accept must allow" in reply.json["error"]


@pytest.mark.parametrize(
    "query", ["?format=tiff", "?output=blur", "?format=npz&output=mask", "?x=1"]
)
def test_a_query_that_is_not_known_is_400(lite, png, query):
    reply = lite.predict(png, query)
    assert (reply.status, list(reply.json)) == (400, ["error"])


def test_a_type_that_is_not_read_is_415(lite, png):
    for headers in (
        {"Content_Type": "text/plain"},
        {"Content_Type": "image/tiff"},
        {},
        {"Content_Type": "image/jpeg"},  # but it is a PNG
        {"Content_Type": "image/png", "Content_Encoding": "gzip"},
    ):
        reply = lite.ask("POST", "/v1/predict", png, **headers)
        assert reply.status == 415, headers
        assert "must be" in reply.json["error"]


def test_a_damaged_image_is_400_with_one_line(lite, helpers, frame_HW3, png):
    jpeg = helpers.encoded(frame_HW3, ".jpg")
    webp = helpers.encoded(frame_HW3, ".webp")
    damaged_png = png[:60] + bytes(100) + png[160:]
    for media_type, image in (
        ("image/png", b""),
        ("image/png", b"no image"),
        ("image/png", png[:20]),
        ("image/png", png[: len(png) // 2]),
        ("image/png", damaged_png),
        ("image/jpeg", jpeg[:8]),
        ("image/jpeg", jpeg[: len(jpeg) // 2]),
        ("image/jpeg", jpeg[:2] + jpeg[-2:]),
        ("image/webp", webp[: len(webp) // 2]),
        ("image/webp", webp[:22]),
    ):
        reply = lite.ask("POST", "/v1/predict", image, Content_Type=media_type)
        assert reply.status == 400, (media_type, len(image), reply.body)
        assert list(reply.json) == ["error"]
        assert "\n" not in reply.json["error"]
    assert lite.predict(png).status == 200


def test_an_image_bomb_is_refused_by_its_header(lite, helpers):
    side_px = 30_000

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    head = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    jpeg = bytearray(helpers.encoded(np.zeros((8, 8, 3), np.uint8), ".jpg"))
    frame_header = jpeg.index(b"\xff\xc0")
    jpeg[frame_header + 5 : frame_header + 9] = struct.pack(">HH", side_px, side_px)
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0)
    webp += 2 * (side_px - 1).to_bytes(3, "little")
    for media_type, bomb in (("image/png", png), ("image/jpeg", jpeg), ("image/webp", webp)):
        reply = lite.ask("POST", "/v1/predict", bytes(bomb), Content_Type=media_type)
        assert reply.status == 413, (media_type, reply.body)
        assert "1 million pixels at most, but it is 30000 x 30000" in reply.json["error"]


def test_the_model_is_described(lite):
    manifest = json.loads((SHIPPED_BUNDLE / MANIFEST_FILE).read_text())
    model = lite.ask("GET", "/v1/model").json
    assert model["digest"] == manifest["digest"]
    assert (model["preset"], model["precision"]) == ("lite", manifest["precision"])
    assert model["resolution"] == "64"
    assert model["resolutions"] == ["64", "128", "224"]
    assert (model["runtime"], model["device"]) == ("onnxruntime", "cpu")
    assert model["max_pixels"] == 1_000_000


def test_what_is_not_there_is_json_too(lite):
    assert lite.ask("GET", "/nothing").status == 404
    wrong = lite.ask("GET", "/v1/predict")
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")
    assert wrong.json == {"error": "GET /v1/predict: Method Not Allowed"}


def test_without_a_page_the_root_says_what_there_is(lite):
    reply = lite.ask("GET", "/")
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert b"POST /v1/predict" in reply.body
    assert lite.ask("GET", "/health/live").json == {"status": "live"}
    assert lite.ask("GET", "/health/ready").json == {"status": "ready"}


def test_values_that_are_not_finite_are_an_error_and_a_bug_is_one_too(helpers, slow, png, caplog):
    from depthmask.errors import CheckFailedError

    errors = [CheckFailedError("the mask must be finite"), ZeroDivisionError("a bug")]

    def fail(frame_HW3):
        raise errors.pop(0)

    class Failing(type(slow)):
        __call__ = staticmethod(fail)

    with helpers.serving(Failing) as served:
        first, second = served.predict(png), served.predict(png)
    assert (first.status, first.json) == (500, {"error": "the mask must be finite"})
    assert (second.status, second.json) == (500, {"error": "internal error"})
    assert "ZeroDivisionError: a bug" in caplog.text
