from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

from depthmask.export.int8 import Tradeoff
from depthmask.export.precision_search import Point
from depthmask.export.tradeoff import Box, Labels, draw
from depthmask.frames import Resolution

# What an export of lite tried: sites in int8, share of the budget, milliseconds.
TRIED = (
    (0, 0.0, 25.2, 16.0),
    (65, -0.72, 26.5, 13.9),
    (98, -0.63, 22.7, 12.44),
    (114, -0.21, 21.4, 11.41),
    (122, 0.74, 20.0, 10.63),
    (123, 1.29, 19.4, 10.50),
    (123, 0.53, 20.14, 10.54),
    (124, 1.23, 20.13, 10.36),
    (124, 0.53, 20.18, 10.28),
    (125, 0.53, 18.94, 9.98),
    (126, 5.40, 18.23, 10.06),
    (126, 0.53, 18.69, 10.08),
    (127, 0.53, 19.27, 9.91),
    (128, 0.53, 18.51, 9.86),
    (130, 7.26, 16.98, 9.73),
)


def tradeoff():
    points = tuple(
        Point(
            kept_fp32=(),
            int8_sites=sites,
            int8_mac_share=0.5,
            losses={},
            budget_share=share,
            latency_ms={"onnxruntime": first_ms, "openvino": second_ms},
        )
        for sites, share, first_ms, second_ms in TRIED
    )
    return Tradeoff(points, 13, ())


def parts(svg, tag):
    root = ElementTree.fromstring(svg)
    return [part for part in root.iter() if part.tag.endswith(f"}}{tag}")]


def test_no_label_lies_on_another_or_on_a_mark():
    svg = draw({Resolution(224, 224): tradeoff()})
    words = [t for t in parts(svg, "text") if t.get("class") in ("c0", "c1")]
    assert len(words) == 2 * len(TRIED)
    assert {t.text for t in words} == {str(sites) for sites, *_ in TRIED}
    boxes = []
    for text in words:
        left, baseline = float(text.get("x")), float(text.get("y"))
        boxes.append(Box(left, baseline - 8, left + 6.4 * len(text.text), baseline))
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    for mark in parts(svg, "circle"):
        x, y = float(mark.get("cx")), float(mark.get("cy"))
        dot = Box(x - 3, y - 3, x + 3, y + 3)
        assert not any(box.overlaps(dot) for box in boxes)


def test_the_picture_follows_the_readers_dark_mode_and_shows_what_was_chosen():
    svg = draw({Resolution(64, 64): tradeoff(), Resolution(224, 224): tradeoff()})
    style = parts(svg, "style")[0].text
    assert "@media (prefers-color-scheme: dark)" in style
    assert svg.count('class="chosen"') == 2 * 2
    coloured = [part.get("fill") or part.get("stroke") for part in parts(svg, "text")]
    assert not any(coloured)  # all by the style


def test_a_label_without_a_free_place_is_left_out():
    labels = Labels(Box(0, 0, 30, 12))
    assert labels.place(5, 6, 2, "12") is not None
    assert labels.place(5, 6, 2, "34") is None
