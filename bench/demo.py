"""The whole path on the shipped photographs: export, verify, benchmark, run, and a report of it all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from depthmask.atomic import new_folder
from depthmask.bench.demo_page import DemoPicture, demo_page
from depthmask.bench.grid import run_grid
from depthmask.bench.result import BenchResult, write_result
from depthmask.bundle import Bundle, Precision, open_bundle
from depthmask.errors import CheckFailedError
from depthmask.export.exporter import export_chain
from depthmask.export.source import open_chain
from depthmask.export.to_onnx import to_onnx
from depthmask.export.verify import VerifyReport, verify_bundle
from depthmask.frames import Resolution, read_image
from depthmask.pipeline import Pipeline
from depthmask.runtimes import installed
from depthmask.samples import open_samples, shipped_photos
from depthmask.video.overlay import Look, next_range, render
from depthmask.video.runner import RunSummary, run
from depthmask.video.sinks import FolderSink
from depthmask.video.sources import open_source

REPORT_FILE = "report.html"
RESOLUTIONS = tuple(Resolution(side, side) for side in (64, 128, 224))
_PICTURE_HEIGHT_PX = 220

Progress = Callable[[str], None]
"""Told of each phase as it begins."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo made."""

    report: Path
    bench: BenchResult
    verified: dict[str, VerifyReport]
    """By bundle and runtime."""
    run: RunSummary
    seconds: float


def run_demo(
    out: Path,
    *,
    resolutions: Sequence[Resolution] = RESOLUTIONS,
    seconds_per_cell: float = 1.5,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress = lambda phase: None,
) -> DemoResult:
    """Write bundles, a benchmark, pictures and report.html to `out`; nothing appears unless all is there.

    Args:
        out: the folder.
        resolutions: of lite's fp32 bundle, smallest first; the others have the last one only.
        seconds_per_cell: of the benchmark.
        overwrite: replace a folder that exists.
        threads: for inference.
        progress: told of each phase.

    Raises:
        UsageError: `out` exists and `overwrite` is off.
        OutputError: it cannot be written.
        CheckFailedError: a bundle does not agree with PyTorch, or a benchmark cell failed.
        UnavailableError: PyTorch or a runtime is not installed.
    """
    started = time.perf_counter()
    with new_folder(out, overwrite=overwrite) as folder:
        bundles = _export(folder, resolutions, progress)
        verified = _verify(bundles, threads, progress)
        progress("benchmarking")
        bench = run_grid(
            bundles[:1],
            samples=open_samples(),
            threads=[threads],
            seconds=seconds_per_cell,
            progress=lambda doing, done, total: progress(f"benchmarking: {doing}"),
        )
        if bench.problems:
            raise CheckFailedError(f"a benchmark cell failed: {bench.problems[0].problem}")
        write_result(bench, folder / "bench.json")
        progress("running on the photographs")
        summary = _run(folder, bundles[0], threads)
        progress("writing the report")
        page = demo_page(
            bundles,
            verified,
            bench,
            {bundle.manifest.chain.preset: _pictures(bundle, threads) for bundle in bundles[::2]},
            summary,
        )
        (folder / REPORT_FILE).write_text(page, encoding="utf-8")
    seconds = time.perf_counter() - started
    return DemoResult(out / REPORT_FILE, bench, verified, summary, seconds)


def _export(folder: Path, resolutions: Sequence[Resolution], progress: Progress) -> list[Bundle]:
    """`lite` in fp32 and in fp16, then `lite-relevance` in fp32."""
    opened, trace = cache(open_chain), cache(to_onnx)

    def export(preset: str, precision: Precision, sizes: Sequence[Resolution]) -> Bundle:
        chain, weights = opened(preset)
        return export_chain(
            chain,
            folder / f"{preset}-{precision}",
            resolution=sizes,
            precision=precision,
            weights=weights,
            data=open_samples(),
            progress=lambda phase: progress(f"exporting {preset} {precision}: {phase}"),
            trace=trace,
        )

    last = resolutions[-1:]
    return [
        export("lite", "fp32", resolutions),
        export("lite", "fp16", last),
        export("lite-relevance", "fp32", last),
    ]


def _verify(
    bundles: list[Bundle], threads: int | None, progress: Progress
) -> dict[str, VerifyReport]:
    """Every bundle on every runtime, as `dmx verify` would: opened again, files hashed."""
    reports = {}
    for bundle in bundles:
        for runtime in installed("graph"):
            progress(f"verifying {bundle.path.name} on {runtime}")
            opened = open_bundle(bundle.path)
            report = verify_bundle(opened, runtime=runtime, threads=threads)
            if not report:
                raise CheckFailedError(f"{bundle.path.name}: {'; '.join(report.failures())}")
            reports[f"{bundle.path.name} on {runtime}"] = report
    return reports


def _run(folder: Path, bundle: Bundle, threads: int | None) -> RunSummary:
    photos = shipped_photos()[0].parent
    with (
        Pipeline.open(bundle.path, threads=threads) as pipeline,
        open_source(str(photos)) as source,
    ):
        chain = pipeline.manifest.chain
        look = Look(chain.kind, chain.depth_unit)
        with FolderSink(folder / "photos", ("overlay", "mask", "depth"), look) as sink:
            return run(pipeline, source, sink)


def _pictures(bundle: Bundle, threads: int | None) -> list[DemoPicture]:
    """Every shipped photograph with its mask and depth, as JPEG."""
    pictures = []
    with Pipeline.open(bundle.path, threads=threads) as pipeline:
        chain = pipeline.manifest.chain
        for path in shipped_photos():
            photo = read_image(path)
            scale = _PICTURE_HEIGHT_PX / photo.shape[0]
            small = np.asarray(
                cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            )
            prediction = pipeline(small.astype(np.uint8))
            view = render(
                "side",
                small.astype(np.uint8),
                prediction,
                next_range(None, prediction, chain.kind),
                Look(chain.kind, chain.depth_unit),
            )
            _, jpeg = cv2.imencode(".jpg", view[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
            pictures.append(DemoPicture(path.stem.replace("_", " "), jpeg.tobytes()))
    return pictures
