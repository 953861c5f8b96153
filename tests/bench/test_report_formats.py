"""Reports in Markdown and CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec
import pytest

from depthmask.bench.report_csv import report_csv
from depthmask.bench.report_formats import render_report
from depthmask.bench.report_markdown import report_markdown
from depthmask.errors import UsageError


def csv_rows(result):
    return list(csv.DictReader(io.StringIO(report_csv(result))))


def tables(markdown):
    """By heading, the rows of each table as dictionaries."""
    found = {}
    for block in markdown.split("\n## ")[1:]:
        lines = [line for line in block.splitlines() if line.startswith("| ")]
        if lines:
            cut = [[text.strip() for text in line[2:-2].split(" | ")] for line in lines]
            found[block.splitlines()[0]] = [dict(zip(cut[0], row, strict=True)) for row in cut[2:]]
    return found


def test_markdown_has_the_machine_the_tables_and_what_failed(loaded):
    text = report_markdown(loaded)
    found = tables(text)
    good, bad = found["All cells"]
    assert (good["size"], good["p50 ms"], good["mask IoU"]) == ("64x96", "11.00", "0.625")
    assert (good["mask flicker"], good["differs"]) == ("0.0125", "3e-05")
    assert set(list(bad.values())[3:]) == {"-"}
    assert [row["sustained"] for row in found["Under load"]] == ["yes", "no"]
    assert found["Accuracy, with 95 % intervals"][0]["boundary IoU"] == "0.300"
    assert found["Flicker"][0]["left out"] == "1"
    assert (
        "## Cells without numbers\n\n- b\\[red\\] 64x96 openvino failed: no \\[cpu\\] \\| left"
        in text
    )
    for expected in ("Machine: A CPU", "- Not steady after the warm-up", "- numpy 2"):
        assert expected in text


def test_markdown_shows_no_markup_of_others(result):
    evil = "<b>|*x*\n# heading"
    cells = tuple(msgspec.structs.replace(cell, bundle=evil) for cell in result.cells)
    text = report_markdown(msgspec.structs.replace(result, cells=cells))
    assert "<b>" not in text.replace("\\<b\\>", "")
    assert "\n# heading" not in text


def test_csv_has_a_row_per_cell_and_nothing_but_values(loaded):
    good, bad = csv_rows(loaded)
    assert good["latency_p50_ms"] == "11.0"
    assert good["latency_inference_p50_ms"] == "9.0"
    assert good["mask_iou"] == "0.625"
    assert good["depth_in_mask_unaligned_rmse_m"] == "1"
    assert good["depth_in_mask_median_scaled_delta1"] == "0.8125"
    assert good["flicker_mask"] == "0.0125"
    assert (good["at_10_per_s_sustained"], good["at_200_per_s_sustained"]) == ("True", "False")
    assert good["peak_memory_bytes"] == "123400000"
    assert (good["threads"], good["latency_p99_ms"], good["depth_frame_unaligned_mae_m"]) == (
        "",
    ) * 3
    assert (bad["status"], bad["problem"]) == ("failed", "no [cpu] | left")
    assert bad["latency_p50_ms"] == bad["mask_iou"] == bad["at_10_per_s_p50_ms"] == ""
    assert (bad["machine_cpu"], bad["numpy_version"], bad["complete"]) == ("A CPU", "2", "True")
    for value in (*good.values(), *bad.values()):
        assert value.lower() not in ("nan", "inf", "none")
        assert "(" not in value


def test_csv_of_any_two_benchmarks_has_the_same_columns(result):
    bare = msgspec.structs.replace(result.cells[0], accuracy=None, agreement=None)
    other = csv_rows(msgspec.structs.replace(result, cells=(bare,)))
    assert list(other[0]) == list(csv_rows(result)[0])


def test_intervals_of_accuracy_have_columns_of_their_own(result):
    accuracy = msgspec.structs.replace(
        result.cells[0].accuracy, intervals={"mask.iou": (0.5, 0.75)}
    )
    cell = msgspec.structs.replace(result.cells[0], accuracy=accuracy)
    (row,) = csv_rows(msgspec.structs.replace(result, cells=(cell,)))
    assert (row["mask_iou_lower"], row["mask_iou_upper"]) == ("0.5", "0.75")
    assert row["mask_dice_lower"] == ""


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("r.html", "INTERRUPTED after 2 of 5 rounds"),
        ("R.MD", "INTERRUPTED after 2 of 5 rounds"),
        ("r.csv", ",2,0,False,"),
    ],
)
def test_every_format_says_that_a_result_is_partial(result, name, mark):
    part = msgspec.structs.replace(result, rounds_done=2)
    assert mark in render_report(Path(name), part).decode("utf-8")
    assert mark not in render_report(Path(name), result).decode("utf-8")


def test_another_format_is_refused(result):
    with pytest.raises(UsageError, match=r"must end in \.html, \.md or \.csv, but got r\.pdf"):
        render_report(Path("r.pdf"), result)
