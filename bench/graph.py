"""A bundle's ONNX graph as a benchmark sees it: nodes with stage and site, and every tensor's size.

No weight is read, so that a large graph is looked at as fast as a small one. Needs the package onnx, and
imports it only when a graph is read.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from depthmask.bundle import STAGE_KEY, Bundle
from depthmask.errors import InputError, UnavailableError
from depthmask.frames import Resolution

if TYPE_CHECKING:
    import onnx

DEFAULT_FRAME_SIZE = Resolution(480, 640)
"""Of the frame that a graph of `frame` input is looked at with: a camera's."""
STAGES = ("preprocess", "mask", "chain", "depth")
"""As the exporter writes them; `chain` is what joins the networks, and what has no stage noted."""
# What is computed ahead to know the sizes that depend on it: sizes and positions, never a feature map.
_FOLDED_ELEMENTS = 1 << 16

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Tensor:
    """Shape, and the bytes that it takes."""

    shape: tuple[int, ...]
    item_bytes: int

    @property
    def elements(self) -> int:
        """Their number."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """In memory, dense."""
        return self.elements * self.item_bytes


@dataclass(frozen=True)
class GraphNode:
    """One operator. `site` is the path of the module that it comes from, such as `mask.trunk.stem`."""

    name: str
    op_type: str
    stage: str
    site: str
    inputs: tuple[str, ...]
    """Names of tensors, by position; empty where an optional one is left out."""
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of execution, and the tensors between them by name."""

    nodes: tuple[GraphNode, ...]
    tensors: Mapping[str, Tensor] = field(repr=False)
    constants: frozenset[str] = field(repr=False)
    """Weights and other tensors that are the same for every frame."""
    outputs: tuple[str, ...]

    def tensor(self, name: str) -> Tensor:
        """A tensor's size.

        Raises:
            InputError: shape inference did not find it.
        """
        try:
            return self.tensors[name]
        except KeyError:
            raise InputError(
                f"the size of every tensor must follow from the graph, but that of {name!r} does not."
                " Try a bundle of standard operators and fixed resolution"
            ) from None

    def producers(self) -> dict[str, GraphNode]:
        """The node that makes each tensor."""
        return {name: node for node in self.nodes for name in node.outputs if name}


def read_graph(
    bundle: Bundle,
    resolution: Resolution | None = None,
    frame_size: Resolution = DEFAULT_FRAME_SIZE,
) -> Graph:
    """Read the graph of a resolution, for one frame of `frame_size`.

    Raises:
        UsageError: the bundle has no graph of that resolution.
        UnavailableError: the package onnx is not installed.
        InputError: the file is damaged, or its tensors' sizes cannot be found.
    """
    require_onnx()
    import onnx

    path = bundle.model_path(resolution)
    size = bundle.graph(resolution).resolution
    is_frame = bundle.manifest.input == "frame"
    shape = (
        (1, frame_size.height, frame_size.width, 3) if is_frame else (1, 3, size.height, size.width)
    )
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's error has no type of its own to name
        raise InputError(f"{path} must be an ONNX graph, but it cannot be read: {error}") from error
    return graph_of(model, {bundle.manifest.input: shape}, str(path))


def graph_of(
    model: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]], name: str = "the graph"
) -> Graph:
    """Nodes and tensors of a model whose inputs have the given shapes; the model is emptied of weights.

    Raises:
        InputError: shape inference refuses the model; `name` is for the message.
    """
    nodes = tuple(_node(index, proto) for index, proto in enumerate(model.graph.node))
    constants = {initializer.name for initializer in model.graph.initializer}
    constants.update(
        output
        for proto in model.graph.node
        if proto.op_type == "Constant"
        for output in proto.output
    )
    return Graph(
        nodes=nodes,
        tensors=_tensors(model, input_shapes, name),
        constants=frozenset(constants),
        outputs=tuple(output.name for output in model.graph.output),
    )


def has_onnx() -> bool:
    """Whether the package onnx is installed."""
    return importlib.util.find_spec("onnx") is not None


def require_onnx() -> None:
    """Check that graphs can be read here.

    Raises:
        UnavailableError: the package onnx is not installed.
    """
    if not has_onnx():
        raise UnavailableError(
            "looking into a graph needs the package onnx, which is not installed. Try `pip install onnx`"
        )


def _node(index: int, proto: onnx.NodeProto) -> GraphNode:
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    stage = metadata.get(STAGE_KEY, "chain")
    module = proto.name.rpartition("/")[0]
    # What is outside any module (the frame's size, the product of image and mask) is the stage's own.
    site = module if module.split(".")[0] == stage else stage
    return GraphNode(
        name=proto.name or f"{proto.op_type}_{index}",
        op_type=proto.op_type,
        stage=stage,
        site=site,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
    )


def _tensors(
    model: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]], name: str
) -> dict[str, Tensor]:
    """Sizes by ONNX shape inference, helped where they depend on computed numbers.

    A frame's size goes through Shape, Range and Reshape, whose results ONNX does not follow: such small
    nodes are computed, and the rest inferred again, until nothing more is learnt.
    """
    from onnx import shape_inference

    _fix_inputs(model.graph, input_shapes)
    _forget_weights(model.graph)
    while True:
        try:
            # The sizes that the file notes are those of its own example, and would win.
            del model.graph.value_info[:]
            model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except shape_inference.InferenceError as error:
            raise InputError(
                f"{name} must pass ONNX shape inference, but it says: {str(error).splitlines()[0]}"
            ) from error
        tensors = _inferred(model.graph)
        if not _fold(model, tensors):
            return tensors


def _fix_inputs(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, length in zip(dims, shapes.get(value.name, ()), strict=False):
            dim.dim_value = length


def _forget_weights(graph: onnx.GraphProto) -> None:
    """Their sizes are all that matters, and inference would copy the rest."""
    from onnx import TensorProto

    for initializer in graph.initializer:
        if math.prod(initializer.dims) > _FOLDED_ELEMENTS:
            for content in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
                initializer.ClearField(content)
            initializer.data_location = TensorProto.EXTERNAL


def _inferred(graph: onnx.GraphProto) -> dict[str, Tensor]:
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shape = tuple(int(dim.dim_value) for dim in dims)
            found[value.name] = Tensor(shape, _item_bytes(value.type.tensor_type.elem_type))
    for initializer in graph.initializer:
        found[initializer.name] = Tensor(
            tuple(initializer.dims), _item_bytes(initializer.data_type)
        )
    return found


def _item_bytes(elem_type: int) -> int:
    from onnx import helper

    return int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize)


def _fold(model: onnx.ModelProto, tensors: Mapping[str, Tensor]) -> bool:
    """Put constants in place of the small nodes that can be computed; whether there was one."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    values: dict[str, Array] = {
        initializer.name: numpy_helper.to_array(initializer)
        for initializer in graph.initializer
        if initializer.data_location != TensorProto.EXTERNAL
    }
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    kept = []
    for node in graph.node:
        results = _compute(node, _known_inputs(node, values, tensors), opsets)
        if results is None:
            kept.append(node)
            continue
        for name, result in zip(node.output, results, strict=False):
            values[name] = result
            graph.initializer.append(numpy_helper.from_array(result, name))
    folded = len(kept) < len(graph.node)
    del graph.node[:]
    graph.node.extend(kept)
    return folded


def _known_inputs(
    node: onnx.NodeProto, values: Mapping[str, Array], tensors: Mapping[str, Tensor]
) -> dict[str, Array] | None:
    """None where one is not known; of Shape's, the size is enough."""
    names = [name for name in node.input if name]
    if node.op_type == "Shape" and names[0] in tensors:
        return {names[0]: np.broadcast_to(np.float32(0), tensors[names[0]].shape)}
    if not names or any(name not in values for name in names):
        return None
    return {name: values[name] for name in names}


def _compute(
    node: onnx.NodeProto, inputs: dict[str, Array] | None, opsets: dict[str, int]
) -> list[Array] | None:
    """A node's outputs; None where they are large, or ONNX's own evaluator cannot compute it."""
    from onnx.reference import ReferenceEvaluator

    if inputs is None:
        return None
    try:
        results = ReferenceEvaluator(node, opsets=opsets).run(None, inputs)
    except Exception:  # whatever is wrong, the node stays, and inference says what it does not know
        return None
    arrays = [np.array(result) for result in results]
    return arrays if all(array.size <= _FOLDED_ELEMENTS for array in arrays) else None
