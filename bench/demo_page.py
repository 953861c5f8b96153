"""The demo's report: one HTML file with its pictures inside, readable offline, in light and in dark."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from depthmask.bench.cells import DEFAULT_RUNTIMES
from depthmask.bench.result import BenchResult
from depthmask.bench.table import HEADINGS, cells_of, compact, notes
from depthmask.bundle import Bundle
from depthmask.export.verify import VerifyReport
from depthmask.video.runner import RunSummary

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
.wide { overflow-x: auto; }
img { max-width: 100%; border-radius: .3rem; } .plot { background: #fff; padding: .3rem; }
figure { margin: 1.2rem 0; } figcaption { opacity: .8; font-size: .9rem; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; border-radius: .3rem; }
.notes { opacity: .8; font-size: .9rem; white-space: pre-line; }
"""


@dataclass(frozen=True)
class DemoPicture:
    """A photograph, its mask and its depth side by side."""

    name: str
    jpeg: bytes


def demo_page(
    bundles: Sequence[Bundle],
    verified: Mapping[str, VerifyReport],
    bench: BenchResult,
    plot_png: bytes,
    pictures: Mapping[str, Sequence[DemoPicture]],
    run: RunSummary,
) -> str:
    """The whole page, with `pictures` by preset; nothing in it is fetched from elsewhere."""
    sections = [
        "<h1>depthmask: the whole path, on this machine</h1>",
        f"<p>{escape(bench.machine.summary)}, {escape(bench.made_at)}. The shipped <code>lite</code>"
        " and <code>lite-relevance</code> chains were exported, compared with PyTorch and run on the"
        " shipped photographs, and <code>lite</code> was measured.</p>",
        "<h2>lite on photographs: input, mask, depth</h2>",
        f"<p>{run.frames} photographs at {run.frames_per_s:.1f} a second, reading, drawing and"
        " writing PNG files included; the files are in <code>photos/</code>. Each depth has its own"
        " colour scale. None of these was trained on; where one fails, that is shown, not hidden.</p>",
        *(_figure(picture) for picture in pictures["lite"]),
        "<h2>lite-relevance on the same photographs</h2>",
        "<p>Its mask keeps as few pixels as the depth of the whole frame needs.</p>",
        *(_figure(picture) for picture in pictures["lite-relevance"]),
        "<h2>Bundles and their agreement with PyTorch</h2>",
        _verification(verified),
        f"<p>{escape(_bundle_line(bundles))} On a CPU, fp16 graphs are computed in float32 between"
        " values rounded to float16.</p>",
        "<h2>Latency and accuracy</h2>",
        _benchmark(bench),
        f'<p><img class="plot" alt="latency against accuracy" src="{_inline(plot_png, "png")}"></p>',
        f'<p class="notes">{escape(notes(bench))}</p>',
        "<h2>Do it yourself</h2>",
        "<pre>dmx export --fp16\ndmx verify lite-224-fp16\n"
        "dmx bench --resolutions 64,128,224\ndmx run --source photos/ --out out/</pre>",
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>depthmask demo</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _figure(picture: DemoPicture) -> str:
    name = escape(picture.name)
    return (
        f'<figure><img alt="{name}: photograph, mask, depth" src="{_inline(picture.jpeg, "jpeg")}">'
        f"<figcaption>{name}</figcaption></figure>"
    )


def _verification(verified: Mapping[str, VerifyReport]) -> str:
    rows = [
        (
            name,
            str(parity.resolution),
            "holds" if parity else "DOES NOT HOLD",
            *(f"{agreement.relative_error:.1e}" for agreement in parity.agreements),
            f"{parity.agreements[0].tolerance:g}",
        )
        for name, report in verified.items()
        for parity in report.parities
    ]
    return _table(("bundle", "resolution", "", "mask error", "depth error", "allowed"), rows)


def _benchmark(bench: BenchResult) -> str:
    table = _table(compact(HEADINGS), [compact(cells_of(cell)) for cell in bench.cells])
    measured = {cell.runtime for cell in bench.cells}
    missing = " and ".join(name for name in DEFAULT_RUNTIMES if name not in measured)
    return (
        f"{table}<p>Not installed here, so neither verified nor measured: {missing}.</p>"
        if missing
        else table
    )


def _bundle_line(bundles: Sequence[Bundle]) -> str:
    sizes = "; ".join(
        f"{bundle.path.name} {sum(f.size_bytes for f in bundle.manifest.files.values()) / 1e6:.1f} MB"
        f" with {', '.join(map(str, bundle.manifest.resolutions))}"
        for bundle in bundles
    )
    return (
        "Errors are the largest difference from the fp32 PyTorch chain, as a share of the output's"
        f" range. Sizes, with these resolutions and the reference frames: {sizes}."
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _inline(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
