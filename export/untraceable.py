"""Why a chain cannot be made a graph, and the line of the user's code that is to blame, in one sentence."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch

import depthmask

_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \w+(?:\n\s*(\S[^\n]*))?')
_NOT_THE_USERS = tuple(
    str(Path(file).parent) for file in (torch.__file__, depthmask.__file__, __file__)
)


def reason(error: BaseException) -> str:
    """What PyTorch's exporter could not do, and where in the model's code."""
    causes = list(_causes(error))
    found = (_NO_OPERATOR.search(str(cause)) for cause in causes)
    operator = next((match[1] for match in found if match), None)
    deepest = causes[-1]
    what = (
        f"ONNX has no operator for {operator.replace('aten.', '')}"
        if operator is not None
        else next(iter(str(deepest).strip().splitlines()), "") or type(deepest).__name__
    )
    place = next((p for cause in reversed(causes) for p in _places(cause)), None)
    return what if place is None else f"{what}, at {place}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _places(error: BaseException) -> Iterator[str]:
    """`FILE:LINE (CODE)` of the user's code, the likeliest first."""
    # The exporter's node that cannot be converted knows the lines that made it.
    for node in _nodes(error.__traceback__):
        yield from _users(node.meta.get("stack_trace") or "")
    # PyTorch's errors often quote the call.
    yield from _users(str(error))
    yield from _users("".join(traceback.format_tb(error.__traceback__)))


def _nodes(trace: TracebackType | None) -> Iterator[torch.fx.Node]:
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node")
        if isinstance(node, torch.fx.Node):
            yield node
        trace = trace.tb_next


def _users(frames: str) -> Iterator[str]:
    """Of a traceback's text, the innermost frame first; PyTorch's and our own are left out."""
    for file, line, code in reversed(_FRAME.findall(frames)):
        if not file.startswith((*_NOT_THE_USERS, "<")):
            yield f"{file}:{line} ({code.strip()})" if code else f"{file}:{line}"
