"""Where a graph that fails its verification goes wrong: the stage, then the first tensor.

A suspect graph is cut at tensors whose right values are known, and each piece is run on right values. So
an error is found where it is made, not where it first grew large; rounding that adds up over many nodes is
not blamed on the last of them. First the graph is cut between its stages (the reference that every bundle
carries suffices), then at every tensor that PyTorch knows by name (needs torch and the weights).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from depthmask.bundle import Bundle
from depthmask.errors import DepthmaskError
from depthmask.export.reference import Reference
from depthmask.frames import Resolution, to_network
from depthmask.runtimes import Tensors

if TYPE_CHECKING:
    from depthmask.chain import MaskDepthChain
    from depthmask.export.pieces import Batch, Finding

# How far one node, given right inputs, may be off, as a share of its tensor's range. float32: the order of
# sums. bf16: its graph is float32. float16: 11 bits, and sums that cancel. int8: a few of 255 steps.
LOCAL_TOLERANCES = {"fp32": 5e-5, "bf16": 5e-5, "fp16": 5e-3, "int8": 6e-2}
_STAGE_WORDS = {"chain": "product"}


@dataclass(frozen=True)
class Blame:
    """What a failed verification comes from, as far as it is known."""

    stage: str
    """`preprocess`, `mask`, `product`, `depth`, or `runtime` where the graph itself is right."""
    advice: str
    """What was seen, and what to try."""
    node: str | None = None
    op_type: str | None = None
    tensor: str | None = None
    """The first tensor that is outside tolerance though all before it are given right."""
    max_error: float | None = None
    """As a share of the expected range; None where it is not finite, or shapes differ."""
    expected_range: tuple[float, float] | None = None
    found_range: tuple[float, float] | None = None
    """Of its finite values."""

    def __str__(self) -> str:
        if self.stage == "runtime":
            return "the runtime, not the graph"
        place = f"the {self.stage} stage"
        return f"{place}, at tensor {self.tensor} of node {self.node}" if self.tensor else place

    def lines(self) -> list[str]:
        """For people: where, both ranges, and what to try."""
        lines = [f"blamed: {self}"]
        if self.expected_range and self.found_range:
            lines.append(
                f"  expected {_interval(self.expected_range)}, found {_interval(self.found_range)}"
                + (f", off by {self.max_error:.2g} of the range" if self.max_error else "")
            )
        return [*lines, f"  {self.advice}"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def find_blame(
    bundle: Bundle,
    resolution: Resolution,
    reference: Reference,
    *,
    tolerance: float,
    runtime: str,
    chain: MaskDepthChain | None = None,
) -> Blame:
    """Say why a bundle's graph does not give the reference.

    Args:
        bundle: as opened; its graph of this resolution fails.
        resolution: of the failing graph.
        reference: right masks and depths.
        tolerance: of the graph's outputs, as a share of their range.
        runtime: what the graph failed on.
        chain: the right chain; by default the bundle's source where torch and the weights are here.
    """
    try:
        from depthmask.export import pieces
        from depthmask.runtimes.onnxruntime_runtime import import_onnxruntime

        import_onnxruntime()
    except ModuleNotFoundError as missing:
        return Blame(
            "unknown",
            f"finding the stage needs the package {missing.name}. Try `pip install"
            " 'depthmask[export,cpu]'` and `dmx verify` again",
        )
    precision = bundle.manifest.precision
    model = pieces.load_graph(bundle, resolution)
    batches = _stage_values(bundle, resolution, reference, pieces.image_name(model))
    # An int8 graph may hold and yet lose more in the mean than its budget.
    if precision != "int8" and pieces.outputs_hold(model, batches, tolerance):
        return _of_runtime(bundle, runtime)
    by_stage = pieces.first_outside(model, batches, tolerance=tolerance)
    # Flat frames hide much: a photograph is looked at in any case.
    shown = {by_stage.batch if by_stage else 0, 0}
    try:
        right = _pytorch_values(
            bundle, resolution, chain, [batches[index][0] for index in shown], pieces.names(model)
        )
    except (DepthmaskError, ModuleNotFoundError) as unknown:
        return _of_stage(by_stage, str(unknown), precision)
    finding = pieces.first_outside(
        model, right, tolerance=min(tolerance, LOCAL_TOLERANCES[precision])
    ) or pieces.first_outside(model, right, tolerance=tolerance, cut=False)
    return blamed(finding, precision) if finding else _of_stage(by_stage, "", precision)


def _of_runtime(bundle: Bundle, runtime: str) -> Blame:
    if bundle.manifest.precision == "bf16":
        advice = "bfloat16 is too coarse for this chain. Try --fp16 or fp32"
    else:
        advice = "Try another --runtime, or another version of it"
    return Blame(
        "runtime",
        "the graph itself is right: ONNX Runtime on the CPU, without optimisations, gives what"
        f" {bundle.manifest.chain.original} gives, and {runtime} on this machine does not. {advice}",
    )


def blamed(finding: Finding, precision: str) -> Blame:
    """A finding with its symptom's meaning."""
    from depthmask.export.symptoms import advise

    return Blame(
        stage=_STAGE_WORDS.get(finding.stage, finding.stage),
        advice=advise(finding, precision),
        node=finding.node,
        op_type=finding.op_type,
        tensor=finding.tensor,
        max_error=finding.relative_error if np.isfinite(finding.relative_error) else None,
        expected_range=_range(finding.expected),
        found_range=None if finding.found is None else _range(finding.found),
    )


def _of_stage(finding: Finding | None, reason: str, precision: str) -> Blame:
    """All that is known without PyTorch's inner tensors."""
    if finding is None:
        return Blame(
            "unknown", "each stage is right on right inputs; small errors of several stages add up"
        )
    found = blamed(finding, precision)
    more = f". Which tensor is not known: {reason}" if reason else ""
    # The tensor is the stage's output: which of the nodes before it is wrong is not known.
    return Blame(
        stage=found.stage if finding.tensor not in ("mask", "depth") else finding.tensor,
        advice=f"{found.advice}{more}",
        max_error=found.max_error,
        expected_range=found.expected_range,
        found_range=found.found_range,
    )


def _stage_values(
    bundle: Bundle, resolution: Resolution, reference: Reference, image_name: str | None
) -> list[Batch]:
    """Per frame: the graph's input, and the right values between the stages."""
    manifest = bundle.manifest
    batches: list[Batch] = []
    for frame, (mask_HW, depth_hw) in zip(
        reference.frames, reference.maps[resolution], strict=True
    ):
        image_13HW = to_network(frame[None], resolution, manifest.normalisation)
        values = {"mask": mask_HW[None, None], "depth": depth_hw[None, None]}
        if manifest.input == "image":
            batches.append(({"image": image_13HW}, values))
        else:
            known = {image_name: image_13HW} if image_name else {}
            batches.append(({"frame": frame[None]}, {**known, **values}))
    return batches


def _pytorch_values(
    bundle: Bundle,
    resolution: Resolution,
    chain: MaskDepthChain | None,
    batches: list[Tensors],
    names: frozenset[str],
) -> list[Batch]:
    from depthmask.export.trusted import trusted_values

    if chain is None:
        from depthmask.runtimes.torch_runtime import source_chain

        chain = source_chain(bundle)
    values = trusted_values(chain, bundle.manifest, resolution, batches, names)
    return list(zip(batches, values, strict=True))


def _range(values: np.ndarray) -> tuple[float, float] | None:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def _interval(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4g} to {pair[1]:.4g}"
