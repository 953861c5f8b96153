"""The browser's folder in a real Chromium with a fake camera that plays a real clip.

Skipped, visibly, where Chromium, playwright or onnxruntime-web (`make build/onnxruntime-web`) is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from web_pages import PHOTOS, served, with_page

from depthmask.bench.chromium import QUIET, camera, write_clip
from depthmask.bundle import SHIPPED_BUNDLE
from depthmask.frames import read_image


@pytest.fixture(scope="session")
def chromium_path() -> str:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return path


@pytest.fixture(scope="session")
def lite_path(ort_web, tmp_path_factory) -> Path:
    """The shipped lite at 224 with its page; read-only by agreement."""
    return with_page(SHIPPED_BUNDLE, tmp_path_factory.mktemp("web") / "lite", ort_web)


@pytest.fixture(scope="session")
def tiny_path(ort_web, tiny_bundle_path, tmp_path_factory) -> Path:
    """A tiny chain with its page, for what does not depend on the networks; read-only by agreement."""
    return with_page(tiny_bundle_path, tmp_path_factory.mktemp("web") / "tiny", ort_web)


@pytest.fixture(scope="session")
def address(tiny_path) -> Iterator[str]:
    with served(tiny_path / "web") as url:
        yield url


@pytest.fixture(scope="session")
def lite_address(lite_path) -> Iterator[str]:
    with served(lite_path / "web") as url:
        yield url


@pytest.fixture(scope="session")
def clip_path(tmp_path_factory) -> Path:
    """A camera that moves over a photograph, as raw video that Chromium plays in a loop."""
    path = tmp_path_factory.mktemp("camera") / "clip.y4m"
    write_clip(path, read_image(PHOTOS / "cat.jpg"))
    return path


@pytest.fixture(scope="session")
def playwright_api():
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install it")
    with api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def browser(playwright_api, chromium_path, clip_path):
    """With a camera that plays the clip; who may use it, each page's context says."""
    launched = playwright_api.chromium.launch(
        executable_path=chromium_path, args=[*QUIET, "--disable-gpu", *camera(clip_path)]
    )
    yield launched
    launched.close()


@pytest.fixture
def page(browser):
    """A page of its own, allowed to use the camera; what it logs as an error fails the test."""
    context = browser.new_context(permissions=["camera"], viewport={"width": 1100, "height": 900})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    yield opened
    context.close()
    assert errors == []
