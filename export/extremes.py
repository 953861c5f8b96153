"""Inputs at the edge of what is possible: an empty and a full mask, on black, white, noise and a photograph.

A mask network may never give such masks on the reference frames, and the depth network must stand them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from depthmask.errors import InputError
from depthmask.export.sessions import GraphSession
from depthmask.runtimes import Tensors
from depthmask.runtimes.onnxruntime_runtime import import_onnxruntime, session_options

FORCED = {"an empty mask": 0.0, "a full mask": 1.0}
_FORCED_INPUT = "forced mask"
_CARRIES = frozenset({"Cast", "Identity", "QuantizeLinear", "DequantizeLinear"})


def not_finite(model: ir.Model, inputs: Mapping[str, Tensors]) -> list[str]:
    """The cases in which the depth holds NaN or infinity, in words.

    Args:
        model: a chain's graph.
        inputs: of the graph, by name.

    Raises:
        InputError: the depth does not depend on the mask.
    """
    ort = import_onnxruntime()
    options = session_options(ort, None)
    # Not the blocked layout: it is another copy of the weights, for a few runs.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session = GraphSession(with_forced_mask(model), options)
    *_, mask_shape = session.inputs.values()
    shape = [side if isinstance(side, int) else 1 for side in mask_shape]
    cases = []
    for mask_name, level in FORCED.items():
        mask_11HW = np.full(shape, level, np.float32)
        for input_name, tensors in inputs.items():
            (depth,) = session.run(["depth"], {**tensors, _FORCED_INPUT: mask_11HW})
            if not np.isfinite(depth).all():
                cases.append(f"{mask_name} on {input_name}")
    return cases


def with_forced_mask(model: ir.Model) -> ir.Model:
    """A copy of a chain's graph that takes the mask as its last input, and gives depth alone.

    Raises:
        InputError: the depth does not depend on the mask.
    """
    forced = model.clone()
    mask = next(value for value in forced.graph.outputs if value.name == "mask")
    carriers = _carriers(mask)
    given = ir.Value(name=_FORCED_INPUT, shape=mask.shape, type=ir.TensorType(ir.DataType.FLOAT))
    as_type = {ir.DataType.FLOAT: given}
    users = [
        (user, index, value.dtype)
        for value in carriers
        for user, index in value.uses()
        if user.op_type not in _CARRIES
    ]
    if not users:
        raise InputError("the depth must depend on the mask, but no node of the graph takes it")
    for user, index, dtype in users:
        assert dtype is not None
        if dtype not in as_type:
            cast = ir.node("Cast", [given], attributes={"to": int(dtype)})
            as_type[dtype] = cast.outputs[0]
            forced.graph.insert_before(next(iter(forced.graph)), cast)
        user.replace_input_with(index, as_type[dtype])
    forced.graph.inputs.append(given)
    forced.graph.outputs[:] = [value for value in forced.graph.outputs if value.name == "depth"]
    RemoveUnusedNodesPass()(forced)
    return forced


def _carriers(mask: ir.Value) -> list[ir.Value]:
    """The mask before and after what only changes its type."""
    first = mask
    while (producer := first.producer()) is not None and producer.op_type in _CARRIES:
        assert producer.inputs[0] is not None
        first = producer.inputs[0]
    found, queue = [], [first]
    while queue:
        value = queue.pop()
        found.append(value)
        queue += [node.outputs[0] for node in value.consumers() if node.op_type in _CARRIES]
    return found
