"""The gate: a bundle must give what the fp32 PyTorch chain gives, on every resolution it holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from depthmask.accuracy import AccuracyResult, accuracy, judged_depth
from depthmask.bundle import REFERENCE_FILE, Bundle, GraphRecord, Manifest, Precision
from depthmask.errors import CheckFailedError, InputError, UsageError
from depthmask.export.blame import Blame, find_blame
from depthmask.export.memory import give_back
from depthmask.export.reference import Reference
from depthmask.frames import FloatArray, Resolution, UInt8Array, to_network
from depthmask.pipeline import Pipeline
from depthmask.presets import Kind
from depthmask.runtimes import Runtime, Tensors, choose, open_runtime
from depthmask.samples import Samples, open_samples

if TYPE_CHECKING:
    from depthmask.chain import MaskDepthChain

# The largest difference allowed, as a share of the reference's range over all frames. float32: the
# order of sums differs between runtimes (2e-6 is usual). float16: 11 bits through about 150 layers.
# int8 is judged by what it was exported for (`Int8Record.budget`) and bf16 by its mean difference.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2}
_BLAMED_FROM = 0.1  # where a precision has no tolerance of its own: an error that is not rounding
# bfloat16 has 8 bits: through about 150 layers single pixels at a mask's edge differ widely, so the mean is
# judged. lite differs by up to 0.006 and 0.027.
BF16_DISAGREEMENT = {"mask_mae": 0.02, "depth_abs_rel": 0.05}
# What accuracy may lose against the fp32 PyTorch chain on the same data, in points (1 = 0.01).
LARGEST_DROP_POINTS = {"iou": 0.5, "delta1": 0.5}


@dataclass(frozen=True)
class Agreement:
    """One output against its reference, over all frames of a resolution; true when it holds."""

    output: str
    max_error: float
    mean_error: float
    p99_error: float
    range: float
    tolerance: float | None
    """Of `max_error`, as a share of `range`; None: only that it is finite."""
    mean_magnitude: float
    """Of the reference."""
    not_finite: tuple[str, ...]
    """The frames on which it holds NaN or infinity."""

    @property
    def finite(self) -> bool:
        """Whether every value on every frame is."""
        return not self.not_finite

    @property
    def relative_error(self) -> float:
        """`max_error` as a share of the reference's range."""
        return self.max_error / self.range if self.range > 0 else self.max_error

    def __bool__(self) -> bool:
        return self.finite and (self.tolerance is None or self.relative_error <= self.tolerance)


@dataclass(frozen=True)
class ParityReport:
    """The outputs of one graph file against PyTorch; true when all hold."""

    graph: GraphRecord
    runtime: str
    agreements: tuple[Agreement, ...]
    original: str = "PyTorch"
    """What the reference comes from."""
    blame: Blame | None = None
    """Of a report that does not hold, or of a resolution that lost more than its budget."""

    def __bool__(self) -> bool:
        return all(self.agreements)

    @property
    def label(self) -> str:
        """The resolution, and which spelling of the graph where there are two."""
        return self.graph.label

    @property
    def is_finite(self) -> bool:
        """Whether every output of every frame was."""
        return all(agreement.finite for agreement in self.agreements)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; errors in the output's own unit."""
        return {
            "file": self.graph.file,
            "runtime": self.runtime,
            "holds": bool(self),
            **({"blame": self.blame.as_dict()} if self.blame else {}),
            **{
                agreement.output: {
                    **{k: v for k, v in asdict(agreement).items() if k != "output"},
                    "finite": agreement.finite,
                    "relative_error": agreement.relative_error,
                }
                for agreement in self.agreements
            },
        }

    def failures(self) -> list[str]:
        """What does not hold, in words; the last says what is to blame."""
        failures = [
            f"at {self.label} the {a.output} differs from {self.original} by"
            f" {a.relative_error:.2g} of its range (allowed {a.tolerance:g})"
            if a.finite
            else f"at {self.label} the {a.output} holds NaN or infinity on {', '.join(a.not_finite)}"
            for a in self.agreements
            if not a
        ]
        if self.blame and failures:
            failures[-1] += f" (to blame is {self.blame})"
        return failures


@dataclass(frozen=True)
class VerifyReport:
    """All resolutions of a bundle; true when all hold."""

    parities: tuple[ParityReport, ...]
    accuracies: dict[str, AccuracyResult] = field(default_factory=dict)
    """By graph (`GraphRecord.label`), where data were given."""
    drops: tuple[str, ...] = ()
    """Losses of accuracy beyond the budget, in words."""
    extremes: tuple[str, ...] = ()
    """Masks and inputs at the edge of what is possible whose depth is not finite, in words."""
    unchecked: tuple[str, ...] = ()
    """What this machine cannot check, and why."""

    def __bool__(self) -> bool:
        return all(self.parities) and not self.drops and not self.extremes

    def failures(self) -> list[str]:
        """What does not hold, in words."""
        parities = [text for parity in self.parities for text in parity.failures()]
        return [*parities, *self.drops, *self.extremes]

    def details(self) -> list[str]:
        """Lines for people on what is to blame."""
        return [line for parity in self.parities if parity.blame for line in parity.blame.lines()]


def verify_bundle(
    bundle: Bundle,
    reference: Reference | None = None,
    data: Samples | None = None,
    *,
    runtime: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    chain: MaskDepthChain | None = None,
) -> VerifyReport:
    """Run every graph file that a runtime runs on this machine, and compare with the bundle's reference.

    A graph that does not agree is taken apart, to say which stage and tensor are to blame.

    Args:
        bundle: an opened bundle.
        reference: by default the bundle's own reference.npz.
        data: labelled samples; accuracy is measured on them, and, where they are the data that the
            export measured PyTorch on, may not fall by more than `LARGEST_DROP_POINTS`. An int8 bundle
            is judged on the half that its search did not look at, by default of the shipped samples.
        runtime: as in `Pipeline.open`.
        device: likewise.
        threads: likewise.
        chain: what the graphs should give, to name the tensor to blame; by default the bundle's source,
            where torch and the weights are here.

    Raises:
        UsageError: `runtime` is torch, which executes no graph.
        InputError: a graph or the reference cannot be read.
        CheckFailedError: a graph is read, but cannot be run.
        UnavailableError: the runtime or device is not here.
    """
    if runtime == "torch":
        raise UsageError(
            "a bundle is verified on a runtime that executes its graphs, but torch runs what they were"
            " exported from. Try --runtime onnxruntime"
        )
    manifest = bundle.manifest
    tolerance = _BLAMED_FROM if manifest.precision == "int8" else TOLERANCES["fp32"]
    tolerance = TOLERANCES.get(manifest.precision, tolerance)
    reference = reference or Reference.load(bundle.path / REFERENCE_FILE, manifest.resolutions)
    int8 = manifest.int8
    if int8 is not None and int8.gate == "accuracy":
        data = _judged_samples(manifest, data)
    max_drop = int8.budget if int8 is not None and int8.gate == "accuracy" else LARGEST_DROP_POINTS
    parities, drops, extremes = [], [], []
    accuracies: dict[str, AccuracyResult] = {}
    unchecked = _missing_for_extremes()
    kind = manifest.chain.kind
    runtime = choose(bundle, runtime)
    graphs = ((one, graph) for one in bundle.spellings(runtime) for graph in one.manifest.graphs)
    for spelled, graph in graphs:
        resolution = graph.resolution
        explain = partial(
            find_blame, spelled, resolution, reference, tolerance=tolerance, chain=chain
        )
        try:
            opened = open_runtime(
                spelled,
                resolution,
                runtime=runtime,
                device="cpu" if graph.is_unsigned else device,
                threads=threads,
            )
            pipeline = Pipeline(spelled, opened, resolution)
            parity = check_parity(pipeline, reference)
        except InputError as error:
            blame = explain(runtime=runtime)
            raise CheckFailedError(f"{error} (to blame is {blame})", blame.lines()) from error
        with pipeline:
            lost = disagreements(parity, _agreement_budget(manifest))
            if data is not None and parity.is_finite:
                accuracies[graph.label] = found = accuracy(pipeline, data)
                expected = pytorch_accuracy(manifest, resolution, found)
                if expected is not None:
                    lost += accuracy_drops(expected, found, kind, graph.label, max_drop)
            if not parity or lost:
                parity = replace(parity, blame=explain(runtime=opened.name))
            if parity and lost:
                lost[-1] += f" (to blame is {parity.blame})"
            parities.append(parity)
            drops += lost
        give_back()
        if not unchecked:
            extremes += _extremes(spelled, resolution, reference)
            give_back()
    return VerifyReport(tuple(parities), accuracies, tuple(drops), tuple(extremes), unchecked)


def _missing_for_extremes() -> tuple[str, ...]:
    missing = [name for name in ("onnx_ir", "onnxruntime") if not find_spec(name)]
    if not missing:
        return ()
    return (f"empty and full masks were not checked: that needs {' and '.join(missing)}",)


def _extremes(bundle: Bundle, resolution: Resolution, reference: Reference) -> list[str]:
    """Where the depth of a forced mask is not finite, in words."""
    from depthmask.export.extremes import not_finite
    from depthmask.export.pieces import load_graph

    inputs = {
        name: _inputs(bundle.manifest, frame, resolution)
        for name, frame in zip(reference.frame_names, reference.frames, strict=True)
        if name in ("photo 1", "noise", "black", "white")
    }
    label = bundle.graph(resolution).label
    return [
        f"at {label} the depth of {case} holds NaN or infinity"
        for case in not_finite(load_graph(bundle, resolution), inputs)
    ]


def _judged_samples(manifest: Manifest, given: Samples | None) -> Samples | None:
    """The half of the data given, by default of the shipped ones, that the export judged on.

    Other data are taken as they are; where none are given, the export's own are the caller's to give.
    """
    whole = given or open_samples()
    judged = whole.halves()[1]
    return judged if manifest.accuracy.get("data") == judged.name else given


def pytorch_accuracy(
    manifest: Manifest, resolution: Resolution, found: AccuracyResult
) -> AccuracyResult | None:
    """What the fp32 PyTorch chain reached on the data of a result, if the export measured it on them."""
    recorded = manifest.accuracy.get("pytorch", {}).get(str(resolution))
    if recorded is None:
        return None
    result = msgspec.convert(recorded, AccuracyResult)
    return result if (result.data, result.count) == (found.data, found.count) else None


def check_parity(pipeline: Pipeline, reference: Reference) -> ParityReport:
    """Compare a runtime's raw outputs, at the networks' sizes, with the reference."""
    maps = reference.maps[pipeline.resolution]
    outputs = [_raw_outputs(pipeline, frame) for frame in reference.frames]
    tolerance = TOLERANCES.get(pipeline.manifest.precision)
    agreements = tuple(
        agreement(
            role,
            [output[role] for output in outputs],
            [pair[index] for pair in maps],
            tolerance,
            reference.frame_names,
        )
        for index, role in enumerate(("mask", "depth"))
    )
    runtime: Runtime = pipeline.runtime
    return ParityReport(
        pipeline.bundle.graph(pipeline.resolution),
        runtime.name,
        agreements,
        pipeline.manifest.chain.original,
    )


def accuracy_drops(
    before: AccuracyResult,
    after: AccuracyResult,
    kind: Kind,
    where: object,
    max_drop: Mapping[str, float] = LARGEST_DROP_POINTS,
) -> list[str]:
    """Where the mask's IoU or the depth's delta1 fell by more than the budget, in words."""
    losses = accuracy_losses(before, after, kind)
    return [
        f"at {where} the {_IN_WORDS[name]} fell by {points:.2f} points (allowed {max_drop[name]:g})"
        for name, points in losses.items()
        if points > max_drop[name]
    ]


_IN_WORDS = {"iou": "mask IoU", "delta1": "depth delta1"}


def accuracy_losses(before: AccuracyResult, after: AccuracyResult, kind: Kind) -> dict[str, float]:
    """Points (1 = 0.01) of `iou` and `delta1` that were lost; what the labels do not allow is left out."""
    pairs = {
        "iou": (_iou(before), _iou(after)),
        "delta1": (_delta1(before, kind), _delta1(after, kind)),
    }
    return {
        name: 100 * (old - new)
        for name, (old, new) in pairs.items()
        if old is not None and new is not None
    }


def disagreement(mask: Agreement, depth: Agreement) -> dict[str, float]:
    """Mean differences: of the mask, and of the depth as a share of the mean depth."""
    magnitude = max(depth.mean_magnitude, float(np.finfo(np.float32).tiny))
    return {"mask_mae": mask.mean_error, "depth_abs_rel": depth.mean_error / magnitude}


def disagreements(parity: ParityReport, budget: Mapping[str, float]) -> list[str]:
    """Where a bundle is further from PyTorch in the mean than a budget, in words."""
    found = disagreement(*parity.agreements)
    return [
        f"at {parity.label} the {name} against {parity.original} is {found[name]:.4f} (allowed"
        f" {allowed:g})"
        for name, allowed in budget.items()
        if not found[name] <= allowed
    ]


def _agreement_budget(manifest: Manifest) -> Mapping[str, float]:
    """Of mean differences, for the precisions that are judged by them: bf16, and int8 without labels."""
    if manifest.precision == "bf16":
        return BF16_DISAGREEMENT
    int8 = manifest.int8
    return int8.budget if int8 is not None and int8.gate == "agreement" else {}


def _iou(result: AccuracyResult) -> float | None:
    return result.mask.iou if result.mask else None


def _delta1(result: AccuracyResult, kind: Kind) -> float | None:
    depth = judged_depth(result, kind)
    return depth.median_scaled.delta1 if depth else None


def _inputs(manifest: Manifest, frame_HW3: UInt8Array, resolution: Resolution) -> Tensors:
    if manifest.input == "frame":
        return {"frame": frame_HW3[None]}
    return {"image": to_network(frame_HW3[None], resolution, manifest.normalisation)}


def _raw_outputs(pipeline: Pipeline, frame_HW3: UInt8Array) -> Tensors:
    inputs = _inputs(pipeline.manifest, frame_HW3, pipeline.resolution)
    try:
        return pipeline.runtime.run(inputs)
    except Exception as error:  # each runtime has errors of its own
        raise InputError(
            f"{pipeline.bundle.model_path(pipeline.resolution)} cannot be run by"
            f" {pipeline.runtime.name}: {error}"
        ) from error


def agreement(
    output: str,
    found: Sequence[Any],
    expected: Sequence[FloatArray],
    tolerance: float | None,
    frame_names: Sequence[str],
) -> Agreement:
    """Compare an output (1,1,H,W) of several frames with its reference (H,W); see `Agreement`.

    Raises:
        InputError: it is of another shape.
    """
    for a, b in zip(found, expected, strict=True):
        if a.shape != (1, 1, *b.shape):
            raise InputError(
                f"the {output} must be {(1, 1, *b.shape)}, but the graph gives {a.shape}"
            )
    pairs = [(np.float32(a[0, 0]), b) for a, b in zip(found, expected, strict=True)]
    errors = np.concatenate([np.abs(a - b).ravel() for a, b in pairs])
    errors = errors[np.isfinite(errors)]
    values = np.concatenate([b.ravel() for b in expected])
    return Agreement(
        output=output,
        max_error=float(errors.max(initial=0)),
        mean_error=float(errors.mean()) if errors.size else 0.0,
        p99_error=float(np.quantile(errors, 0.99)) if errors.size else 0.0,
        range=float(values.max() - values.min()),
        tolerance=tolerance,
        not_finite=tuple(
            name
            for name, (a, _) in zip(frame_names, pairs, strict=True)
            if not np.isfinite(a).all()
        ),
        mean_magnitude=float(np.abs(values).mean()),
    )
