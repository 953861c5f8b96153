"""The browser's page in a headless Chromium with a camera: frames per second and their age, by view.

    dmx export --int8 --to web --out b/
    python -m depthmask.bench.browser_speed b/ --seconds 10

`dmx serve` sends the page, so it has threads. Chromium makes the camera's frames, runs the networks and draws
on the CPU, all on the same cores: a device with a camera and a GPU of its own has more of them left.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from depthmask.bench.chromium import QUIET, camera, write_clip
from depthmask.bench.machine import this_machine
from depthmask.bench.script import run_script
from depthmask.bench.serve_load import served
from depthmask.commands.options import PathType
from depthmask.errors import CheckFailedError, UnavailableError
from depthmask.frames import read_image
from depthmask.samples import SHIPPED_SAMPLES

VIEWS = ("overlay", "mask", "depth", "blur")
_TIMEOUT_MS = 60_000
_SETTLES_S = 3.0
_READ_EVERY_S = 0.5


def measure_page(bundle: Path, photo: Path, seconds: float) -> dict[str, Any]:
    """Measure a bundle's page, view by view.

    Args:
        bundle: with `web/`.
        photo: what the camera moves over, at 640x480 and 30 frames a second.
        seconds: for each view.

    Raises:
        UnavailableError: Chromium or playwright is not here.
        CheckFailedError: the page does not load.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "playwright is needed, but it is not here. Try pip install playwright"
        ) from error
    chromium = shutil.which("chromium")
    if chromium is None:
        raise UnavailableError(
            "Chromium is needed, but it is not here. Try apt-get install chromium"
        )
    with (
        tempfile.TemporaryDirectory() as folder,
        served([str(bundle)]) as (_, port),
        sync_playwright() as playwright,
    ):
        clip = Path(folder) / "clip.y4m"
        write_clip(clip, read_image(photo))
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[*QUIET, "--disable-gpu", *camera(clip)]
        )
        page = browser.new_context(permissions=["camera"]).new_page()
        page.set_default_timeout(_TIMEOUT_MS)
        page.goto(f"http://127.0.0.1:{port}/")
        if not page.evaluate("depthmask.ready"):
            raise CheckFailedError(f"the page must load, but says: {page.inner_text('#message')}")
        runs_on = {name: page.inner_text(f"#{name}") for name in ("backend", "threads", "network")}
        page.click("#camera")
        views = {view: _figures(page, view, seconds) for view in VIEWS}
        browser.close()
    return {**runs_on, "views": views}


def _figures(page: Any, view: str, seconds: float) -> dict[str, float]:  # noqa: ANN401
    """What the page itself shows, in the median of the time after it has settled."""
    page.check(f"[name=view][value={view}]", force=True)
    time.sleep(_SETTLES_S)
    shown = []
    for _ in range(max(1, round(seconds / _READ_EVERY_S))):
        time.sleep(_READ_EVERY_S)
        shown.append([page.inner_text(name).split()[0] for name in ("#fps", "#age")])
    fps, age_ms = (median(map(float, column)) for column in zip(*shown, strict=True))
    return {"fps": fps, "age_ms": age_ms}


@click.command()
@click.argument("bundle", type=PathType())
@click.option("--photo", type=PathType(), default=SHIPPED_SAMPLES / "photos" / "cat.jpg")
@click.option("--seconds", type=click.FloatRange(0.5), default=10.0, show_default=True)
def command(bundle: Path, photo: Path, seconds: float) -> None:
    """Measure the page of BUNDLE, and print JSON."""
    result = measure_page(bundle, photo, seconds)
    click.echo(json.dumps({"machine": this_machine().summary, **result}, indent=2))


if __name__ == "__main__":
    run_script(command, "browser_speed")
