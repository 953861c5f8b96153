"""An ONNX file as a stage of a chain: PyTorch sees a module, the exported graph gets the file's own nodes.

Run by PyTorch, the module executes the unmodified file in ONNX Runtime: that is what a bundle must agree
with. Traced, it leaves a placeholder, for which `put_in` puts the file's graph at our opset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from depthmask.bundle import STAGE_KEY
from depthmask.errors import InputError, UsageError
from depthmask.export.from_onnx import OnnxNetwork, gmac, read_network, to_opset
from depthmask.export.sessions import GraphSession
from depthmask.models.blocks import resize_bilinear

Role = Literal["mask", "depth"]
_DOMAIN = "depthmask"


class OnnxStage(nn.Module):
    """image (B,3,H,W), or (B,H,W,3) in the layout nhwc -> map, as the file gives it, four dimensions.

    A file of a fixed size has the image resized to it.
    """

    def __init__(self, path: Path, role: Role, layout: Literal["nchw", "nhwc"]) -> None:
        super().__init__()
        self.network: OnnxNetwork = read_network(path)
        self.role = role
        self.layout = layout
        first, last = self.network.input_shape[1], self.network.input_shape[3]
        channels, other = (first, last) if layout == "nchw" else (last, first)
        if channels not in (3, None) or (channels is None and other == 3):
            raise UsageError(
                f"{path} must take 3 channels in the layout {layout}, but its input is"
                f" {self.network.input_shape}. Try --{role}-layout"
                f" {'nhwc' if layout == 'nchw' else 'nchw'}"
            )
        try:
            self._session = GraphSession(self.network.model)
        except Exception as error:  # ONNX Runtime's errors have no common base of their own
            raise InputError(f"{path} cannot be loaded by ONNX Runtime: {error}") from error
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width, where the file takes one size only."""
        height, width = (
            self.network.input_shape[2:] if self._first else self.network.input_shape[1:3]
        )
        return None if height is None or width is None else (height, width)

    def forward(self, image: Tensor) -> Tensor:
        """Run the file, or leave a placeholder where the chain is being exported."""
        size = image.shape[2:] if self._first else image.shape[1:3]
        if not all(isinstance(side, int) for side in size):
            raise UsageError(
                f"a dynamic resolution needs PyTorch networks, but {self.network.path.name} is ONNX"
            )
        if self.fixed_size and tuple(size) != self.fixed_size:
            image = self._resized(image)
        if torch.onnx.is_in_onnx_export():
            shape = self._output_shape(tuple(image.shape[1:]))
            output: Tensor = torch.onnx.ops.symbolic(
                f"{_DOMAIN}::{self.role}",
                (image,),
                dtype=image.dtype,
                shape=(image.shape[0], *shape),
                version=1,
            )
        else:
            output = torch.from_numpy(self.run(image.numpy()))
        if output.ndim == 3:
            return output.unsqueeze(1 if self._first else 3)
        return output

    def run(self, image: np.ndarray) -> np.ndarray:
        """The unmodified file's output; image by image where its batch is fixed."""
        fixed = self.network.input_shape[0]
        parts = [image] if fixed is None else [image[k : k + 1] for k in range(len(image))]
        outputs = [self._session.run(None, {self.network.input: part})[0] for part in parts]
        return np.concatenate(outputs)

    def graph(self, opset: int) -> ir.Model:
        """The file's graph at an opset."""
        return to_opset(self.network, opset)

    def inner_values(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """Every float tensor inside, under the names that `put_in` gives them."""
        model = self.network.model.clone()
        tensors = [
            value
            for node in model.graph
            for value in node.outputs
            if value.name and not value.is_graph_output()
        ]
        model.graph.outputs.extend(tensors)
        session = GraphSession(model)
        names = [str(value.name) for value in tensors]
        arrays = session.run(names, {self.network.input: image})
        return {
            f"{self.role}.{name}": array
            for name, array in zip(names, arrays, strict=True)
            if array.dtype == np.float32
        }

    def gmac(self, opset: int) -> float:
        """Of one image, in billions of multiply-accumulates; as far as the file's shapes are known."""
        return gmac(self.graph(opset))

    @property
    def _first(self) -> bool:
        return self.layout == "nchw"

    def _resized(self, image: Tensor) -> Tensor:
        assert self.fixed_size is not None
        if self._first:
            return resize_bilinear(image, self.fixed_size)
        return resize_bilinear(image.permute(0, 3, 1, 2), self.fixed_size).permute(0, 2, 3, 1)

    def _output_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        if image_shape not in self._shapes:
            self._shapes[image_shape] = self.run(np.zeros((1, *image_shape), np.float32)).shape[1:]
        return self._shapes[image_shape]


def put_in(model: ir.Model, stage: OnnxStage, opset: int) -> None:
    """Replace a stage's placeholder by the file's graph, its names under the stage's own."""
    (place,) = [n for n in model.graph if (n.domain, n.op_type) == (_DOMAIN, stage.role)]
    inner = stage.graph(opset).graph
    nodes = list(inner)
    for value in [*inner.initializers.values(), *(v for n in nodes for v in n.outputs)]:
        if value.name:
            value.name = f"{stage.role}.{value.name}"
    for number, node in enumerate(nodes):
        node.name = f"{stage.role}.{node.name or number}/{node.op_type}"
        node.metadata_props.clear()
        node.metadata_props[STAGE_KEY] = stage.role
        node.doc_string = None
    (source,), (result,) = list(inner.inputs), list(inner.outputs)
    image = place.inputs[0]
    assert image is not None
    source.replace_all_uses_with(image)
    weights = list(inner.initializers.values())
    inner.initializers.clear()
    inner.outputs.clear()
    inner.remove(nodes)
    for weight in weights:
        model.graph.register_initializer(weight)
    old = place.outputs[0]
    result.shape, result.type = old.shape, old.type
    ir.convenience.replace_nodes_and_values(model.graph, place, [place], nodes, [old], [result])
    model.opset_imports.pop(_DOMAIN, None)
