from __future__ import annotations

import shutil

import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from depthmask.bench.method_check import check_method
from depthmask.bundle import open_bundle
from depthmask.errors import UnavailableError


def test_the_meters_measure_the_same_thing():
    bundle = open_bundle()
    smallest = bundle.manifest.resolutions[0]
    found = check_method(bundle, smallest, threads=1, seconds=0.3, rounds=1)
    assert found.harness_us_per_call > 0
    # The same work within a factor that no busy machine explains: seconds for milliseconds, say.
    for ratio in (
        found.ours_over_plain_onnxruntime,
        found.ours_over_plain_openvino,
        found.ours_over_benchmark_app,
        found.request_over_benchmark_app,
        found.accuracy_over_predicting,
    ):
        assert 0.05 < ratio < 20


def test_without_benchmark_app_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    bundle = open_bundle()
    with pytest.raises(UnavailableError, match="benchmark_app, which is not installed"):
        check_method(bundle, bundle.manifest.resolutions[0], threads=1, seconds=0.01, rounds=1)
