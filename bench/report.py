"""A benchmark as one HTML file: charts, tables, pictures and the raw result inside.

Nothing is fetched and nothing runs: no script, no font, no address. Right in light and dark, on a phone
and on paper.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import msgspec

from depthmask.bench.charts import (
    Styles,
    depth_delta1,
    distributions,
    load_chart,
    mask_iou,
    pareto,
    roofline_chart,
    stages,
)
from depthmask.bench.report_tables import report_tables
from depthmask.bench.result import BenchResult
from depthmask.bench.roofline import Roofline
from depthmask.bench.roofline_table import TOP_NODES
from depthmask.bench.sample_pictures import SamplePicture
from depthmask.bench.table import TextTable, notes

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --ink: #222; --paper: #fff;
  --k0: #0072b2; --k1: #e69f00; --k2: #009e73; --k3: #cc79a7; --k4: #56b4e9; --k5: #d55e00;
  --k6: #7f7f7f; --k7: #b8a800; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181c; --k0: #4aa8e0;
  --k1: #f2b84b; --k2: #35c79a; --k3: #e29bc4; --k4: #8fd0f5; --k5: #ff8a4c; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .86rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
.wide { overflow-x: auto; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 1.2rem 0; } figcaption, .notes, .legend { opacity: .85; font-size: .9rem; }
.notes { white-space: pre-line; } .warn { border-left: 4px solid var(--k5); padding-left: .8rem; }
img { max-width: 100%; border-radius: .3rem; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: .3rem; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 11px; fill: var(--ink); }
svg .label { font-size: 12px; } .grid { stroke: var(--line); }
.key { display: inline-flex; align-items: center; gap: .35rem; margin-right: 1rem; }
.key svg { width: 14px; height: 14px; display: inline; }
.front { fill: none; stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 4 3; }
.roof { fill: none; stroke: var(--ink); stroke-width: 1.6; }
.whisker, .median { fill: none; stroke: var(--ink); } .median { stroke-width: 2; }
.box { fill: var(--k0); fill-opacity: .3; stroke: var(--k0); }
.l0 { stroke: var(--k0); } .l1 { stroke: var(--k1); } .l2 { stroke: var(--k2); }
.l3 { stroke: var(--k3); } .l4 { stroke: var(--k4); } .l5 { stroke: var(--k5); }
.l6 { stroke: var(--k6); } .l7 { stroke: var(--k7); } .faint { opacity: .4; }
.curve { fill: none; stroke-width: 1.6; }
.dot { fill: var(--k0); fill-opacity: .35; } .plain { fill: var(--ink); }
.c0 { fill: var(--k0); } .c1 { fill: var(--k1); } .c2 { fill: var(--k2); } .c3 { fill: var(--k3); }
.c4 { fill: var(--k4); } .c5 { fill: var(--k5); } .c6 { fill: var(--k6); } .c7 { fill: var(--k7); }
.s0 { fill: var(--k6); fill-opacity: .45; } .s1 { fill: var(--k4); } .s2 { fill: var(--k0); }
.s3 { fill: var(--k1); } .s4 { fill: var(--k2); } .s5 { fill: var(--k3); }
@media print { body { max-width: none; margin: 0; } figure, svg, tr { break-inside: avoid; }
  .wide { overflow: visible; } table { font-size: .6rem; } th, td { padding: .1rem .25rem; } }
"""
_JSON_ID = "result"

Pictures = Mapping[str, Sequence[SamplePicture]]
"""By what made them."""


def report_page(
    result: BenchResult, pictures: Pictures | None = None, rooflines: Sequence[Roofline] = ()
) -> str:
    """The whole page."""
    title = f"depthmask benchmark, {result.made_at}"
    body = [f"<h1>{escape(title)}</h1>", *report_sections(result, pictures or {}, rooflines)]
    return html_page(title, body)


def html_page(title: str, body: Sequence[str]) -> str:
    """A page around sections."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def html_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts that scrolls by itself where the page is narrow."""
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def report_sections(
    result: BenchResult, pictures: Pictures, rooflines: Sequence[Roofline]
) -> list[str]:
    """The parts of the page, for a page of one's own."""
    styles = Styles(result)
    fronts = [
        chart
        for value_of, label in ((mask_iou, "mask IoU"), (depth_delta1, "depth δ1, median-scaled"))
        if (chart := pareto(result, value_of, label)) is not None
    ]
    sections = [_warnings(result)]
    if fronts:
        drawn = "".join(f"<figure>{chart}</figure>" for chart in fronts)
        sections += [
            "<h2>What accuracy costs in time</h2>",
            f'<div class="two">{drawn}</div>{styles.legend()}',
            "<p>The dashed line is the front: nothing measured here is both faster and more accurate"
            " than what lies on it.</p>",
        ]
    for table in report_tables(result):
        sections.append(_table(table))
    for heading, chart in (
        ("Latency under load", _load(result, styles)),
        ("How the times spread", distributions(result)),
        ("What a call consists of", stages(result)),
        ("How near to what the machine can do", roofline_chart(rooflines)),
    ):
        if chart is not None:
            sections += [f"<h2>{heading}</h2>", f"<figure>{chart}</figure>"]
    sections += [_slowest_nodes(one) for one in rooflines]
    for name, shown in pictures.items():
        sections += [f"<h2>{escape(name)}: samples</h2>", *map(_figure, shown)]
    return [*sections, _machine(result), _raw(result)]


def _warnings(result: BenchResult) -> str:
    words = escape(notes(result))
    bad = not result.complete or any(
        cell.latency and cell.latency.spoilt_by for cell in result.cells
    )
    return f'<p class="notes{" warn" if bad or result.problems else ""}">{words}</p>'


def _table(table: TextTable) -> str:
    note = f'<p class="notes">{escape(table.note)}</p>' if table.note else ""
    return f"<h2>{escape(table.heading)}</h2>{html_table(table.headings, table.rows)}{note}"


def _load(result: BenchResult, styles: Styles) -> str | None:
    chart = load_chart(result, styles)
    if chart is None:
        return None
    return (
        f'{chart}{styles.legend()}<p class="notes">Medians. Faint: a rate that was not sustained, with'
        " the longest time that a frame took before the measurement ended.</p>"
    )


def _slowest_nodes(found: Roofline) -> str:
    rows = [
        (
            node.stage,
            node.op_type,
            node.site,
            f"{node.median_ms:.3f}",
            f"{node.share:.1%}",
            "-" if node.gflop_per_s is None else f"{node.gflop_per_s:.1f}",
        )
        for node in found.node_times.nodes[:TOP_NODES]
    ]
    title = f"{found.bundle} at {found.height_px}x{found.width_px} on {found.runtime}"
    return (
        f"<h3>The ten slowest nodes of {escape(title)}</h3>"
        f"{html_table(('stage', 'operator', 'site', 'ms', 'share', 'GFLOP/s'), rows)}"
    )


def _figure(picture: SamplePicture) -> str:
    data = base64.b64encode(picture.jpeg).decode("ascii")
    words = escape(f"{picture.name}: {', '.join(picture.titles)}")
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{words}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _machine(result: BenchResult) -> str:
    machine = msgspec.to_builtins(result.machine)
    lines = "\n".join(f"{name}: {value}" for name, value in machine.items())
    return f"<h2>Machine and versions</h2><pre>{escape(lines)}</pre>"


def _raw(result: BenchResult) -> str:
    """The result as `dmx compare` takes it, with every sample."""
    document = msgspec.json.encode(result)
    data = base64.b64encode(document).decode("ascii")
    # "</" would end the element; in JSON the slash may be escaped.
    inside = document.decode("utf-8").replace("</", "<\\/")
    return (
        f'<p><a download="bench.json" href="data:application/json;base64,{data}">The raw result</a>,'
        " with every sample.</p>"
        f'<script type="application/json" id="{_JSON_ID}">{inside}</script>'
    )
