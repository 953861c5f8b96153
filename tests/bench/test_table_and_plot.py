from __future__ import annotations

import re

import cv2
import msgspec
import numpy as np
import pytest
from rich.console import Console

from depthmask.bench.conditions import Conditions
from depthmask.bench.gpu_conditions import GpuConditions
from depthmask.bench.latency import Turn
from depthmask.bench.table import cell_table, notes, rich_table


def terminal_text(renderable, width):
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_terminal_shows_numbers_the_machine_and_problems(result):
    text = terminal_text(rich_table(result), 100)
    for expected in ("b[red] fp32", "64x96", "11.00", "9.00", "0.625", "0.812", "3e-05", " 123 "):
        assert expected in text
    assert "A CPU, 2 of 4 logical cores" in text
    assert "b[red] 64x96 openvino failed: no [cpu] | left" in text
    assert "Not steady after the warm-up: b[red] 64x96 onnxruntime" in text


def test_several_bundles_have_a_column(result):
    other = msgspec.structs.replace(result.cells[0], bundle="other")
    both = msgspec.structs.replace(result, cells=(result.cells[0], other))
    text = terminal_text(rich_table(both), 100)
    assert "bundle" in text
    assert "other fp32" in text


def test_the_table_fits_100_columns_with_slow_cells_of_a_long_bundle(result):
    slow = msgspec.structs.replace(result.cells[0].latency, p50_ms=1234.56, p90_ms=2345.67)
    cells = [
        msgspec.structs.replace(result.cells[0], bundle=name, device="cuda", latency=slow)
        for name in ("a-foreground-chain-at-224-fp16", "other")
    ]
    text = terminal_text(rich_table(msgspec.structs.replace(result, cells=tuple(cells))), 100)
    for whole in ("64x96", "onnxruntime cuda", "1234.56", "2345.67", "123", "0.812", "3e-05"):
        assert text.count(whole) >= 2
    assert "…" not in text


def test_a_result_without_labels_says_so(result):
    bare = msgspec.structs.replace(result.cells[0], accuracy=None)
    text = terminal_text(rich_table(msgspec.structs.replace(result, cells=(bare,))), 200)
    assert "Accuracy was not measured: the data has no labels." in text
    assert "IoU" not in text
    failed = msgspec.structs.replace(result, cells=result.cells[1:])
    assert "Accuracy was not measured.\n" in terminal_text(rich_table(failed), 200) + "\n"


def test_flicker_and_load_are_shown_where_measured(loaded):
    text = terminal_text(rich_table(loaded), 100)
    for expected in ("flicker", "0.0125", "0.0625", "sustained", "987.50", "15 of 20"):
        assert expected in text
    assert "over 10 pairs of frames (1 left out)" in text
    slow = next(line for line in text.splitlines() if " 200 " in line)
    assert "12.50" not in slow  # times of a queue that grows are no percentiles
    assert "onnxruntime" in text


def test_long_recordings_have_intervals(result):
    samples_ms = np.random.default_rng(0).normal(10, 0.5, 2000).round(4)
    latency = msgspec.structs.replace(
        result.cells[0].latency,
        p50_ms=float(np.median(samples_ms)),
        p99_ms=float(np.quantile(samples_ms, 0.99)),
        samples_ms=tuple(samples_ms.tolist()),
    )
    cell = msgspec.structs.replace(result.cells[0], latency=latency)
    table = cell_table(msgspec.structs.replace(result, cells=(cell,)))
    row = dict(zip(table.headings, table.rows[0], strict=True))
    assert re.fullmatch(r"\d+\.\d\d \(9\.\d\d to 10\.\d\d\)", row["p50 ms"])
    assert "99 % intervals" in table.note


@pytest.mark.parametrize("kept", [1, 0])
def test_the_plot_is_a_png_even_without_numbers(result, kept):
    pytest.importorskip("matplotlib")
    from depthmask.bench.plot import plot_png

    shown = msgspec.structs.replace(result, cells=result.cells[1 - kept :])
    image = cv2.imdecode(np.frombuffer(plot_png(shown), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[1] > 1000
    assert image.std() > 1


@pytest.fixture
def on_gpu(result):
    """The result with its good cell run on a GPU, of which we are told `conditions`."""

    def make(conditions=None, **cell):
        machine = Conditions(
            seconds=1.0,
            other_load_cores=None,
            stolen_cores=None,
            clock_mhz=None,
            temperature_c=None,
            throttled=None,
            preemptions=None,
            gpu=conditions,
        )
        latency = msgspec.structs.replace(
            result.cells[0].latency,
            stage_p50_ms={"copy_to_device": 0.25, "inference": 2.0, "copy_back": 0.5},
            enqueue_p50_ms=1.9,
            turns=(Turn(runs=3, conditions=machine),),
        )
        made = msgspec.structs.replace(result.cells[0], device="cuda", latency=latency, **cell)
        return msgspec.structs.replace(result, cells=(made, result.cells[1]))

    return make


def test_a_cell_on_a_gpu_has_a_line_of_its_own(on_gpu):
    conditions = GpuConditions(
        sm_clock_mhz=(1800, 1980),
        memory_clock_mhz=None,
        power_w=310.4,
        temperature_c=54,
        clock_reasons=(),
        other_load=None,
    )
    text = notes(on_gpu(conditions, peak_device_memory_bytes=512_000_000))
    assert (
        "On the GPU, b[red] 64x96 onnxruntime cuda: copies 0.25 ms in, 0.50 ms back; 512 MB of its"
        " memory; clock 1800 to 1980 MHz, up to 310 W, up to 54 °C; bound by enqueueing: 1.90 ms of"
        " host work for 2.00 ms on the GPU." in text
    )


def test_a_gpu_that_was_not_asked_is_named(on_gpu, result):
    assert "clocks and power were not read" in notes(on_gpu())
    assert "GPU" not in notes(result)
