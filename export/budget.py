"""What an int8 graph may lose, and what it does lose.

With labels the budget is one of accuracy: points (1 = 0.01) of the mask's IoU and the depth's delta1 that are
lost against the fp32 PyTorch chain. Without, it is one of agreement with its outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from depthmask.accuracy import AccuracyResult, Guess, accuracy
from depthmask.bundle import InputKind
from depthmask.errors import UsageError
from depthmask.export.reference import Reference
from depthmask.export.sessions import GraphSession
from depthmask.export.verify import accuracy_losses, agreement, disagreement
from depthmask.frames import Normalisation, Resolution, UInt8Array, to_frame, to_network
from depthmask.presets import Kind
from depthmask.runtimes import Tensors
from depthmask.samples import Samples

MAX_DROP_POINTS = {"iou": 0.5, "delta1": 0.5}
MAX_DISAGREEMENT = {"mask_mae": 0.01, "depth_abs_rel": 0.02}

Judge = Callable[[ir.Model], dict[str, float]]
"""What a graph loses, under the budget's names."""


def parse_max_drop(text: str) -> dict[str, float]:
    """`iou=0.5,delta1=0.5`, in points; what is not named may lose `MAX_DROP_POINTS`.

    Raises:
        UsageError: it is something else, or a number is negative.
    """
    found = dict(MAX_DROP_POINTS)
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            points = float(number)
        except ValueError:
            points = -1.0
        if name.strip() not in found or not 0 <= points < np.inf:
            raise UsageError(
                f"--max-drop must be like iou=0.5,delta1=0.5 (points, 0 or more), but got {part!r}"
            )
        found[name.strip()] = points
    return found


@dataclass(frozen=True)
class GraphRunner:
    """How a graph of the chain is fed."""

    input: InputKind
    resolution: Resolution
    normalisation: Normalisation

    def inputs(self, frame_HW3: UInt8Array) -> Tensors:
        """The graph's inputs for one frame."""
        if self.input == "frame":
            return {"frame": frame_HW3[None]}
        return {"image": to_network(frame_HW3[None], self.resolution, self.normalisation)}

    def open(self, model: ir.Model) -> Callable[[UInt8Array], list[np.ndarray]]:
        """From a frame to the raw mask and depth, (1,1,H,W) and (1,1,h,w), by ONNX Runtime."""
        session = GraphSession(model)
        return lambda frame: session.run(["mask", "depth"], self.inputs(frame))


def accuracy_judge(
    runner: GraphRunner, expected: AccuracyResult, data: Samples, kind: Kind
) -> Judge:
    """Points of accuracy lost on labelled data, as `iou` and `delta1` where the labels allow them."""

    def judge(model: ir.Model) -> dict[str, float]:
        run = runner.open(model)

        def predict(frame_HW3: UInt8Array) -> Guess:
            mask_11HW, depth_11hw = run(frame_HW3)
            size = frame_HW3.shape[:2]
            return Guess(to_frame(mask_11HW[0, 0], *size), to_frame(depth_11hw[0, 0], *size))

        return accuracy_losses(expected, accuracy(predict, data), kind)

    return judge


def agreement_judge(
    runner: GraphRunner, reference: Reference, frames: slice = slice(None)
) -> Judge:
    """Mean difference from the fp32 PyTorch chain's outputs, as `mask_mae` and `depth_abs_rel`."""
    maps = reference.maps[runner.resolution][frames]

    def judge(model: ir.Model) -> dict[str, float]:
        run = runner.open(model)
        outputs = [run(frame) for frame in reference.frames[frames]]
        pairs = zip(
            ("mask", "depth"), zip(*outputs, strict=True), zip(*maps, strict=True), strict=True
        )
        mask, depth = (
            agreement(name, found, expected, None, reference.frame_names[frames])
            for name, found, expected in pairs
        )
        return disagreement(mask, depth)

    return judge


def shares(losses: Mapping[str, float], budget: Mapping[str, float]) -> dict[str, float]:
    """Losses as shares of the budget: 1 is all of it."""
    return {
        name: loss / budget[name] if budget[name] > 0 else (np.inf if loss > 0 else 0.0)
        for name, loss in losses.items()
    }


def in_words(losses: Mapping[str, float]) -> str:
    """For messages."""
    units = {"iou": " points of IoU", "delta1": " points of delta1"}
    return ", ".join(
        f"{max(loss, 0):.2f}{units[name]}" if name in units else f"{name} {loss:.4f}"
        for name, loss in losses.items()
    )


def worst_share(losses: Mapping[str, float], budget: Mapping[str, float]) -> float:
    """The largest of `shares`; infinite where a value is not finite."""
    found: Sequence[float] = list(shares(losses, budget).values())
    return max(found) if all(np.isfinite(found)) else np.inf
