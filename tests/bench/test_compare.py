from __future__ import annotations

import msgspec
import numpy as np
import pytest

from depthmask import bench
from depthmask.bench.compare import Comparison, change_text, check_limits, compare_side_by_side
from depthmask.bench.compare_table import notes
from depthmask.bench.conditions import Conditions
from depthmask.bench.latency import Turn
from depthmask.errors import CheckFailedError, UsageError

replace = msgspec.structs.replace


@pytest.fixture
def benchmark(result):
    """A benchmark of cells that are given as changes of the first cell of `result`."""
    calm = Conditions(
        seconds=1.0,
        other_load_cores=None,
        stolen_cores=None,
        clock_mhz=None,
        temperature_c=None,
        throttled=None,
        preemptions=None,
    )

    def cell(samples_ms, rounds=5, spoilt_by=(), speed_ms=(), **changes):
        runs = [len(part) for part in np.array_split(samples_ms, rounds)]
        latency = replace(
            result.cells[0].latency,
            runs=len(samples_ms),
            samples_ms=tuple(map(float, samples_ms)),
            turns=tuple(Turn(runs=count, conditions=calm) for count in runs),
            spoilt_by=spoilt_by,
            speed_at=tuple(range(len(speed_ms))),
            speed_ms=tuple(map(float, speed_ms)),
        )
        return replace(result.cells[0], latency=latency, **changes)

    def make(*cells, **changes):
        whole = replace(result, cells=tuple(cell(**settings) for settings in cells))
        machine = replace(whole.machine, **changes.pop("machine", {}))
        return replace(whole, machine=machine, **changes)

    return make


def noisy(median_ms, seed=0, runs=1500):
    return median_ms * np.exp(0.03 * np.random.default_rng(seed).standard_normal(runs))


def test_every_cell_is_compared_with_its_like(benchmark):
    a = benchmark(
        {"samples_ms": noisy(10, 1)},
        {"samples_ms": noisy(20, 2), "runtime": "openvino"},
        {"samples_ms": noisy(30, 3), "threads": 1},
    )
    b = benchmark(
        {"samples_ms": noisy(30, 4), "threads": 1},
        {"samples_ms": noisy(21, 5), "runtime": "openvino"},
        {"samples_ms": noisy(9, 6)},
    )
    comparison = bench.compare(a, b)
    found = [(one.runner, one.verdict) for one in comparison.cells]
    assert found == [
        ("onnxruntime, 1 thread", "no difference shown"),
        ("openvino", "slower"),
        ("onnxruntime", "faster"),
    ]
    slower = comparison.cells[1]
    assert slower.p50.lower < 0.05 < slower.p50.upper
    assert slower.p50.a_ms == pytest.approx(20, rel=0.01)
    assert slower.p99.verdict == "slower"
    assert comparison.unmatched == ()
    assert "1 slower, 1 faster, 1 no difference shown, 0 cannot tell (" in comparison.summary


def test_a_result_does_not_differ_from_itself(benchmark):
    a = benchmark({"samples_ms": noisy(10)}, {"samples_ms": noisy(20), "batch": 4})
    comparison = bench.compare(a, a)
    assert {cell.verdict for cell in comparison.cells} == {"no difference shown"}
    assert comparison.changed == ()
    document = msgspec.json.encode(comparison)
    assert msgspec.json.decode(document, type=Comparison) == comparison


def test_what_the_other_result_lacks_is_named(benchmark, result):
    same = {"samples_ms": noisy(10)}
    a = benchmark(same, {**same, "height_px": 32})
    b = benchmark(same, {**same, "precision": "fp16"})
    b = replace(b, cells=(*b.cells, result.cells[1]))
    comparison = bench.compare(a, b)
    assert len(comparison.cells) == 1
    assert {one.cell: one.reason for one in comparison.unmatched} == {
        "b[red] fp16 64x96 onnxruntime": "measured only in B",
        "b[red] fp32 32x96 onnxruntime": "measured only in A",
        "b[red] fp32 64x96 openvino": "failed in B: no [cpu] | left",
    }
    assert "; 3 not compared" in comparison.summary


def test_the_name_of_a_bundle_matters_only_among_several_alike(benchmark):
    old, new = ({"samples_ms": noisy(10), "bundle": name} for name in ("old", "new"))
    (one,) = bench.compare(benchmark(old), benchmark(new)).cells
    assert (one.bundle_a, one.bundle_b) == ("old", "new")
    comparison = bench.compare(benchmark(old, new), benchmark(new))
    assert [(one.bundle_a, one.bundle_b) for one in comparison.cells] == [("new", "new")]
    assert [one.reason for one in comparison.unmatched] == ["measured only in A"]


def test_results_without_a_common_cell_are_refused(benchmark):
    a, b = ({"samples_ms": noisy(10), "runtime": name} for name in ("openvino", "torch"))
    with pytest.raises(UsageError, match=r"share none: b\[red\] fp32 64x96 torch: measured only"):
        bench.compare(benchmark(a), benchmark(b))
    with pytest.raises(UsageError, match="both are empty"):
        bench.compare(benchmark(), benchmark())


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"cpu": "Another"}, "the processor is A CPU in A and Another in B"),
        ({"usable_cores": 1}, "the number of usable cores is 2 in A and 1 in B"),
        ({"cpu_quota_cores": 1.5}, "the quota of cores is None in A and 1.5 in B"),
        ({"gpus": ("H100",)}, "the list of GPUs is empty in A and H100 in B"),
        ({"memory_bytes": 16 << 30}, "the memory is 8.0 GiB in A and 16.0 GiB in B"),
        ({"memory_bytes": None}, "the memory is 8.0 GiB in A and unknown in B"),
    ],
)
def test_other_machines_are_refused(benchmark, machine, message):
    a = benchmark({"samples_ms": noisy(10)})
    with pytest.raises(UsageError, match=f"must be of one machine.*{message}"):
        bench.compare(a, benchmark({"samples_ms": noisy(10)}, machine=machine))


def test_other_frames_are_refused(benchmark):
    a = benchmark({"samples_ms": noisy(10)})
    with pytest.raises(UsageError, match=r"same sizes, but got 16x16 and 480x640\."):
        bench.compare(a, replace(a, frame_sizes=("480x640",)))


def test_what_else_changed_is_listed(benchmark):
    same = {"samples_ms": noisy(10)}
    a = benchmark(same)
    machine = {"python": "3.12", "memory_bytes": (8 << 30) - (50 << 20), "load_1min": 2.5}
    machine["packages"] = {"numpy": "2.1", "onnxruntime": "1.32"}
    found = bench.compare(a, benchmark(same, machine=machine, data="other")).changed
    assert {one.what: (one.a, one.b) for one in found} == {
        "data": ("data", "other"),
        "python": ("3.11", "3.12"),
        "load": ("0.5", "2.5"),
        "numpy": ("2", "2.1"),
        "onnxruntime": (None, "1.32"),
    }


@pytest.mark.parametrize(
    ("runs", "others", "remark"),
    [
        (1, 1, "A has 1 samples, which do not carry p50"),
        (200, 0, "A has 2.00 s, where 7.2 s are needed"),
        (200, 1, None),  # the other cell's turns were between its own: 17 s in all
    ],
)
def test_what_is_too_short_is_not_judged(benchmark, runs, others, remark):
    cells = [{"samples_ms": noisy(10, 1)[:runs]}]
    cells += [{"samples_ms": noisy(10), "runtime": "openvino"}] * others
    a = benchmark(*cells)
    cell = bench.compare(a, a).cells[0]
    assert cell.p50.remark == remark
    assert cell.p99 is None
    assert (cell.verdict == "cannot tell") == (remark is not None)


def test_a_spoilt_recording_is_said_to_be_one(benchmark):
    calm = benchmark({"samples_ms": noisy(10)})
    spoilt = benchmark({"samples_ms": noisy(10), "spoilt_by": ("heat",)})
    (cell,) = bench.compare(calm, spoilt).cells
    assert cell.spoilt_by == ("B: heat",)


def test_limits_hold_the_whole_interval(benchmark):
    a = benchmark({"samples_ms": noisy(10, 1)}, {"samples_ms": noisy(10, 2), "runtime": "torch"})
    b = benchmark({"samples_ms": noisy(11, 3)}, {"samples_ms": noisy(11, 4), "runtime": "torch"})
    comparison = bench.compare(a, b)
    assert all(0.08 < cell.p50.lower < 0.12 for cell in comparison.cells)
    check_limits(comparison, {})
    check_limits(comparison, {"slower": 0.12, "p99-slower": 0.2})
    with pytest.raises(CheckFailedError) as failed:
        check_limits(comparison, {"slower": 0.03, "p99-slower": 0.01})
    message = str(failed.value)
    assert "no cell may be slower by more than 3%, but that is proven of 2 of 2: b[red]" in message
    assert "no cell may be p99-slower by more than 1%" in message
    worst = max(comparison.cells, key=lambda cell: cell.p50.lower)
    assert f"{worst.label}, {change_text(worst.p50)}" in message
    check_limits(bench.compare(b, a), {"slower": 0})


def test_what_cannot_be_told_passes_the_limits(benchmark):
    a = benchmark({"samples_ms": noisy(10)[:5]})
    b = benchmark({"samples_ms": noisy(20)[:5]})
    comparison = bench.compare(a, b)
    assert change_text(comparison.cells[0].p50) == "+100.0%"
    check_limits(comparison, {"slower": 0, "p99-slower": 0})


def test_the_machine_is_taken_out_where_the_same_work_was_timed(benchmark):
    jumps = np.repeat(np.random.default_rng(0).normal(0, 0.1, 30), 50)
    slow = {"samples_ms": noisy(20, 1) * np.exp(jumps), "speed_ms": 0.2 * np.exp(jumps)}
    slower = {"samples_ms": noisy(24, 2) * np.exp(jumps), "speed_ms": 0.24 * np.exp(jumps)}
    comparison = bench.compare(benchmark(slow), benchmark(slower))
    (cell,) = comparison.cells
    assert cell.p50.machine_change == pytest.approx(0.2, abs=0.03)
    assert cell.p50.change == pytest.approx(0, abs=0.01)
    assert f"took {cell.p50.machine_change:+.1%} longer during B" in notes(comparison)


def test_work_of_another_numpy_is_not_the_same(benchmark):
    jumps = np.repeat(np.random.default_rng(0).normal(0, 0.1, 30), 50)
    cell = {"samples_ms": noisy(20, 1) * np.exp(jumps), "speed_ms": 0.2 * np.exp(jumps)}
    other = benchmark(cell, machine={"packages": {"numpy": "0.1"}})
    assert bench.compare(benchmark(cell), other).cells[0].p50.machine_change is None


def test_bundles_of_one_result_are_compared_side_by_side(benchmark):
    wander = np.repeat(np.exp(0.2 * np.random.default_rng(3).standard_normal(30)), 50)
    both = benchmark(
        {"samples_ms": wander * noisy(10, 1), "rounds": 30},
        {"samples_ms": wander * noisy(20, 2), "rounds": 30, "runtime": "openvino"},
        {
            "samples_ms": wander * noisy(10.7, 4),
            "rounds": 30,
            "bundle": "int8",
            "precision": "int8",
        },
        {"samples_ms": noisy(3, 5), "bundle": "int8", "threads": 7},
    )
    found = compare_side_by_side(both)
    (cell,) = found.cells
    assert (cell.bundle_b, cell.precision_a, cell.precision) == ("int8", "fp32", "int8")
    assert cell.verdict == "slower"
    assert cell.p50.upper - cell.p50.lower < 0.05
    assert cell.p99 is not None
    (alone,) = found.unmatched
    assert "has no such cell" in alone.reason


def test_one_bundle_alone_is_refused(benchmark):
    with pytest.raises(UsageError, match=r"Try `dmx bench A B --rounds 30`, or a second result"):
        compare_side_by_side(benchmark({"samples_ms": noisy(10)}))
