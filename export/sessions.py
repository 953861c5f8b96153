"""ONNX Runtime sessions of graphs in memory, whatever their weights weigh.

A protobuf ends at 2 GiB. So the graph goes to ONNX Runtime without its weights, and the weights beside it as
the arrays that they are: neither copied into a protobuf nor out of it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from depthmask.runtimes.onnxruntime_runtime import import_onnxruntime, session_options

_HANDED_FROM_BYTES = 1024
# What ONNX Runtime takes as an array; other types (bfloat16, four bits) stay in the protobuf.
_HANDED_TYPES = frozenset(
    getattr(ir.DataType, name)
    for name in "FLOAT FLOAT16 DOUBLE INT8 UINT8 INT16 UINT16 INT32 UINT32 INT64 UINT64".split()  # noqa: SIM905
)


class GraphSession:
    """A graph on the CPU; it holds the weights that ONNX Runtime reads."""

    def __init__(self, model: ir.Model, options: Any = None) -> None:  # noqa: ANN401
        """`options` are ONNX Runtime's; by default those of our runtime."""
        ort = import_onnxruntime()
        options = session_options(ort, None) if options is None else options
        graph, self._weights = without_weights(model)
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in self._weights.values()]
        if values:
            options.add_external_initializers(list(self._weights), values)
        self._session: Any = ort.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.inputs: dict[str, tuple[int | str | None, ...]] = {
            value.name: tuple(value.shape) for value in self._session.get_inputs()
        }
        """Shapes by name, in the graph's order; a side that is open is no number."""
        self.outputs: tuple[str, ...] = tuple(v.name for v in self._session.get_outputs())

    def run(
        self, outputs: Sequence[str] | None, inputs: Mapping[str, np.ndarray]
    ) -> list[np.ndarray]:
        """The outputs that are named (None: all), in that order."""
        found: list[np.ndarray] = self._session.run(outputs, inputs)
        return found


def without_weights(model: ir.Model) -> tuple[bytes, dict[str, np.ndarray]]:
    """A graph as protobuf whose larger weights are only named, and those weights by name."""
    model = model.clone()
    weights: dict[str, np.ndarray] = {}
    inputs = set(model.graph.inputs)
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes < _HANDED_FROM_BYTES:
            continue
        # One that is an input too (before IR version 4) may be given anew with every call.
        if tensor.dtype not in _HANDED_TYPES or value in inputs:
            continue
        weights[name] = np.ascontiguousarray(tensor.numpy())
        value.const_value = ir.ExternalTensor(
            "in memory",
            0,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
    data: bytes = ir.to_proto(model).SerializeToString()
    return data, weights
