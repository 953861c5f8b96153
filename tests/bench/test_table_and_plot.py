from __future__ import annotations

import cv2
import msgspec
import numpy as np
import pytest
from rich.console import Console

from depthmask.bench.table import HEADINGS, markdown_table, rich_table


def terminal_text(renderable, width):
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_the_terminal_shows_numbers_the_machine_and_problems(result):
    text = terminal_text(rich_table(result), 120)
    for expected in ("b[red] fp32", "64x96", "11.00", "90.9", "0.625", "0.812", "3e-05"):
        assert expected in text
    assert "A CPU, 2 of 4 logical cores" in text
    assert "b[red] 64x96 openvino failed: no [cpu] | left" in text
    assert "Not steady after the warm-up: b[red] 64x96 onnxruntime" in text


def test_several_bundles_have_a_column(result):
    other = msgspec.structs.replace(result.cells[0], bundle="other")
    both = msgspec.structs.replace(result, cells=(result.cells[0], other))
    text = terminal_text(rich_table(both), 120)
    assert "bundle" in text
    assert "other fp32" in text


def test_markdown_is_a_table(result):
    lines = markdown_table(result).splitlines()
    assert lines[0] == "| " + " | ".join(HEADINGS) + " |"
    assert all(line.count("|") == len(HEADINGS) + 1 for line in lines[:4])
    assert "| 11.00 | 12.00 | - | 90.9 | 0.625 | 0.812 | 3e-05 |" in lines[2]
    assert lines[3].count(" - ") == 7
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
