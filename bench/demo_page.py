"""The demo's page: what was made and verified, photographs, and the benchmark's report."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from depthmask.bench.cells import DEFAULT_RUNTIMES
from depthmask.bench.report import html_page, html_table, report_sections
from depthmask.bench.result import BenchResult
from depthmask.bundle import Bundle
from depthmask.export.verify import VerifyReport
from depthmask.video.runner import RunSummary


@dataclass(frozen=True)
class DemoPicture:
    """A photograph, its mask and its depth side by side."""

    name: str
    jpeg: bytes


def demo_page(
    bundles: Sequence[Bundle],
    verified: Mapping[str, VerifyReport],
    bench: BenchResult,
    pictures: Mapping[str, Sequence[DemoPicture]],
    run: RunSummary,
) -> str:
    """The whole page, with `pictures` by preset; a `report.html_page`, so nothing is fetched."""
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
        _not_installed(bench),
        *report_sections(bench, {}, ()),
        "<h2>Do it yourself</h2>",
        "<pre>dmx export --fp16\ndmx verify lite-224-fp16\n"
        "dmx bench --resolutions 64,128,224\ndmx run --source photos/ --out out/</pre>",
    ]
    return html_page("depthmask demo", sections)


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
            parity.label,
            "holds" if parity else "DOES NOT HOLD",
            *(f"{agreement.relative_error:.1e}" for agreement in parity.agreements),
            "-"
            if parity.agreements[0].tolerance is None
            else f"{parity.agreements[0].tolerance:g}",
        )
        for name, report in verified.items()
        for parity in report.parities
    ]
    return html_table(("bundle", "resolution", "", "mask error", "depth error", "allowed"), rows)


def _not_installed(bench: BenchResult) -> str:
    measured = {cell.runtime for cell in bench.cells}
    missing = " and ".join(name for name in DEFAULT_RUNTIMES if name not in measured)
    return (
        f"<p>Not installed here, so neither verified nor measured: {missing}.</p>"
        if missing
        else ""
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


def _inline(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
