from __future__ import annotations

import json
from functools import partial

import msgspec
import numpy as np
import pytest

from depthmask.bench import write_result

replace = msgspec.structs.replace


@pytest.fixture
def dmx(dmx_inside, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    return partial(dmx_inside, "compare")


@pytest.fixture
def saved(result, tmp_path):
    """Write a benchmark of one cell that took so long, and of one that failed."""

    def save(name, median_ms, **changes):
        noise = np.random.default_rng(int(100 * median_ms)).standard_normal(1500)
        latency = replace(
            result.cells[0].latency, samples_ms=tuple(map(float, median_ms * np.exp(0.03 * noise)))
        )
        cells = (replace(result.cells[0], latency=latency), result.cells[1])
        write_result(replace(result, cells=cells, **changes), tmp_path / name)
        return tmp_path / name

    return save


def test_a_table_says_what_is_slower(dmx, saved):
    code, printed, errors = dmx(saved("a.json", 10), saved("b.json", 11))
    assert (code, errors) == (0, "")
    for expected in ("b[red] fp32", "64x96", "onnxruntime", "slower", "Machine: A CPU", "+10."):
        assert expected in printed
    assert "b[red] fp32 64x96 openvino: not compared: failed in A: no [cpu] | left" in printed
    assert printed.splitlines()[-2].startswith("1 slower, 0 faster, 0 no difference shown")
    assert max(map(len, printed.splitlines()[:6])) <= 100


def test_json_is_all_that_is_printed(dmx, saved):
    code, printed, errors = dmx(
        saved("a.json", 10), saved("b.json", 11), "--json", "--confidence", "0.9"
    )
    assert (code, errors) == (0, "")
    document = json.loads(printed)
    (cell,) = document["cells"]
    assert (document["confidence"], cell["verdict"]) == (0.9, "slower")
    assert cell["p50"]["lower"] < 0.1 < cell["p50"]["upper"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--fail-if", "slower=3%"], 1),
        (["--fail-if", "slower=0.03"], 1),
        (["--fail-if", "slower=50%", "--fail-if", "p99-slower=3%"], 1),
        (["--fail-if", "slower=50%", "--fail-if", "p99-slower=50%"], 0),
    ],
)
def test_limits_are_kept(dmx, saved, arguments, code):
    found, printed, errors = dmx(saved("a.json", 10), saved("b.json", 11), *arguments)
    assert found == code
    assert "slower" in printed
    assert errors.count("error: no cell may be ") == code


def test_the_tolerance_decides_what_matters(dmx, saved):
    a, b = saved("a.json", 10), saved("b.json", 11)
    code, printed, _ = dmx(a, b, "--tolerance", "30%")
    assert code == 0
    assert "1 no difference shown" in printed
    assert "tolerance 30%)" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "Missing argument"),
        (["{a}"], 2, "must hold two bundles with like cells"),
        (["{a}", "absent.json"], 3, "absent.json cannot be read"),
        (["{a}", "{old}"], 3, "damaged or of another version"),
        (
            ["{a}", "{other}"],
            2,
            "must be of one machine to be compared, but the processor is A CPU",
        ),
        (["{a}", "{a}", "--fail-if", "slower"], 2, "as in slower=3%, but got 'slower'"),
        (["{a}", "{a}", "--fail-if", "faster=3%"], 2, "slower=SHARE or p99-slower=SHARE"),
        (["{a}", "{a}", "--fail-if", "slower=nan"], 2, "but got 'slower=nan'"),
        (["{a}", "{a}", "--fail-if", "slower=-1%"], 2, "but got 'slower=-1%'"),
        (["{a}", "{a}", "--tolerance", "2"], 2, "must be 0% to 50%, as in 2% or 0.02, but got '2'"),
        (["{a}", "{a}", "--tolerance", "little"], 2, "but got 'little'"),
        (["{a}", "{a}", "--confidence", "100%"], 2, "must be 50% to 99.9%"),
    ],
)
def test_mistakes_are_one_line(dmx, saved, result, tmp_path, arguments, code, message):
    old = tmp_path / "old.json"
    old.write_text('{"schema": 1}', encoding="utf-8")
    files = {
        "a": saved("a.json", 10),
        "old": old,
        "other": saved("other.json", 10, machine=replace(result.machine, cpu="Another")),
    }
    found, printed, errors = dmx(*[text.format(**files) for text in arguments])
    assert (found, printed) == (code, "")
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors
