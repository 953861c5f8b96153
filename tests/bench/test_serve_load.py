from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from depthmask.bench.serve_load import Asked, command, measure_load
from depthmask.errors import CheckFailedError


def test_a_short_load_is_reported():
    options = (
        "--clients 3 --seconds 0.5 --alone 5 --queue 4 --threads 1 --resolution 64 --output mask"
    )
    done = CliRunner().invoke(command, options.split(), catch_exceptions=False)
    result = json.loads(done.stdout)
    assert result["answer"] == "mask"
    assert (result["queue"], result["clients"]) == (4, 3)
    assert result["unloaded"]["statuses"] == {"200": 5}
    loaded, unloaded = result["loaded"], result["unloaded"]
    assert loaded["errors"] == 0
    assert loaded["requests"] == loaded["statuses"]["200"] > 3
    assert 0 < loaded["p50_ms"] <= loaded["p99_ms"] <= loaded["max_ms"]
    ratio = result["p99_to_queue_times_unloaded"]
    assert ratio == pytest.approx(loaded["p99_ms"] / (4 * unloaded["p50_ms"]))


def test_refusals_are_errors():
    asked = Asked([10.0, 20.0], ["200", "429", "ConnectionResetError", "200", "429", "429"])
    summary = asked.summary(seconds=2.0)
    assert (summary["requests"], summary["errors"], summary["per_s"]) == (6, 4, 1.0)
    assert summary["statuses"] == {"200": 2, "429": 3, "ConnectionResetError": 1}
    assert summary["p50_ms"] == 15.0


def test_a_service_that_does_not_start_is_an_error(tmp_path, capfd):
    with pytest.raises(CheckFailedError, match="did not start"):
        measure_load([str(tmp_path / "nowhere")], tmp_path / "photo.jpg", "", 1, 0.1, 1)
    assert "must be a bundle" in capfd.readouterr().err
