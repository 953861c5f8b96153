from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from depthmask.accuracy import Guess
from depthmask.bench.charts import (
    Styles,
    depth_delta1,
    distributions,
    load_chart,
    mask_iou,
    pareto,
    stages,
)
from depthmask.bench.report import report_page
from depthmask.bench.result import BenchResult
from depthmask.bench.sample_pictures import sample_pictures
from depthmask.bench.svg import Chart, Scale


def with_cells(result, points):
    """The result with a cell of each (latency, IoU)."""
    good = result.cells[0]
    cells = []
    for number, (ms, iou) in enumerate(points):
        latency = msgspec.structs.replace(
            good.latency, p50_ms=ms, samples_ms=(ms, ms * 1.1, ms * 3)
        )
        metrics = msgspec.convert(
            {**msgspec.to_builtins(good.accuracy), "mask": _mask(good.accuracy.mask, iou)},
            type(good.accuracy),
        )
        cells.append(
            msgspec.structs.replace(good, threads=number + 1, latency=latency, accuracy=metrics)
        )
    return msgspec.structs.replace(result, cells=tuple(cells))


def _mask(metrics, iou):
    return {**msgspec.to_builtins(metrics), "iou": iou}


def test_the_front_is_of_cells_that_no_other_beats_in_both(result):
    points = [(1.0, 0.3), (2.0, 0.5), (3.0, 0.4), (4.0, 0.7)]
    drawn = ElementTree.fromstring(pareto(with_cells(result, points), mask_iou, "IoU"))
    (front,) = drawn.findall("polyline")
    assert len(front.get("points").split()) == 3
    assert len(drawn.findall("g")) == 4
    titles = [mark.find("title").text for mark in drawn.findall("g")]
    assert titles[2].endswith("3.00 ms, IoU 0.400")


def test_what_was_not_judged_is_not_drawn(result):
    bare = msgspec.structs.replace(result.cells[0], accuracy=None)
    unjudged = msgspec.structs.replace(result, cells=(bare,))
    assert pareto(unjudged, mask_iou, "IoU") is None
    assert pareto(unjudged, depth_delta1, "δ1") is None
    assert distributions(unjudged) is not None
    failed = msgspec.structs.replace(result, cells=result.cells[1:])
    assert distributions(failed) is stages(failed) is load_chart(failed, Styles(failed)) is None


def test_load_is_a_line_of_what_was_sustained_and_a_faint_mark_of_what_was_not(loaded):
    drawn = ElementTree.fromstring(load_chart(loaded, Styles(loaded)))
    marks = drawn.findall("g")
    assert ["faint" in mark.get("class") for mark in marks] == [False, True]
    assert marks[1].find("title").text.endswith("longest 987.50 ms, not sustained")
    (line,) = drawn.findall("polyline")
    assert len(line.get("points").split()) == 1
    page = report_page(loaded)
    for heading in ("Under load", "Latency under load", "Flicker"):
        assert f"<h2>{heading}</h2>" in page


def test_a_report_is_whole_without_any_other_file(result):
    page = report_page(with_cells(result, [(1.0, 0.3), (2.0, 0.5)]))
    assert set(re.findall(r'(?:src|href)="([a-z]+:)', page)) <= {"data:"}
    assert "http" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    (raw,) = re.findall(r'<script type="application/json" id="result">(.*?)</script>', page, re.S)
    inside = msgspec.convert(json.loads(raw), BenchResult)
    assert len(inside.cells) == 2
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_names_in_a_report_are_text_and_not_markup(result):
    evil = '</script><b onload="x">'
    cells = tuple(msgspec.structs.replace(cell, bundle=evil) for cell in result.cells)
    page = report_page(msgspec.structs.replace(result, cells=cells))
    assert evil not in page
    assert page.count("<script") == page.count("</script>") == 1


def test_an_unfinished_benchmark_says_so(result):
    page = report_page(msgspec.structs.replace(result, rounds_done=2))
    assert "INTERRUPTED after 2 of 5 rounds" in page


@pytest.mark.parametrize(("low", "high"), [(1.2, 3.4), (0.3, 900), (10, 10.4), (1e-4, 2e-4)])
@pytest.mark.parametrize("log", [True, False])
def test_scales_have_ticks_inside(low, high, log):
    scale = Scale.around([low, high], log=log)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 14
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert 0 < scale.share(low) < scale.share(high) < 1


def test_a_scale_of_one_value_has_room(result):
    for log in (True, False):
        assert 0 < Scale.around([7.0], log=log).share(7.0) < 1
    assert Scale.around([0.0]).share(0.0) == 0.5


def test_text_in_a_chart_is_escaped():
    chart = Chart(Scale(0, 1), Scale(0, 1), "a < b & c")
    chart.mark(0.5, 0.5, 0, 0, "<evil>")
    root = ElementTree.fromstring(chart.svg("<x>"))
    assert root.find("g/title").text == "<evil>"


def test_sample_pictures_show_where_it_is_wrong(samples):
    def nothing(frame_HW3):
        size = frame_HW3.shape[:2]
        return Guess(np.zeros(size, np.float32), np.ones(size, np.float32))

    pictures = sample_pictures(nothing, samples, "foreground", 2)
    assert [picture.name for picture in pictures] == ["0", "2"]
    assert pictures[0].titles == (
        "image",
        "mask",
        "mask: false, missed",
        "depth",
        "depth: error",
    )
    assert all(picture.jpeg.startswith(b"\xff\xd8") for picture in pictures)
