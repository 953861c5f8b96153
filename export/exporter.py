"""From a chain to a verified bundle."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir
import torch

from depthmask.accuracy import AccuracyResult, accuracy
from depthmask.atomic import check_target, new_folder
from depthmask.bundle import (
    MODEL_FILE,
    REFERENCE_FILE,
    UNSIGNED_SUFFIX,
    Bundle,
    GraphRecord,
    InputKind,
    Limits,
    Manifest,
    Precision,
    RewriteRecord,
    UnsignedRecord,
    open_bundle,
    record_files,
    write_manifest,
)
from depthmask.chain import MaskDepthChain, check_shapes
from depthmask.errors import CheckFailedError, InputError, UsageError
from depthmask.export.budget import GraphRunner
from depthmask.export.gate_data import GateData, check_labels, split
from depthmask.export.int8 import Int8Graphs, Int8Options, Quantiser, Tradeoff, open_calibration
from depthmask.export.memory import give_back
from depthmask.export.onnx_files import is_large, save_models
from depthmask.export.onnx_stage import OnnxStage
from depthmask.export.pieces import with_named_image
from depthmask.export.precision import needed_in_fp32, node_ranges, to_fp16, unfit_for_fp16
from depthmask.export.reference import make_reference
from depthmask.export.rewrite import RewriteOptions, rewrite, saved_gmac
from depthmask.export.targets import Progress, Target
from depthmask.export.to_onnx import OPSET, OPSETS, to_onnx
from depthmask.export.tradeoff import save_tradeoffs
from depthmask.export.unsigned import UNSIGNED_RUNTIMES
from depthmask.export.verify import TOLERANCES, VerifyReport, verify_bundle
from depthmask.frames import Normalisation, Resolution
from depthmask.models.describe import gmac
from depthmask.runtimes import require_precision
from depthmask.runtimes.torch_runtime import ChainPredictor
from depthmask.samples import Samples
from depthmask.version import __version__

DEFAULT_RESOLUTION = Resolution(224, 224)
# The search for fp16 leaves room for runtimes that round in another order.
_SEARCHED_SHARE = 0.7
_DEFAULT_REWRITES = RewriteOptions()
_DEFAULT_INT8 = Int8Options()
_DEFAULT_LIMITS = Limits()
_RECORDED_PACKAGES = ("torch", "onnx-ir", "onnxscript", "onnxruntime", "numpy")

Trace = Callable[..., ir.Model]
"""As `to_onnx`; what it gives is not changed."""


class ExportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the graphs of a bundle are like."""

    resolutions: tuple[Resolution, ...] = (DEFAULT_RESOLUTION,)
    precision: Precision = "fp32"
    target: Target | None = None
    input: InputKind = "frame"
    dynamic_batch: bool = False
    dynamic_resolution: bool = False
    limits: Limits = _DEFAULT_LIMITS
    rewrites: RewriteOptions = _DEFAULT_REWRITES
    opset: int = OPSET

    def __post_init__(self) -> None:
        if not self.resolutions:
            raise UsageError("an export needs at least one resolution")
        if self.opset not in OPSETS:
            raise UsageError(f"an opset must be {OPSETS[0]} to {OPSETS[-1]}, but got {self.opset}")
        if self.dynamic_resolution and len(self.resolutions) > 1:
            raise UsageError(
                "a dynamic resolution is one graph: give one --resolution, its default"
            )
        is_open = self.dynamic_resolution and self.input == "image"
        if is_open and not self.limits.holds(self.resolutions[0]):
            raise UsageError(
                f"the resolution must be within its own limits, {self.limits.sizes}, but got"
                f" {self.resolutions[0]}"
            )


def export_chain(
    chain: MaskDepthChain,
    out: Path | str,
    *,
    resolution: Resolution | Sequence[Resolution] = DEFAULT_RESOLUTION,
    precision: Precision = "fp32",
    target: Target | None = None,
    input: InputKind = "frame",
    dynamic_batch: bool = False,
    dynamic_resolution: bool = False,
    limits: Limits = _DEFAULT_LIMITS,
    rewrites: RewriteOptions = _DEFAULT_REWRITES,
    opset: int = OPSET,
    int8: Int8Options = _DEFAULT_INT8,
    weights: dict[str, Any] | None = None,
    data: Samples | None = None,
    overwrite: bool = False,
    force: bool = False,
    progress: Progress = lambda phase: None,
    trace: Trace | None = None,
) -> Bundle:
    """Export, verify, and only then put the bundle at `out`.

    Args:
        chain: is put into evaluation mode; its weights are exported as they are, in float32 or
            rounded to float16.
        out: the bundle's folder; it must not exist unless `overwrite`.
        resolution: one or several; each gets its own graph, weights are shared on disk.
        precision: `fp32`, `fp16`, `bf16` or `int8`; in fp16, nodes whose values would overflow stay fp32,
            in int8 those that the budget needs; the manifest lists them. bf16 is computed by OpenVINO
            from an fp32 graph.
        target: made beside the ONNX: `EngineOptions` for engines, `WebOptions` for a page that runs the
            largest resolution's graph in the browser, `RepositoryOptions` for Triton's model repository.
        input: `frame` (uint8 frames of any size; preprocessing in the graph) or `image` (normalised).
        dynamic_batch: leave the batch size open.
        dynamic_resolution: leave the network's size open (multiples of 32; `image` input only).
        limits: of an open batch and resolution; a pipeline refuses what is beyond.
        rewrites: which exact rewrites are made, and how that is decided.
        opset: of the graphs.
        int8: how int8 is calibrated, and what it may lose.
        weights: where the weights come from, for the manifest.
        data: labelled samples for the accuracy check; without them parity alone decides. int8 is
            searched on their first half and judged on the second.
        overwrite: replace an existing bundle.
        force: keep a bundle that fails its verification, marked as unverified.
        progress: told of each phase.
        trace: by default `to_onnx`. To export a chain in several precisions, give each the same
            `functools.cache(to_onnx)`: tracing takes most of the time, and is the same for all.

    Raises:
        CheckFailedError: the bundle does not agree with PyTorch; nothing is written unless `force`.
        UsageError: the options or the chain cannot be used, or `out` exists.
        InputError: the weights are not finite, or data are not usable.
        UnavailableError: this machine cannot compute in bf16.
        OutputError: `out` cannot be written.
        UnavailableError: the target's package or GPU is not here.
    """
    out = Path(out)
    resolutions = (resolution,) if isinstance(resolution, Resolution) else tuple(resolution)
    options = ExportOptions(
        resolutions=tuple(sorted(set(resolutions))),
        precision=precision,
        target=target,
        input=input,
        dynamic_batch=dynamic_batch,
        dynamic_resolution=dynamic_resolution,
        limits=limits,
        rewrites=rewrites,
        opset=opset,
    )
    check_target(out, overwrite=overwrite)
    make = target.prepare(precision) if target is not None else None
    chain.eval()  # before anything runs: in training mode a batch norm would learn from our frames
    _check_weights(chain)
    # Before the slow work: the machine or the data may be unusable.
    require_precision(precision)
    gate = split(precision, data)
    calibration = open_calibration(int8.calibration, data) if precision == "int8" else None
    largest = options.resolutions[-1]
    check_shapes(chain, largest.height, largest.width)

    # Held from the start: a second export into it is refused.
    with new_folder(out, overwrite=overwrite) as folder:
        progress("running the chain on the reference frames")
        reference = make_reference(chain, options.resolutions)
        models, records, fp32_nodes = _make_graphs(chain, options, gate, trace or to_onnx, progress)
        give_back()
        pytorch_accuracy = _pytorch_accuracy(chain, options, gate.judged, progress)
        int8_record = None
        unsigned: dict[Resolution, ir.Model] = {}
        tradeoffs: dict[Resolution, Tradeoff] = {}
        if calibration is not None:
            searched = make_reference(chain, options.resolutions, gate.search_frames)
            quantiser = Quantiser(int8, calibration, searched, gate.searched, chain.spec.kind)
            expected = _pytorch_accuracy(chain, options, gate.searched, progress)
            for measured in (expected, pytorch_accuracy):
                for result in measured.values():
                    check_labels(result, chain.spec.kind)
            runners = {r: _runner(chain, options, r) for r in options.resolutions}
            graphs, tradeoffs = _to_int8(models, quantiser, runners, expected, progress)
            models = {r: one.symmetric for r, one in graphs.items()}
            unsigned = {r: one.unsigned for r, one in graphs.items()}
            int8_record = quantiser.record(tradeoffs)
            fp32_nodes = _kept(tradeoffs)
        progress("writing the graphs")
        _save(models, unsigned, options, folder)
        models.clear()  # verification loads the files, and need not share the memory with their source
        give_back()
        if tradeoffs:
            save_tradeoffs(tradeoffs, folder)
        with (folder / REFERENCE_FILE).open("wb") as file:
            reference.save(file)
        manifest = Manifest(
            chain=chain.spec,
            weights=weights or {},
            precision=options.precision,
            fp32_nodes=fp32_nodes,
            int8=int8_record,
            search=gate.record,
            input=options.input,
            dynamic_batch=options.dynamic_batch,
            dynamic_resolution=options.dynamic_resolution,
            limits=options.limits if options.dynamic_batch or options.dynamic_resolution else None,
            graphs=tuple(
                GraphRecord(
                    file=_file_name(r, options),
                    height=r.height,
                    width=r.width,
                    gmac=round(_gmac(chain, r, options) - saved_gmac(records[r]), 4),
                    parity={},
                    rewrites=records[r],
                    unsigned=UnsignedRecord(
                        file=_unsigned_name(r, options), runtimes=UNSIGNED_RUNTIMES, parity={}
                    )
                    if r in unsigned
                    else None,
                )
                for r in options.resolutions
            ),
            opset=options.opset,
            versions=_versions(),
            accuracy=_accuracy_record(pytorch_accuracy),
            verified=False,
            files=record_files(folder),
        )
        progress(f"verifying the bundle against {chain.spec.original}")
        report = verify_bundle(Bundle(folder, manifest), reference, gate.judged, chain=chain)
        if not report and not force:
            raise CheckFailedError(
                f"the bundle must agree with {chain.spec.original}, but {'; '.join(report.failures())}."
                f" Nothing was written; --force keeps it all the same",
                details=report.details(),
            )
        manifest = _with_report(manifest, report)
        if make is not None:
            manifest = make(folder, manifest, progress)
        write_manifest(folder, manifest)
    return open_bundle(out, check_files=False)


def _save(
    models: Mapping[Resolution, ir.Model],
    unsigned: Mapping[Resolution, ir.Model],
    options: ExportOptions,
    folder: Path,
) -> None:
    files = {_file_name(r, options): model for r, model in models.items()}
    unsigned_files = {_unsigned_name(r, options): model for r, model in unsigned.items()}
    if len(models) > 1 or any(map(is_large, models.values())):
        save_models({**files, **unsigned_files}, folder)
    else:  # one resolution's files stand alone
        save_models(files, folder)
        save_models(unsigned_files, folder)


def _make_graphs(
    chain: MaskDepthChain,
    options: ExportOptions,
    gate: GateData,
    trace: Trace,
    progress: Progress,
) -> tuple[
    dict[Resolution, ir.Model], dict[Resolution, tuple[RewriteRecord, ...]], tuple[str, ...]
]:
    """The graph of each resolution, its rewrites, and the nodes of fp16 graphs that stay fp32."""
    models: dict[Resolution, ir.Model] = {}
    records: dict[Resolution, tuple[RewriteRecord, ...]] = {}
    fp32_nodes: set[str] = set()
    for resolution in options.resolutions:
        progress(f"tracing at {resolution}")
        traced = trace(
            chain,
            resolution,
            input_kind=options.input,
            dynamic_batch=options.dynamic_batch,
            dynamic_resolution=options.dynamic_resolution,
            opset=options.opset,
        )
        progress(f"rewriting at {resolution}")
        give_back()
        model, records[resolution] = rewrite(traced, options.rewrites, precision=options.precision)
        if trace is to_onnx and model is not traced:
            # PyTorch's exporter keeps hold of its graph; the weights in it are ours to let go.
            for value in traced.graph.initializers.values():
                value.const_value = None
        del traced
        if options.precision == "bf16" and options.input == "frame":
            model = with_named_image(model)
        if options.precision == "fp16":
            progress(f"checking the range of every tensor at {resolution}")
            runner = _runner(chain, options, resolution)
            batches = [runner.inputs(frame) for frame in gate.search_frames]
            unfit = unfit_for_fp16(model, node_ranges(model, batches))
            progress(f"looking for what fp16 is too coarse for at {resolution}")
            kept = needed_in_fp32(model, batches, unfit, _SEARCHED_SHARE * TOLERANCES["fp16"])
            fp32_nodes.update(kept)
            model = to_fp16(model, kept)
        models[resolution] = model
    return models, records, tuple(sorted(fp32_nodes))


def _runner(chain: MaskDepthChain, options: ExportOptions, resolution: Resolution) -> GraphRunner:
    normalisation = Normalisation(chain.spec.mean, chain.spec.std)
    return GraphRunner(options.input, resolution, normalisation)


def _to_int8(
    models: Mapping[Resolution, ir.Model],
    quantiser: Quantiser,
    runners: Mapping[Resolution, GraphRunner],
    expected: Mapping[Resolution, AccuracyResult],
    progress: Progress,
) -> tuple[dict[Resolution, Int8Graphs], dict[Resolution, Tradeoff]]:
    found = {
        resolution: quantiser(model, runners[resolution], expected.get(resolution), progress)
        for resolution, model in models.items()
    }
    return {r: graphs for r, (graphs, _) in found.items()}, {r: t for r, (_, t) in found.items()}


def _kept(tradeoffs: Mapping[Resolution, Tradeoff]) -> tuple[str, ...]:
    """Sites that are float32 at any resolution."""
    chosen = (tradeoff.points[tradeoff.chosen] for tradeoff in tradeoffs.values())
    return tuple(sorted({site for point in chosen for site in point.kept_fp32}))


def _pytorch_accuracy(
    chain: MaskDepthChain, options: ExportOptions, data: Samples | None, progress: Progress
) -> dict[Resolution, AccuracyResult]:
    """What PyTorch reaches on the data, so that the bundle's loss can be told."""
    if data is None:
        return {}
    results = {}
    for resolution in options.resolutions:
        progress(f"measuring PyTorch's accuracy at {resolution}")
        results[resolution] = accuracy(ChainPredictor(chain, resolution), data)
    return results


def _accuracy_record(results: Mapping[Resolution, AccuracyResult]) -> dict[str, Any]:
    if not results:
        return {}
    (name,) = {result.data for result in results.values()}
    by_resolution = {str(resolution): result for resolution, result in results.items()}
    return {"data": name, "pytorch": msgspec.to_builtins(by_resolution)}


def _with_report(manifest: Manifest, report: VerifyReport) -> Manifest:
    parities = {parity.graph.file: parity.as_dict() for parity in report.parities}
    graphs = tuple(
        msgspec.structs.replace(
            graph,
            parity=parities[graph.file],
            unsigned=graph.unsigned
            and msgspec.structs.replace(graph.unsigned, parity=parities[graph.unsigned.file]),
        )
        for graph in manifest.graphs
    )
    found = {"bundle": msgspec.to_builtins(report.accuracies)} if report.accuracies else {}
    return msgspec.structs.replace(
        manifest,
        graphs=graphs,
        accuracy={**manifest.accuracy, **found},
        verified=bool(report),
    )


def _check_weights(chain: MaskDepthChain) -> None:
    for name, tensor in chain.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(f"the weights must be finite, but {name} holds NaN or infinity")


def _gmac(chain: MaskDepthChain, resolution: Resolution, options: ExportOptions) -> float:
    stages = [s for s in (chain.mask, chain.depth) if isinstance(s, OnnxStage)]
    counted = gmac(chain, (1, 3, resolution.height, resolution.width))
    return counted + sum(stage.gmac(options.opset) for stage in stages)


def _file_name(resolution: Resolution, options: ExportOptions) -> str:
    if resolution == options.resolutions[-1]:
        return MODEL_FILE
    return f"model-{resolution}.onnx"


def _unsigned_name(resolution: Resolution, options: ExportOptions) -> str:
    return Path(_file_name(resolution, options)).stem + UNSIGNED_SUFFIX


def _versions() -> dict[str, str]:
    found = {"depthmask": __version__}
    for package in _RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def output_name(chain: MaskDepthChain, options: ExportOptions) -> str:
    """What a bundle's folder is called by default: `lite-224-fp16`, `lite-224-fp16-tensorrt-rtx`."""
    sizes = "-".join(str(resolution) for resolution in options.resolutions)
    target = "" if options.target is None else f"-{options.target.name}"
    return f"{chain.spec.preset}-{sizes}-{options.precision}{target}"
