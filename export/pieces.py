"""A graph cut into pieces that run on right values.

Cutting at a tensor makes it two: an output, where its value is compared, and an input, from which all that
follows takes the right one. One session runs all the pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from depthmask.bundle import IMAGE_TENSOR, STAGE_KEY, Bundle
from depthmask.errors import InputError, UsageError
from depthmask.export.sessions import GraphSession
from depthmask.frames import Resolution
from depthmask.runtimes import Tensors
from depthmask.runtimes.onnxruntime_runtime import import_onnxruntime, session_options

Batch = tuple[Tensors, Mapping[str, np.ndarray]]
"""A graph's inputs, and right values by tensor name, float32."""

_RIGHT = "right value of "
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
# What precision changes add to the name of a tensor that is still the same to a few steps.
_SUFFIXES = ("_fp16", "_float16", "_float", "_QuantizeLinear_Input", "_DequantizeLinear_Output")
# A tensor that hardly varies is judged by its size: float32 itself has no more digits.
_SMALLEST_SPAN = 1e-3
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Finding:
    """A tensor that is outside tolerance."""

    stage: str
    node: str
    op_type: str
    tensor: str
    relative_error: float
    """Infinite for NaN, infinity and another shape."""
    expected: np.ndarray
    found: np.ndarray | None
    """None where the node cannot run."""
    batch: int
    """Which of the batches shows it most."""
    local: bool
    """Whether its piece ran on right values; else errors from before are in it."""
    problem: str = ""
    """Why the node cannot run."""


def load_graph(bundle: Bundle, resolution: Resolution) -> ir.Model:
    """A bundle's graph with its weights in memory.

    Raises:
        InputError: it cannot be read.
    """
    path = bundle.model_path(resolution)
    try:
        return ir.external_data.load_to_model(ir.load(path))
    except Exception as error:  # protobuf and onnx-ir raise many kinds
        raise InputError(f"{path} cannot be read as an ONNX graph: {error}") from error


def stage_near(node: ir.Node) -> str:
    """A node's stage; one that a precision change put in has that of its first ancestor with one."""
    seen: set[ir.Node] = set()
    queue = [node]
    while queue:
        current = queue.pop(0)
        if STAGE_KEY in current.metadata_props:
            return current.metadata_props[STAGE_KEY]
        seen.add(current)
        producers = (value.producer() for value in current.inputs if value is not None)
        queue += [p for p in producers if p is not None and p not in seen]
    return "chain"


def image_name(model: ir.Model) -> str | None:
    """The preprocessed image in a graph that takes frames; None where there is none, or not one."""
    names = {
        value.name
        for node in model.graph
        if stage_near(node) == "preprocess"
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT
        and value.shape is not None
        and len(value.shape) == 4
        and any(stage_near(user) != "preprocess" for user, _ in value.uses())
    }
    return names.pop() if len(names) == 1 else None


def with_named_image(model: ir.Model) -> ir.Model:
    """A copy of a graph that takes frames in which the preprocessed image is named `IMAGE_TENSOR`.

    Raises:
        UsageError: the networks take more from the preprocessing than one image.
    """
    named = model.clone()
    name = image_name(named)
    if name is None:
        raise UsageError(
            "bf16 needs networks that take one preprocessed image, but these take something else too. Try"
            " --input image"
        )
    for node in named.graph:
        for value in node.outputs:
            if value.name == name:
                value.name = IMAGE_TENSOR
    return named


def names(model: ir.Model) -> frozenset[str]:
    """What the graph's tensors are called, without what precision changes add."""
    return frozenset(
        bare
        for node in model.graph
        for value in node.outputs
        for bare in _bare_names(value.name or "")
    )


def outputs_hold(model: ir.Model, batches: Sequence[Batch], tolerance: float) -> bool:
    """Whether the whole graph, run plainly, gives the right mask and depth."""
    try:
        session = _session(model)
        found = [session.run(["mask", "depth"], inputs) for inputs, _ in batches]
    except Exception:  # it does not run at all: the pieces will tell why
        return False
    return all(
        max(relative_errors([f[index] for f in found], [v[name] for _, v in batches])) <= tolerance
        for index, name in enumerate(("mask", "depth"))
    )


def first_outside(
    model: ir.Model, batches: Sequence[Batch], *, tolerance: float, cut: bool = True
) -> Finding | None:
    """The first tensor, in the graph's order, that is outside tolerance in some batch.

    Args:
        model: the suspect.
        batches: the graph's inputs, with right values by tensor name; what the graph lacks is left out.
        tolerance: of the largest difference, as a share of the right values' range.
        cut: whether every piece gets right values; else errors from before add up.
    """
    cuts = _cuts(model, batches[0][1])
    tensors = [name for name, _ in cuts]
    if cut:
        probed = _cut(model, tensors)
        feeds = [_with_right_values(probed, cuts, *batch) for batch in batches]
    else:
        probed, feeds = _with_outputs(model, tensors), [inputs for inputs, _ in batches]
    found, problem = _run(probed, tensors, feeds)
    producers = {value.name: node for node in model.graph for value in node.outputs}
    for index, (name, bare) in enumerate(cuts):
        expected = [values[bare] for _, values in batches]
        if index == len(found[0]):
            return _finding(producers[name], name, np.inf, expected[0], None, cut, 0, problem)
        arrays = [outputs[index] for outputs in found]
        errors = relative_errors(arrays, expected)
        worst = int(np.argmax(errors))
        if errors[worst] > tolerance:
            return _finding(
                producers[name], name, errors[worst], expected[worst], arrays[worst], cut, worst
            )
    return None


def relative_errors(found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> list[float]:
    """Each batch's largest difference as a share of the expected values' range over all batches.

    Infinite for NaN, infinity and another shape.
    """
    low, high = min(float(e.min()) for e in expected), max(float(e.max()) for e in expected)
    span = max(high - low, _SMALLEST_SPAN * max(abs(low), abs(high)), _TINY)
    errors = []
    for f, e in zip(found, expected, strict=True):
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            worst = float(np.abs(f.astype(np.float32) - e).max()) if f.shape == e.shape else np.inf
        errors.append(worst / span if np.isfinite(worst) else np.inf)
    return errors


def _finding(
    node: ir.Node,
    tensor: str,
    error: float,
    expected: np.ndarray,
    found: np.ndarray | None,
    local: bool,
    batch: int,
    problem: str = "",
) -> Finding:
    return Finding(
        stage=stage_near(node),
        node=node.name or "",
        op_type=node.op_type,
        tensor=tensor,
        relative_error=error,
        expected=expected,
        found=None if found is None else found.astype(np.float32),
        local=local,
        batch=batch,
        problem=problem,
    )


def _bare_names(name: str) -> list[str]:
    return [name, *(name.removesuffix(end) for end in _SUFFIXES if name.endswith(end))]


def _cuts(model: ir.Model, values: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    """(name in the graph, name in `values`) of every float tensor that both have, in the graph's order."""
    found = []
    for node in model.graph:
        for value in node.outputs:
            if value.dtype not in _FLOATS or node.op_type == "Constant":
                continue
            bare = next((name for name in _bare_names(value.name or "") if name in values), None)
            if bare is not None:
                found.append((value.name or "", bare))
    return found


def _cut(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    probed = _with_outputs(model, tensors)
    for value in list(probed.graph.outputs):
        right = ir.Value(
            name=f"{_RIGHT}{value.name}", type=ir.TensorType(value.dtype or ir.DataType.FLOAT)
        )
        for user, index in list(value.uses()):
            user.replace_input_with(index, right)
        probed.graph.inputs.append(right)
    return probed


def _with_outputs(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """A copy that gives these tensors, and has no shapes noted: a broken graph's are wrong."""
    probed = model.clone()
    by_name = {value.name: value for node in probed.graph for value in node.outputs}
    for value in by_name.values():
        value.shape = None
    probed.graph.outputs[:] = [by_name[name] for name in tensors]
    return probed


def _with_right_values(
    probed: ir.Model,
    cuts: Sequence[tuple[str, str]],
    inputs: Tensors,
    values: Mapping[str, np.ndarray],
) -> Tensors:
    types = {value.name: value.dtype for value in probed.graph.inputs}
    feeds = dict(inputs)
    for name, bare in cuts:
        dtype = types[f"{_RIGHT}{name}"]
        assert dtype is not None
        with np.errstate(over="ignore"):  # float16: the overflow is blamed on what makes the value
            feeds[f"{_RIGHT}{name}"] = values[bare].astype(dtype.numpy())
    return feeds


def _run(
    model: ir.Model, tensors: Sequence[str], feeds: Sequence[Tensors]
) -> tuple[list[list[np.ndarray]], str]:
    """Per batch, the tensors up to the first that cannot be computed; and why that one cannot."""
    found: list[list[np.ndarray]] = [[] for _ in feeds]
    problem = ""
    low, high = 0, len(tensors) + 1  # the first `low` run; the first `high` do not, or are too many
    middle = len(tensors)
    while high - low > 1:
        try:
            found, low = _outputs(model, tensors[:middle], feeds), middle
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            problem, high = " ".join(str(error).split()), middle
        middle = (low + high) // 2
    return found, problem


def _outputs(
    model: ir.Model, tensors: Sequence[str], feeds: Sequence[Tensors]
) -> list[list[np.ndarray]]:
    part = model.clone()
    part.graph.outputs[:] = [value for value in part.graph.outputs if value.name in set(tensors)]
    RemoveUnusedNodesPass()(part)
    for value in [value for value in part.graph.inputs if not value.uses()]:
        part.graph.inputs.remove(value)
    taken = {value.name for value in part.graph.inputs}
    session = _session(part)
    return [
        session.run(tensors, {name: array for name, array in feed.items() if name in taken})
        for feed in feeds
    ]


def _session(model: ir.Model) -> GraphSession:
    ort = import_onnxruntime()
    options = session_options(ort, None)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # shapes that differ are what we look for
    return GraphSession(model, options)
