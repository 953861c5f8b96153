from __future__ import annotations

import cv2
import msgspec
import numpy as np
import pytest
from rich.console import Console

from depthmask.bench.conditions import Conditions
from depthmask.bench.gpu_conditions import GpuConditions
from depthmask.bench.latency import Turn
from depthmask.bench.table import HEADINGS, markdown_table, notes, rich_table


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


def test_markdown_is_a_table(result):
    lines = markdown_table(result).splitlines()
    assert lines[0] == "| " + " | ".join(HEADINGS) + " |"
    assert all(line.count("|") == len(HEADINGS) + 1 for line in lines[:4])
    assert (
        "| 11.00 | 1.00 | 9.00 | 1.00 | 12.00 | - | 90.9 | 123 | 0.625 | 0.812 | 3e-05 |"
        in lines[2]
    )
    assert lines[3].count(" - ") == 11
    assert lines[5].startswith("Machine: A CPU")


def test_a_result_without_labels_says_so(result):
    bare = msgspec.structs.replace(result.cells[0], accuracy=None)
    text = markdown_table(msgspec.structs.replace(result, cells=(bare,)))
    assert "Accuracy was not measured." in text


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
