"""Reading torch.export programs (.pt2) without running code from them.

`torch.export.load` unpickles parts of such a file without restriction, evaluates its size expressions, and
calls any function of torch that the graph names. So the file is checked first, and what would need any of
that is refused: tensors are plain bytes, sizes are arithmetic, operators are ATen's.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from depthmask.errors import InputError, UsageError
from depthmask.untrusted import DAMAGED_ZIP, one_line, open_regular, short

_LARGEST_BYTES = 8 << 30
_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|prims)\.(?!from_file|save|load|_print)\w+\.\w+"
    r"|_operator\.(?:getitem|add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge)"
    r"|torch\.sym_(?:max|min|int|float|not|ite|sum)"
)
_SIZE = re.compile(
    r"(?:Symbol\('[su]\d+'(?:, \w+=(?:True|False))*\)|Integer|Add|Mul|Pow|Max|Min|Mod|FloorDiv|CleanDiv"
    r"|PythonMod|[su]\d+|[-+*/(), \d])*"
)
_PARTS = re.compile(
    r"models/[^/]+\.json|data/weights/weight_\d+|data/constants/tensor_\d+|data/sample_inputs/[^/]+\.pt"
    r"|data/(?:weights|constants)/[^/]+_config\.json"
    r"|archive_format|archive_version|byteorder|(?:\.data|\.format)?/?(?:version|serialization_id)"
)


class ExportedStage(nn.Module):
    """A program as a stage: image -> map, as the program has it."""

    def __init__(self, program: torch.export.ExportedProgram, path: Path) -> None:
        super().__init__()
        self.program = program.module()
        taken = program.graph_signature.user_inputs
        nodes = {node.name: node for node in program.graph.nodes}
        value = nodes[str(taken[0])].meta["val"] if len(taken) == 1 else None
        shape = value.shape if isinstance(value, Tensor) else ()
        if len(shape) != 4:
            raise InputError(
                f"{path} must take one image of four dimensions, but it takes {len(taken)} inputs"
                if len(taken) != 1
                else f"{path} must take one image of four dimensions, but it takes {tuple(shape)}"
            )
        sides = [side if isinstance(side, int) else None for side in shape]
        self._fixed_batch = sides[0]
        height, width = sides[2:] if sides[3] != 3 else sides[1:3]
        self.fixed_size = None if height is None or width is None else (height, width)

    def train(self, mode: bool = True) -> ExportedStage:
        """A program has one mode, that of its export."""
        self.training = mode
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Run it; image by image where its batch is fixed."""
        if self._fixed_batch != 1 or image.shape[0] == 1:
            output: Tensor = self.program(image)
            return output
        if torch.onnx.is_in_onnx_export():
            raise UsageError("--dynamic-batch needs a program with a dynamic batch, but it is 1")
        return torch.cat([self.program(image[k : k + 1]) for k in range(image.shape[0])])


def read_program(path: Path) -> ExportedStage:
    """Read a .pt2 file as a stage.

    Raises:
        InputError: it is missing or damaged, would run code, or does not take one image.
    """
    with open_regular(path, "a torch.export program") as file:
        try:
            parts = _parts(zipfile.ZipFile(file))
        except DAMAGED_ZIP as error:
            raise InputError(f"{path} must be a torch.export program: {one_line(error)}") from error
    problem = _what_would_run(parts)
    if problem:
        raise InputError(
            f"{path} is not loaded, since that could run code: {problem}. Try its ONNX export with"
            " --mask-onnx or --depth-onnx"
        )
    try:
        return ExportedStage(torch.export.load(_packed(parts)), path)
    except InputError:
        raise
    except Exception as error:  # a damaged program raises anything
        raise InputError(
            f"{path} must be a torch.export program, but loading it raised {type(error).__name__}:"
            f" {one_line(error)}"
        ) from error


def _parts(archive: zipfile.ZipFile) -> list[tuple[str, bytes]]:
    members = archive.infolist()
    if sum(member.file_size for member in members) > _LARGEST_BYTES:
        raise ValueError(f"it unpacks to more than {_LARGEST_BYTES} bytes")
    return [(member.filename, archive.read(member)) for member in members]


def _packed(parts: list[tuple[str, bytes]]) -> io.BytesIO:
    """What was looked at, in an archive of our own: torch's reader may see another one in the same file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in parts:
            archive.writestr(name, data)
    content.seek(0)
    return content


def _what_would_run(parts: list[tuple[str, bytes]]) -> str:
    """Why a file is not safe to load; empty where it is."""
    names = [name for name, _ in parts]
    roots = {name.split("/")[0] for name in names}
    if len(set(names)) != len(names) or len(roots) != 1:
        return "it holds parts of the same name, or several archives"
    for name, content in parts:
        part = name.split("/", 1)[-1]
        if not _PARTS.fullmatch(part):
            return f"it holds {short(part)}"
        if part.startswith("data/sample_inputs/") and not _is_plain(content):
            return "its sample inputs are more than tensors"
        if part.endswith(".json"):
            try:
                document = json.loads(content)
                problem = next(_unsafe(document), "")
            except (ValueError, RecursionError):
                return f"{part!r} is not JSON"
            if problem:
                return problem
    return ""


def _is_plain(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # whatever it is, it is not tensors
        return False
    return True


def _unsafe(document: Any) -> Iterator[str]:  # noqa: ANN401  (JSON)
    if isinstance(document, list):
        for item in document:
            yield from _unsafe(item)
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "use_pickle" and value is not False:
                yield "a tensor is a pickle"
            elif key == "path_name" and not re.fullmatch(r"(?:weight|tensor)_\d+", str(value)):
                yield f"a tensor is kept in {short(value)}"
            elif key == "target" and not _OPERATOR.fullmatch(str(value)):
                yield f"its graph calls {short(value)}"
            elif key == "expr_str" and not _SIZE.fullmatch(str(value)):
                yield f"a size is {short(value)}"
            yield from _unsafe(value)
