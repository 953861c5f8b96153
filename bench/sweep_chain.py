"""A sweep over a chain: its candidates are exported, and what was chosen is kept as a bundle."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from depthmask.bench.cells import all_cells
from depthmask.bench.machine import this_machine
from depthmask.bench.sweep import SweepResult, Tell, sweep
from depthmask.bundle import Bundle, Precision
from depthmask.chain import MaskDepthChain
from depthmask.errors import CheckFailedError
from depthmask.export.exporter import export_chain
from depthmask.export.to_onnx import to_onnx
from depthmask.frames import Resolution
from depthmask.samples import Samples

RESOLUTIONS = tuple(Resolution(side, side) for side in (64, 96, 128, 160, 192, 224, 256))


def sweep_chain(
    chain: MaskDepthChain,
    weights: dict[str, Any],
    samples: Samples,
    target_ms: float,
    out: Path,
    *,
    resolutions: Sequence[Resolution] | None = None,
    precisions: Sequence[Precision] | None = None,
    runtimes: Sequence[str] | None = None,
    device: str = "auto",
    threads: Sequence[int] | None = None,
    share: float = 0.99,
    limit: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    tell: Tell = lambda doing: None,
) -> tuple[SweepResult, Bundle]:
    """Find the most accurate way to run a chain within a latency target, and export it to `out`.

    Args:
        chain: with its weights.
        weights: what is recorded of them.
        samples: labelled.
        target_ms: of one call.
        out: the bundle's folder.
        resolutions: by default 64 to 256 px in steps.
        precisions: by default fp32; fp16 is as slow on a CPU.
        runtimes: by default those of onnxruntime and openvino that are installed.
        device: `auto`, `cpu` or `cuda`.
        threads: by default 1, and as many as there are cores.
        share: the percentile that must meet the target.
        limit: images for accuracy.
        seed: of the order of turns.
        overwrite: replace a bundle that exists.
        tell: told of every step.

    Raises:
        UsageError: the target or a setting is out of range, or `out` exists.
        InputError: the data have no labels.
        CheckFailedError: nothing meets the target, or an export does not agree with PyTorch.
        UnavailableError: a runtime is not installed.
        OutputError: `out` cannot be written.
    """
    cores = this_machine().usable_cores
    trace = cache(to_onnx)
    with tempfile.TemporaryDirectory(prefix="depthmask-") as folder:
        bundles = []
        for precision in precisions or ("fp32",):
            tell(f"exporting {precision}")
            bundles.append(
                export_chain(
                    chain,
                    Path(folder) / precision,
                    resolution=resolutions or RESOLUTIONS,
                    precision=precision,
                    weights=weights,
                    trace=trace,
                )
            )
        requests = all_cells(
            bundles,
            runtimes=runtimes,
            device=device,
            threads=threads or sorted({1, cores}),
        )
        result = sweep(requests, samples, target_ms, share=share, limit=limit, seed=seed, tell=tell)
    chosen = result.chosen
    if chosen is None:
        nearest = min(
            (one for one in result.candidates if one.latency_ms is not None),
            key=lambda one: one.latency_ms or 0.0,
            default=None,
        )
        found = f"; the fastest took {nearest.latency_ms:.1f} ms" if nearest else ""
        raise CheckFailedError(
            f"p{100 * share:g} must be within {target_ms:g} ms, but no candidate meets that{found}. Try"
            " a smaller --resolutions or a larger --target-ms"
        )
    tell(f"exporting {chosen.cell.label}")
    bundle = export_chain(
        chain,
        out,
        resolution=chosen.cell.resolution,
        precision=chosen.cell.precision,
        weights=weights,
        data=samples,
        overwrite=overwrite,
        trace=trace,
    )
    return result, bundle
