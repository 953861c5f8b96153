from __future__ import annotations

import msgspec
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

from depthmask.bench import export_speed as module
from depthmask.bench.export_cost import Peak, export_cost, imports_bytes, running_memory
from depthmask.bench.export_speed import PARTS, Settings, main, measure_cell
from depthmask.bench.export_speed_result import EAGER, OURS, PLAIN, Cell, ExportSpeed, markdown
from depthmask.bench.machine import this_machine
from depthmask.errors import UnavailableError, UsageError
from depthmask.frames import Resolution

SIZE = Resolution(32, 32)
QUICK = Settings(threads=1, seconds=0, rounds=3, max_warmup_seconds=0)


def cell(**changes):
    found = Cell(chain="lite", height_px=32, width_px=32, precision="fp32", tuned=False)
    return msgspec.structs.replace(found, **changes)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("speed")


@pytest.fixture(scope="module")
def measured(work):
    return measure_cell(cell(), ("export", "speed", "memory"), QUICK, work)


def test_a_cell_has_every_way_compared_with_ours_on_the_same_runtime(measured):
    medians = {row.peer: row.p50_ms for row in measured.rows}
    assert set(medians) == {*PLAIN.values(), *OURS.values(), EAGER}
    gains = {gain.against: gain for gain in measured.gains}
    for runtime in PLAIN:
        gain = gains[PLAIN[runtime]]
        assert gain.ours == OURS[runtime]
        assert gain.times == pytest.approx(medians[gain.against] / medians[gain.ours])
    assert gains[EAGER].ours == min(OURS.values(), key=medians.__getitem__)
    assert 0 < measured.difference < 1e-4


def test_the_cost_of_an_export_is_told_with_its_phases(measured):
    cost = measured.export
    assert 0 < sum(cost.phases_s.values()) < cost.seconds
    assert any("verifying" in phase for phase in cost.phases_s)
    assert cost.allowed_bytes == 4 * cost.weights_bytes + 300_000_000
    # The two networks of lite have 6 million weights.
    assert 20e6 < cost.weights_bytes < 30e6
    assert cost.memory.above_imports_bytes > 0


def test_memory_is_measured_of_plain_and_ours(measured):
    assert [one.runtime for one in measured.running] == list(PLAIN)
    for one in measured.running:
        assert one.as_exported.above_imports_bytes > 0
        assert one.ours.above_imports_bytes > 0


def test_what_is_measured_is_not_measured_again(measured, work, monkeypatch):
    def never(*_, **__):
        raise AssertionError("measured twice")

    for name in ("export_cost", "compare_peers", "running_memory"):
        monkeypatch.setattr(module, name, never)
    assert measure_cell(measured, ("export", "speed", "memory"), QUICK, work) == measured


def test_parts_can_be_measured_one_after_the_other(work, measured):
    only_memory = measure_cell(cell(), ("memory",), QUICK, work)
    assert only_memory.running
    assert not only_memory.rows
    assert only_memory.export is None


def test_the_tables_hold_the_numbers(measured):
    result = ExportSpeed(
        made_at="now",
        machine=this_machine(),
        threads=1,
        seconds_per_peer=0,
        rounds=3,
        cells=(measured,),
    )
    text = markdown(result)
    gain = next(gain for gain in measured.gains if gain.against == PLAIN["openvino"])
    assert f"{gain.times:.2f}x" in text
    assert f"({measured.export.allowed_bytes / 1e6:.0f})" in text
    assert msgspec.json.decode(msgspec.json.encode(result), type=ExportSpeed) == result


def test_memory_above_the_imports_is_the_difference():
    assert Peak(peak_bytes=500, imports_bytes=200).above_imports_bytes == 300


def test_imports_are_counted_and_names_that_cannot_be_imported_left_out():
    assert imports_bytes(["json", "no_such_module_of_anyone", "__main__"]) > 10 << 20


def test_a_process_that_fails_is_told_in_one_line(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(UnavailableError, match=r"export_cost run` ended with 1: .+"):
        running_memory(tmp_path / "broken.onnx", SIZE, "onnxruntime", 1)
    with pytest.raises(UnavailableError, match="a preset must be one of"):
        export_cost("nobody", SIZE, "fp32", False, tmp_path / "out")


def test_a_run_goes_on_with_its_file_and_refuses_others(tmp_path, monkeypatch):
    asked = []

    def fake(begun, parts, settings, work, tell):
        asked.append(begun.key)
        return begun

    monkeypatch.setattr(module, "measure_cell", fake)
    out = tmp_path / "speed.json"

    def run(*more):
        arguments = ["--chains", "lite", "--resolutions", "32,64", "--out", str(out), *more]
        return CliRunner().invoke(main, arguments)

    assert run().exit_code == 0
    assert run("--markdown").exit_code == 0
    assert len(msgspec.json.decode(out.read_bytes(), type=ExportSpeed).cells) == 2
    assert len(asked) == 4 * len(PARTS)
    refused = run("--threads", "1")
    assert isinstance(refused.exception, UsageError)
    assert "must have the same threads" in str(refused.exception)
    assert isinstance(run("--parts", "spead").exception, UsageError)
