"""Which of ONNX Runtime's providers computes each node of a graph, as the opened session tells it.

ONNX Runtime gives what a provider cannot compute to the next one, and at last to the CPU, without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from depthmask.errors import UnavailableError

RECORD_ENTRY = ("session.record_ep_graph_assignment_info", "1")
"""A session's configuration must have this for `assignment`."""
CPU_PROVIDER = "CPUExecutionProvider"
_NAMED = 3
# fmt: off
_ON_THE_HOST = frozenset([
    "Abs", "Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand",
    "Gather", "Max", "Min", "Mul", "Range", "ReduceSum", "Relu", "Reshape", "Shape", "Slice",
    "Squeeze", "Sub", "Unsqueeze", "Where"
])
# fmt: on
"""CUDA has all of these, so one is on the CPU only where its inputs are: ONNX Runtime keeps there what it
computes from a tensor's size alone, as our preprocessing does its resize weights."""


@dataclass(frozen=True)
class AssignedNode:
    """A node of the graph and the provider that computes it."""

    name: str
    op_type: str
    provider: str


def assignment(session: Any) -> tuple[AssignedNode, ...]:  # noqa: ANN401
    """Every node of a session that was opened with `RECORD_ENTRY`.

    Raises:
        UnavailableError: this ONNX Runtime does not tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        raise UnavailableError(
            "ONNX Runtime must be 1.24 or newer to tell what runs where, but is older. Try"
            " `pip install --upgrade onnxruntime-gpu`"
        )
    return tuple(
        AssignedNode(node.name, node.op_type, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    )


def elsewhere(nodes: Sequence[AssignedNode], provider: str) -> tuple[AssignedNode, ...]:
    """Those that another provider computes, but for the arithmetic of sizes on the CPU."""
    return tuple(
        node
        for node in nodes
        if node.provider != provider
        and not (node.provider == CPU_PROVIDER and node.op_type in _ON_THE_HOST)
    )


def in_words(nodes: Sequence[AssignedNode]) -> str:
    """Operators by provider with the first nodes, as `to the CPU: Conv, Resize (nodes a, b and 3 more)`."""
    said = []
    for provider in sorted({node.provider for node in nodes}):
        there = [node for node in nodes if node.provider == provider]
        operators = ", ".join(sorted({node.op_type for node in there}))
        names = ", ".join(node.name for node in there[:_NAMED])
        more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
        short = provider.removesuffix("ExecutionProvider")
        said.append(
            f"to {'the CPU' if short == 'CPU' else short}: {operators} (nodes {names}{more})"
        )
    return "; ".join(said)
