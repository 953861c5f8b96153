"""A chain to an ONNX graph, by PyTorch's dynamo exporter.

Graph contract: input `frame` (N,height,width,3) uint8 RGB of any size, or `image` (N,3,H,W) float32,
normalised; outputs `mask` (N,1,H,W) and `depth` (N,1,h,w), float32. Nodes are named after the module
they come from, and carry their stage (`preprocess`, `mask`, `depth` or `chain`) as metadata.
"""

from __future__ import annotations

import ast
import importlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch

from depthmask.bundle import DYNAMIC_SIDE_PX, LARGEST_BATCH, SIDE_STEP_PX, STAGE_KEY, InputKind
from depthmask.chain import MaskDepthChain
from depthmask.errors import UsageError
from depthmask.export.onnx_stage import OnnxStage, put_in
from depthmask.export.untraceable import reason
from depthmask.frames import Resolution
from depthmask.models.frame_chain import FrameChain

OPSET = 18
OPSETS = tuple(range(18, 24))
LARGEST_FRAME_SIDE_PX = 16384
_TALKATIVE = ("torch.onnx", "torch.fx.experimental.symbolic_shapes")
_TORCH_SCOPES = "pkg.torch.onnx.name_scopes"
# The shape of the example frame: any will do, but not the network's own, nor 0 or 1, which
# torch.export would take for fixed.
_EXAMPLE_FRAME = (50, 70, 3)


def to_onnx(
    chain: MaskDepthChain,
    resolution: Resolution,
    *,
    input_kind: InputKind = "frame",
    dynamic_batch: bool = False,
    dynamic_resolution: bool = False,
    opset: int = OPSET,
) -> ir.Model:
    """Trace a chain at a resolution; a stage that is an ONNX file comes in as it is.

    Raises:
        UsageError: the chain cannot be traced, or a dynamic resolution is asked of a `frame` graph.
    """
    program = traced_program(
        chain,
        resolution,
        input_kind=input_kind,
        dynamic_batch=dynamic_batch,
        dynamic_resolution=dynamic_resolution,
        opset=opset,
    )
    model: ir.Model = program.model
    _name_nodes(model, root="chain" if input_kind == "frame" else "")
    for stage in (chain.mask, chain.depth):
        if isinstance(stage, OnnxStage):
            put_in(model, stage, opset)
    return model


def traced_program(
    chain: MaskDepthChain,
    resolution: Resolution,
    *,
    input_kind: InputKind,
    dynamic_batch: bool,
    dynamic_resolution: bool,
    opset: int = OPSET,
) -> torch.onnx.ONNXProgram:
    """The graph as the exporter gives it, with the program of PyTorch operations that it was made from.

    Raises:
        UsageError: as `to_onnx`.
    """
    if dynamic_resolution and input_kind == "frame":
        raise UsageError(
            "a dynamic resolution needs --input image, since a graph with frame input stretches every"
            " frame to one resolution"
        )
    batch = 2 if dynamic_batch else 1
    shapes: dict[int, Any] = {}
    if dynamic_batch:
        shapes[0] = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    if input_kind == "frame":
        module: torch.nn.Module = FrameChain(chain, resolution).eval()
        example = torch.zeros(batch, *_EXAMPLE_FRAME, dtype=torch.uint8)
        shapes[1] = torch.export.Dim("height", min=1, max=LARGEST_FRAME_SIDE_PX)
        shapes[2] = torch.export.Dim("width", min=1, max=LARGEST_FRAME_SIDE_PX)
    else:
        module = chain.eval()
        example = torch.zeros(batch, 3, resolution.height, resolution.width)
        if dynamic_resolution:
            # Sides in whole steps of the encoders' stride: with others the networks' inner sizes
            # are no single formula of the side.
            for axis, name in ((2, "rows"), (3, "columns")):
                smallest, largest = (side // SIDE_STEP_PX for side in DYNAMIC_SIDE_PX)
                shapes[axis] = SIDE_STEP_PX * torch.export.Dim(name, min=smallest, max=largest)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=[input_kind],
                output_names=["mask", "depth"],
                opset_version=opset,
                verbose=False,
            )
        except Exception as error:
            raise UsageError(
                f"the chain must be traceable by torch.export, but it is not: {reason(error)}. Try another"
                " way to compute that, or --debug for all that PyTorch says"
            ) from error
    if program is None:
        raise UsageError("the ONNX exporter gave no graph")
    return program


def stage_of(node: ir.Node) -> str:
    """`preprocess`, `mask`, `depth`, or `chain` (what joins them)."""
    return node.metadata_props.get(STAGE_KEY, "chain")


def _name_nodes(model: ir.Model, root: str) -> None:
    """Name nodes by module, note their stage, and drop the exporter's notes (they hold local paths)."""
    model.producer_name = "depthmask"
    model.graph.name = "chain"
    seen: Counter[str] = Counter()
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_TORCH_SCOPES, "[]"))
        module = next((scope for scope in reversed(scopes[:-1]) if scope), "")
        stage = _stage(module, root)
        path = module.removeprefix(f"{root}.") if root else module
        base = f"{path or 'graph'}/{node.op_type}"
        node.name = base if not seen[base] else f"{base}_{seen[base]}"
        seen[base] += 1
        _forget(node.metadata_props)
        node.metadata_props[STAGE_KEY] = stage
        for value in node.outputs:
            _forget(value.metadata_props)
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        _forget(value.metadata_props)
    _forget(model.metadata_props)
    _forget(model.graph.metadata_props)


def _stage(module: str, root: str) -> str:
    if module.split(".")[0] == "preprocess" or (root and not module.startswith(root)):
        return "preprocess"  # the frame's size is read outside any module
    inner = module.removeprefix(root).lstrip(".").split(".")[0]
    return inner if inner in ("mask", "depth") else "chain"


def _forget(metadata: dict[str, str]) -> None:
    for key in [key for key in metadata if key.startswith(("pkg.", "namespace"))]:
        del metadata[key]


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the exporter's remarks on packages that we do not use, and the graph that it prints as far as
    it came: what went wrong is in its error.
    """
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    printing: Any = importlib.import_module("torch.export._trace")
    # Its own print, not the stream: a progress bar is drawn there meanwhile.
    printing.print = lambda *words, **how: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        del printing.print
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
