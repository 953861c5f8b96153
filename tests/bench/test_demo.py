from __future__ import annotations

import re

from depthmask.bench.demo import run_demo
from depthmask.bench.result import read_result
from depthmask.bundle import open_bundle
from depthmask.frames import Resolution
from depthmask.samples import shipped_photos


def test_the_demo_makes_bundles_a_benchmark_pictures_and_a_page(tmp_path):
    small = [Resolution(32, 32)]
    result = run_demo(tmp_path / "out", resolutions=small, seconds_per_cell=0, threads=1)
    assert result.report == tmp_path / "out" / "report.html"
    assert all(result.verified.values())
    for precision in ("fp32", "fp16"):
        manifest = open_bundle(tmp_path / "out" / f"lite-{precision}").manifest
        assert (manifest.verified, manifest.precision) == (True, precision)
    assert {cell.runtime for cell in read_result(tmp_path / "out" / "bench.json").cells} == {
        "onnxruntime",
        "openvino",
    }
    for photo in shipped_photos():
        for view in ("overlay", "mask", "depth"):
            assert (tmp_path / "out" / "photos" / f"{photo.stem}.{view}.png").stat().st_size > 0
    page = result.report.read_text(encoding="utf-8")
    assert page.count("<figure><img") == 2 * len(shipped_photos())  # by each of the two chains
    # Self-contained: every picture is inside, and nothing is fetched.
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) == {"data:"}
    assert "DOES NOT HOLD" not in page
