"""Every tensor of a chain by name, as PyTorch computes it.

The exporter names a graph's tensors after the operations of the exported program. That program, run by
PyTorch operation by operation, gives the right value of each, whatever the exporter, a rewrite or a
precision change made of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.export.graph_signature import InputKind as ProgramInput

from depthmask.bundle import Manifest
from depthmask.chain import MaskDepthChain
from depthmask.export.to_onnx import traced_program
from depthmask.frames import Resolution
from depthmask.runtimes import Tensors


def trusted_values(
    chain: MaskDepthChain,
    manifest: Manifest,
    resolution: Resolution,
    batches: Iterable[Tensors],
    names: Collection[str],
) -> list[dict[str, np.ndarray]]:
    """The named tensors' right values, float32, for each input.

    Args:
        chain: the right one.
        manifest: says how the graph was made.
        resolution: of the graph.
        batches: `frame` or `image`.
        names: of tensors; what the program does not have is left out.

    Raises:
        UsageError: the chain cannot be traced.
    """
    program = traced_program(
        chain.eval(),
        resolution,
        input_kind=manifest.input,
        dynamic_batch=manifest.dynamic_batch,
        dynamic_resolution=manifest.dynamic_resolution,
        opset=manifest.opset,
    ).exported_program
    assert program is not None
    found = []
    for inputs in batches:
        recorder = _Recorder(program, names, chain)
        with torch.inference_mode():
            recorder.run(*_arguments(program, torch.from_numpy(inputs[manifest.input])))
        found.append(recorder.values)
    return found


def _arguments(program: torch.export.ExportedProgram, example: torch.Tensor) -> Iterator[Any]:
    """What the program's graph takes: its parameters and buffers, and the input."""
    for spec in program.graph_signature.input_specs:
        if spec.kind == ProgramInput.USER_INPUT:
            yield example
        elif spec.target in program.state_dict:
            yield program.state_dict[spec.target]
        else:
            yield program.constants[str(spec.target)]


class _Recorder(torch.fx.Interpreter):
    """Runs a program and keeps the tensors that are asked for."""

    def __init__(
        self,
        program: torch.export.ExportedProgram,
        names: Collection[str],
        chain: MaskDepthChain,
    ) -> None:
        super().__init__(program.graph_module)
        self.values: dict[str, np.ndarray] = {}
        self._chain = chain
        self._wanted = {name: [name] for name in names}
        outputs = program.graph_signature.user_outputs
        for name, output in zip(("mask", "depth"), outputs, strict=True):
            # In the ONNX graph, an output's own name takes the place of the operation's.
            self._wanted.setdefault(str(output), []).append(name)

    def run_node(self, n: torch.fx.Node) -> Any:  # noqa: ANN401  (as torch declares it)
        result = super().run_node(n)
        if n.target is torch.ops.onnx_symbolic._symbolic.default:
            result = self._onnx_stage(n)
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            for name in self._wanted.get(n.name, ()):
                self.values[name] = result.numpy()
        return result

    def _onnx_stage(self, n: torch.fx.Node) -> torch.Tensor:
        """What the unmodified file gives, in the place of its placeholder."""
        (image,), role = self.fetch_args_kwargs_from_env(n)[0][:2]
        stage = getattr(self._chain, role)
        self.values.update(stage.inner_values(image.numpy()))
        return torch.from_numpy(stage.run(image.numpy()))
