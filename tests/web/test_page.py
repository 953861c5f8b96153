from __future__ import annotations

import base64
import io
import shutil
import struct
import zlib

import av
import cv2
import numpy as np
import pytest
from web_pages import PHOTOS, served, with_page

from depthmask.bench.chromium import QUIET
from depthmask.export import export_chain
from depthmask.frames import Resolution, read_image, to_frame
from depthmask.pipeline import Pipeline
from depthmask.video.overlay import DepthRange, Look, render

VIEWS = ("overlay", "mask", "depth", "blur")
TOLERANCE = 1e-4
LOAD_TIMEOUT_MS = 60_000

PREDICT = """
async (png) => {
  const bytes = Uint8Array.from(atob(png), (letter) => letter.charCodeAt(0));
  const found = await depthmask.predict(new Blob([bytes], { type: 'image/png' }));
  return ['mask', 'depth'].map((name) => ({ ...found[name], data: Array.from(found[name].data) }));
}
"""
DROP = """
([name, type, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  const options = { dataTransfer, bubbles: true, cancelable: true };
  document.getElementById('stage').dispatchEvent(new DragEvent('drop', options));
}
"""
PIXELS = """
() => {
  const shown = document.getElementById('canvas');
  const copy = Object.assign(document.createElement('canvas'), { width: shown.width, height: shown.height });
  copy.getContext('2d').drawImage(shown, 0, 0);
  return copy.toDataURL('image/png').split(',')[1];
}
"""


def opened(page, address):
    page.set_default_timeout(LOAD_TIMEOUT_MS)
    page.goto(address)
    assert page.evaluate("depthmask.ready"), page.inner_text("#message")
    return page


def png_of(frame_HW3) -> bytes:
    return cv2.imencode(".png", np.asarray(frame_HW3)[:, :, ::-1])[1].tobytes()


def photo(name="cat.jpg", height=240, width=320):
    return cv2.resize(read_image(PHOTOS / name), (width, height), interpolation=cv2.INTER_AREA)


def give(page, name, content, mime_type):
    page.set_input_files("#file", {"name": name, "mimeType": mime_type, "buffer": content})


def shown_pixels(page):
    encoded = np.frombuffer(base64.b64decode(page.evaluate(PIXELS)), np.uint8)
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)[:, :, ::-1]


def message(page) -> str:
    page.wait_for_selector("#message", state="visible")
    return page.inner_text("#message")


def wait_for_picture(page):
    page.wait_for_selector("#canvas", state="visible")


def choose(page, view):
    page.check(f"[name=view][value={view}]", force=True)


def test_the_camera_is_shown_with_its_figures_and_nothing_is_requested_after_loading(page, address):
    opened(page, address)
    requests: list[str] = []
    page.context.on("request", lambda request: requests.append(request.url))
    page.click("#camera")
    wait_for_picture(page)
    page.wait_for_function("() => parseFloat(document.getElementById('fps').textContent) > 0")
    assert page.inner_text("#age").endswith(" ms")
    assert page.inner_text("#threads") == str(
        page.evaluate("Math.min(navigator.hardwareConcurrency, 4)")
    )
    assert page.inner_text("#backend") == "WebAssembly SIMD"
    assert page.is_hidden("#note")
    for view in VIEWS:
        choose(page, view)
    give(page, "cat.png", png_of(photo()), "image/png")
    page.wait_for_function("() => document.getElementById('canvas').width === 320")
    assert page.inner_text("#camera") == "Start camera"
    assert [url for url in requests if not url.startswith("blob:")] == []


@pytest.mark.parametrize("size", [(240, 320), (480, 640)])
def test_maps_are_those_of_the_native_runtime(page, lite_path, lite_address, size):
    frame_HW3 = photo("chair.jpg", *size)
    opened(page, lite_address)
    mask, depth = page.evaluate(PREDICT, base64.b64encode(png_of(frame_HW3)).decode())
    with Pipeline.open(lite_path, runtime="onnxruntime") as pipeline:
        expected = pipeline.runtime.run({"frame": frame_HW3[None]})
    for found, name in ((mask, "mask"), (depth, "depth")):
        assert (found["height"], found["width"]) == expected[name].shape[-2:]
        difference = np.abs(np.array(found["data"]) - expected[name].ravel())
        assert difference.max() < TOLERANCE, name


def test_a_bundle_of_normalised_images_gets_them_from_the_page(
    page, tiny_chain, trace, ort_web, tmp_path
):
    sizes = {"resolution": Resolution(32, 64), "input": "image"}
    export_chain(tiny_chain, tmp_path / "bundle", **sizes, trace=trace)
    path = with_page(tmp_path / "bundle", tmp_path / "image", ort_web)
    frame_HW3 = photo()
    with served(path / "web") as address:
        opened(page, address)
        mask, depth = page.evaluate(PREDICT, base64.b64encode(png_of(frame_HW3)).decode())
    with Pipeline.open(path, runtime="onnxruntime") as pipeline:
        expected = pipeline(frame_HW3)
    for found, map_HW in ((mask, expected.mask_HW), (depth, expected.depth_HW)):
        small_hw = np.array(found["data"], np.float32).reshape(found["height"], found["width"])
        assert np.abs(to_frame(small_hw, *frame_HW3.shape[:2]) - map_HW).max() < TOLERANCE


def test_webgpu_gives_the_same_maps_and_is_named(
    playwright_api, chromium_path, tiny_bundle_path, ort_web, tmp_path
):
    path = with_page(tiny_bundle_path, tmp_path / "gpu", ort_web, webgpu=True)
    frame_HW3 = photo()
    by_software = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
    launched = playwright_api.chromium.launch(
        executable_path=chromium_path,
        args=[*QUIET, *by_software, "--enable-features=Vulkan", "--ignore-gpu-blocklist"],
    )
    with served(path / "web") as address:
        page = opened(launched.new_page(), address)
        backend = page.inner_text("#backend")
        found = page.evaluate(PREDICT, base64.b64encode(png_of(frame_HW3)).decode())
    launched.close()
    if not backend.startswith("WebGPU"):
        pytest.skip("this Chromium has no WebGPU in software")
    with Pipeline.open(path, runtime="onnxruntime") as pipeline:
        expected = pipeline.runtime.run({"frame": frame_HW3[None]})
    for values, name in zip(found, ("mask", "depth"), strict=True):
        assert np.abs(np.array(values["data"]) - expected[name].ravel()).max() < TOLERANCE


def test_views_look_as_dmx_run_draws_them(page, lite_path, lite_address):
    frame_HW3 = photo("cat.jpg", 480, 640)
    with Pipeline.open(lite_path) as pipeline:
        prediction = pipeline(frame_HW3)
    assert 0.05 < np.mean(prediction.mask_HW > 0.5) < 0.95  # else the views would show little
    depth_range = DepthRange.of(prediction, "foreground")
    look = Look(depth_unit="m", show_bar=False)
    opened(page, lite_address)
    give(page, "cat.png", png_of(frame_HW3), "image/png")
    wait_for_picture(page)
    drawn = {}
    for view in VIEWS:
        choose(page, view)
        page.wait_for_function(
            f"() => document.getElementById('canvas').ariaLabel === '{view} of the picture'"
        )
        drawn[view] = shown_pixels(page).astype(float)
    for view in VIEWS:
        expected = render(view, frame_HW3, prediction, depth_range, look).astype(float)
        difference = {other: np.abs(drawn[other] - expected).mean() for other in VIEWS}
        # In levels of 255; the scaling of colours is not quite that of depths.
        assert difference[view] < 2.5, difference
        assert min(difference, key=difference.get) == view


def test_a_denied_camera_is_said_and_pictures_still_work(browser, address):
    context = browser.new_context()
    page = opened(context.new_page(), address)
    session = context.new_cdp_session(page)
    denied = {"permission": {"name": "camera"}, "setting": "denied", "origin": address}
    session.send("Browser.setPermission", denied)
    page.click("#camera")
    assert message(page).startswith("The camera was denied. Allow it")
    give(page, "cat.png", png_of(photo()), "image/png")
    wait_for_picture(page)
    assert page.is_hidden("#message")
    context.close()


def test_a_machine_without_camera_is_said(playwright_api, chromium_path, address):
    alone = playwright_api.chromium.launch(executable_path=chromium_path, args=[*QUIET])
    page = opened(alone.new_context(permissions=["camera"]).new_page(), address)
    page.click("#camera")
    found = message(page)
    alone.close()
    assert found.startswith("No camera was found. Connect one")


@pytest.fixture
def copied_web(tiny_path, tmp_path):
    return shutil.copytree(tiny_path / "web", tmp_path / "web")


@pytest.mark.parametrize("name", ["model.onnx", "ort/ort-wasm-simd-threaded.wasm"])
def test_a_file_cut_short_is_said(page, copied_web, name):
    content = (copied_web / name).read_bytes()
    (copied_web / name).write_bytes(content[: len(content) // 2])
    with served(copied_web) as address:
        page.goto(address)
        assert page.evaluate("depthmask.ready") is False
    expected = f"{name} must have {len(content)} bytes, but {len(content) // 2} arrived"
    assert message(page).startswith(expected)
    assert page.is_disabled("#camera")


def test_a_model_that_was_replaced_is_said(page, copied_web):
    content = bytearray((copied_web / "model.onnx").read_bytes())
    content[-1] ^= 1
    (copied_web / "model.onnx").write_bytes(content)
    with served(copied_web) as address:
        page.goto(address)
        assert page.evaluate("depthmask.ready") is False
    assert message(page).startswith("model.onnx must be what was exported, but its sha256 differs")


@pytest.mark.parametrize("name", ["model.onnx", "web.json"])
def test_a_missing_file_is_said(page, copied_web, name):
    (copied_web / name).unlink()
    with served(copied_web) as address:
        page.goto(address)
        assert page.evaluate("depthmask.ready") is False
    assert message(page).startswith(f"{name} could not be loaded")


def huge_png(side_px=30_000) -> bytes:
    """All black, in one bit a pixel: small as a file, and 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    row = bytes(1 + side_px // 8)
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(row) for _ in range(side_px)) + packer.flush()
    header = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def sound() -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format="webm") as container:
        stream = container.add_stream("libopus", rate=48000)
        samples = np.zeros((1, 960 * 50), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return content.getvalue()


def test_what_is_no_usable_picture_is_said_and_the_next_one_works(page, address):
    opened(page, address)
    jpeg = (PHOTOS / "cat.jpg").read_bytes()
    scan = jpeg.index(b"\xff\xda")
    bad = {
        "notes.txt": (
            b"hello",
            "text/plain",
            "notes.txt must be a picture or a video, but is text/plain",
        ),
        "odd": (b"hello", "", "odd must be a picture or a video"),
        "text.jpg": (b"hello" * 9, "image/jpeg", "text.jpg cannot be decoded as a picture"),
        "empty.png": (b"", "image/png", "empty.png is empty"),
        "short.jpg": (jpeg[: len(jpeg) // 2], "image/jpeg", "short.jpg is cut short"),
        "short.png": (png_of(photo())[:-20], "image/png", "short.png is cut short"),
        "corrupt.jpg": (
            jpeg[:60] + bytes(scan - 60) + jpeg[scan:],
            "image/jpeg",
            "corrupt.jpg is cut short",
        ),
        "huge.png": (huge_png(), "image/png", "huge.png has 30000 x 30000 pixels (900 megapixels)"),
        "sound.webm": (sound(), "video/webm", "sound.webm has no picture, only sound"),
        "noise.mp4": (bytes(500), "video/mp4", "noise.mp4 cannot be played"),
    }
    for name, (content, mime_type, words) in bad.items():
        page.evaluate("document.getElementById('message').hidden = true")
        page.evaluate(DROP, [name, mime_type, base64.b64encode(content).decode()])
        assert message(page).startswith(words), name
    give(page, "cat.jpg", jpeg, "image/jpeg")
    wait_for_picture(page)
    assert page.is_hidden("#message")


def test_a_dropped_picture_is_shown_upright_and_large_ones_are_shrunk(page, address):
    opened(page, address)
    frame_HW3 = photo(height=1000, width=2000)
    exif = (
        b"\xff\xe1\x00\x22Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    jpeg = cv2.imencode(".jpg", frame_HW3)[1].tobytes()
    turned = jpeg[:2] + exif + jpeg[2:]  # orientation 6: the camera was held upright
    page.evaluate(DROP, ["cat.jpg", "image/jpeg", base64.b64encode(turned).decode()])
    wait_for_picture(page)
    size = page.evaluate(
        "[document.getElementById('canvas').width, document.getElementById('canvas').height]"
    )
    assert size == [640, 1280]


def test_a_video_plays(page, address):
    opened(page, address)
    content = io.BytesIO()
    with av.open(content, "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for shift in range(10):
            picture = np.roll(photo(), 8 * shift, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    give(page, "cat.webm", content.getvalue(), "video/webm")
    page.wait_for_function("() => parseFloat(document.getElementById('fps').textContent) > 0")
    assert page.get_attribute("#canvas", "aria-label") == "overlay of the video"


def test_without_the_two_headers_it_runs_on_one_thread_and_says_why(page, tiny_path):
    with served(tiny_path / "web", headers={}) as address:
        opened(page, address)
        assert page.inner_text("#threads") == "1"
        assert "Cross-Origin-Embedder-Policy: require-corp" in page.inner_text("#note")
        give(page, "cat.png", png_of(photo()), "image/png")
        wait_for_picture(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_all_without_scrolling_sideways(browser, address, scheme):
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    page = opened(context.new_page(), address)
    give(page, "cat.png", png_of(photo()), "image/png")
    wait_for_picture(page)
    page.evaluate(DROP, ["a-name-that-is-as-long-as-names-get" * 6, "text/plain", ""])
    message(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    level = int(colour.split("(")[1].split(",")[0])
    assert (level > 200) if scheme == "light" else (level < 50)
    for box in (page.locator(f"#{name}").bounding_box() for name in ("camera", "choose", "views")):
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["height"] >= 44
    context.close()


FEED = """
async () => {
  const { Feed } = await import('./feed.js');
  const canvas = document.createElement('canvas');
  canvas.getContext('2d');
  let presented = null;
  canvas.requestVideoFrameCallback = (callback) => { presented = callback; };
  const present = (shot_ms) => presented(0, { captureTime: shot_ms });
  const seen = [];
  let done = null;
  const feed = new Feed(canvas, async (bitmap, shot_ms) => {
    bitmap.close();
    seen.push(shot_ms);
    await new Promise((resolve) => { done = resolve; });
  });
  const turn = () => new Promise((resolve) => setTimeout(resolve, 50));
  feed.start();
  present(1);
  await turn();
  for (const shot_ms of [2, 3, 4]) present(shot_ms);
  done();
  await turn();
  present(5);
  feed.stop();
  done();
  await turn();
  return seen;
}
"""


def test_the_newest_frame_wins_and_none_is_queued(page, address):
    page.goto(address)
    assert page.evaluate(FEED) == [1, 4]
