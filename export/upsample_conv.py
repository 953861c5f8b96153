"""Convolution after upsampling, with the convolution done first: exact, and on fewer pixels.

Theorem. Let x be (C,h,w), U_y (H,h) and U_x (W,w) the matrices of a linear resize (`export.resize_matrix`),
and W[d,e] (O,C) the taps of a convolution with zero padding and stride 1, d and e the offsets of its rows
and columns. With S_d the shift with zero fill, (S_d v)[i] = v[i + d] or 0,

    conv(resize(x)) = sum over d, e of  S_d U_y (W[d,e] x) (S_e U_x)^T + bias.

Proof. Resizing acts on each channel alike, hence commutes with the 1x1 convolution W[d,e]; a convolution
with zero padding is the sum of its shifted 1x1 convolutions. Nothing is approximated, at the borders
neither; only the rounding differs.

So one 1x1 convolution at the low resolution gives all taps, z (taps * O, h, w), and constant matrices do
the rest. Two forms:

- `matrix`: A = [S_d U_y]_d (H, rows * h) from the left, B = [S_e U_x]_e^T (columns * w, W) from the right.
- `half`: x is resized along its rows first, a 1 x columns convolution gives the row taps at (h, W), and A
  does the rest: fewer savings, but a smaller intermediate.

A is banded (row i reaches only the rows around i * h / H): for maps of many rows it is applied in blocks.
Convolutions that read the same resized tensor become one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from depthmask.export.graph_edit import (
    Array,
    Site,
    constant_array,
    remove,
    replace_output,
    static_shape,
)
from depthmask.export.resize_matrix import TRANSFORMATIONS, Matrix, resize_matrix, shifted

Form = Literal["matrix", "half"]
FORMS: tuple[Form, ...] = ("matrix", "half")
_SINGLE_BLOCK_ROWS = 40
"""Of the low-resolution map; more are cut into blocks of about half of this."""
_BLOCK_ROWS = 20


@dataclass(frozen=True)
class UpsampleConv:
    """A Resize and the convolutions that read it, and nothing else does."""

    resize: ir.Node
    convolutions: tuple[ir.Node, ...]
    batch: int
    channels_in: int
    channels_out: tuple[int, ...]
    """Of each convolution."""
    size_in: tuple[int, int]
    size_out: tuple[int, int]
    row_offsets: tuple[int, ...]
    column_offsets: tuple[int, ...]

    @property
    def name(self) -> str:
        """The site's: that of the Resize without its operator."""
        return (self.resize.name or "").rsplit("/", 1)[0]

    def matrices(self) -> tuple[Matrix, Matrix]:
        """U_y and U_x."""
        mode = _transformation(self.resize)
        scales = _scales(self.resize) or (None, None)
        rows, columns = (
            resize_matrix(size_in, size_out, mode, scale)
            for size_in, size_out, scale in zip(self.size_in, self.size_out, scales, strict=True)
        )
        return rows, columns


def find(graph: ir.Graph) -> Iterator[UpsampleConv]:
    """Sites that the theorem covers: a linear, not antialiased Resize of rows and columns with fixed
    sizes, whose only readers are convolutions of stride 1 in one group, with constant weights of one shape
    of taps, that keep the size.
    """
    for node in list(graph):
        if node.op_type == "Resize":
            site = _site(node)
            if site is not None:
                yield site


def apply(graph: ir.Graph, site: UpsampleConv, form: Form) -> None:
    """Put a form in the site's place; the convolutions' outputs keep their names."""
    make = Site(graph, site.convolutions[0], f"{site.name}/{form}")
    weight = np.concatenate([_constant(conv, 1) for conv in site.convolutions])
    make_form = {"matrix": _matrix, "half": _half}[form]
    merged = make_form(make, site, weight)
    outputs = [merged]
    if len(site.convolutions) > 1:
        shapes = [(site.batch, channels, *site.size_out) for channels in site.channels_out]
        sizes = make.constant(np.array(site.channels_out, np.int64))
        outputs = make.nodes("Split", [merged, sizes], shapes, {"axis": 1})
    for conv, output in zip(site.convolutions, outputs, strict=True):
        if len(conv.inputs) > 2 and conv.inputs[2] is not None:
            bias = _constant(conv, 2).reshape(1, -1, 1, 1)
            shape = static_shape(conv.outputs[0])
            assert shape is not None
            output = make.node("Add", [output, make.constant(bias)], shape)
        replace_output(conv, output)
    remove(graph, [*site.convolutions, site.resize])


def macs(site: UpsampleConv, form: Form | None) -> int:
    """Multiply-accumulates of the convolutions and products of a form; None: as exported."""
    (h, w), (high, wide) = site.size_in, site.size_out
    rows, columns = len(site.row_offsets), len(site.column_offsets)
    channels_out = sum(site.channels_out)
    if form is None:
        return site.batch * high * wide * rows * columns * site.channels_in * channels_out
    left = sum(
        (last - first) * rows * (below - above) for first, last, above, below in _blocks(site)
    )
    if form == "half":
        convolution = h * wide * columns * site.channels_in * rows * channels_out
        return site.batch * (convolution + channels_out * wide * left)
    convolution = h * w * site.channels_in * rows * columns * channels_out
    products = channels_out * (columns * w * left + high * columns * w * wide)
    return site.batch * (convolution + products)


def intermediate_floats(site: UpsampleConv, form: Form | None) -> int:
    """The largest tensor that a form makes beside its output, in numbers."""
    (h, w), (high, wide) = site.size_in, site.size_out
    rows, columns, channels_out = (
        len(site.row_offsets),
        len(site.column_offsets),
        sum(site.channels_out),
    )
    if form is None:
        return site.batch * site.channels_in * high * wide
    if form == "half":
        return site.batch * max(site.channels_in, rows * channels_out) * h * wide
    return site.batch * channels_out * columns * w * max(rows * h, high)


def _matrix(make: Site, site: UpsampleConv, weight_OCKL: Array) -> ir.Value:
    (h, w), (high, wide), batch = site.size_in, site.size_out, site.batch
    channels_out, channels_in, rows, columns = weight_OCKL.shape
    _, resize_x = site.matrices()
    right = np.concatenate([shifted(resize_x, offset).T for offset in site.column_offsets])
    # Channels in the order (column tap, output, row tap): then the row taps and the rows lie together.
    weight = weight_OCKL.transpose(3, 0, 2, 1).reshape(-1, channels_in, 1, 1)
    taps = make.node(
        "Conv",
        [_source(site), make.constant(np.ascontiguousarray(weight))],
        (batch, columns * channels_out * rows, h, w),
        {"kernel_shape": [1, 1]},
    )
    tall = _left_product(make, site, taps, columns * channels_out, w)
    by_tap = make.reshape(tall, (batch, columns, channels_out, high, w))
    beside = make.node(
        "Transpose", [by_tap], (batch, channels_out, high, columns, w), {"perm": [0, 2, 3, 1, 4]}
    )
    flat = make.reshape(beside, (batch, channels_out * high, columns * w))
    product = make.node(
        "MatMul",
        [flat, make.constant(right.astype(np.float32))],
        (batch, channels_out * high, wide),
    )
    return make.reshape(product, (batch, channels_out, high, wide))


def _half(make: Site, site: UpsampleConv, weight_OCKL: Array) -> ir.Value:
    (h, w), (_, wide), batch = site.size_in, site.size_out, site.batch
    channels_out, channels_in, rows, columns = weight_OCKL.shape
    _, resize_x = site.matrices()
    source = make.reshape(_source(site), (batch, channels_in * h, w))
    stretched = make.node(
        "MatMul",
        [source, make.constant(resize_x.T.astype(np.float32))],
        (batch, channels_in * h, wide),
    )
    image = make.reshape(stretched, (batch, channels_in, h, wide))
    weight = weight_OCKL.transpose(0, 2, 1, 3).reshape(-1, channels_in, 1, columns)
    before, after = -site.column_offsets[0], site.column_offsets[-1]
    taps = make.node(
        "Conv",
        [image, make.constant(np.ascontiguousarray(weight))],
        (batch, channels_out * rows, h, wide),
        {
            "kernel_shape": [1, columns],
            "pads": [0, before, 0, after],
            "dilations": [1, _step(site.column_offsets)],
        },
    )
    return _left_product(make, site, taps, channels_out, wide)


def _left_product(
    make: Site, site: UpsampleConv, taps: ir.Value, channels: int, width: int
) -> ir.Value:
    """A from the left: (N, channels * rows, h, width) to (N, channels, H, width)."""
    h, batch, rows = site.size_in[0], site.batch, len(site.row_offsets)
    resize_y, _ = site.matrices()
    left_HKh = np.stack([shifted(resize_y, offset) for offset in site.row_offsets], 1)
    blocks = _blocks(site)
    stacked = make.reshape(taps, (batch, channels, rows, h, width))
    parts = []
    for first, last, above, below in blocks:
        part = stacked
        if len(blocks) > 1:
            bounds = [make.constant(np.array([bound], np.int64)) for bound in (above, below, 3)]
            shape = (batch, channels, rows, below - above, width)
            part = make.node("Slice", [stacked, *bounds], shape)
        flat = make.reshape(part, (batch, channels, rows * (below - above), width))
        matrix = left_HKh[first:last, :, above:below].reshape(last - first, -1)
        parts.append(
            make.node(
                "MatMul",
                [make.constant(matrix.astype(np.float32)), flat],
                (batch, channels, last - first, width),
            )
        )
    if len(parts) == 1:
        return parts[0]
    shape = (batch, channels, site.size_out[0], width)
    return make.node("Concat", parts, shape, {"axis": 2})


def _blocks(site: UpsampleConv) -> list[tuple[int, int, int, int]]:
    """Output rows [first, last) and the input rows [above, below) that they need."""
    h, high = site.size_in[0], site.size_out[0]
    count = 1 if h <= _SINGLE_BLOCK_ROWS else round(h / _BLOCK_ROWS)
    reached_Hh = sum(shifted(np.abs(site.matrices()[0]), offset) for offset in site.row_offsets)
    blocks = []
    for number in range(count):
        first, last = number * high // count, (number + 1) * high // count
        (needed,) = np.nonzero(np.asarray(reached_Hh)[first:last].any(0))
        blocks.append((first, last, int(needed[0]), int(needed[-1]) + 1))
    return blocks if count > 1 else [(0, high, 0, h)]


def _site(resize: ir.Node) -> UpsampleConv | None:
    source, output = resize.inputs[0], resize.outputs[0]
    shape_in, shape_out = static_shape(source), static_shape(output)
    convolutions = tuple(dict.fromkeys(use.node for use in output.uses()))
    if (
        shape_in is None
        or shape_out is None
        or len(shape_in) != 4
        or shape_in[:2] != shape_out[:2]
        or not _is_plain_linear(resize)
        or output.is_graph_output()
        or not convolutions
    ):
        return None
    taps = {_offsets(conv, output, shape_out) for conv in convolutions}
    offsets = taps.pop()
    if taps or offsets is None:
        return None
    return UpsampleConv(
        resize=resize,
        convolutions=convolutions,
        batch=shape_in[0],
        channels_in=shape_in[1],
        channels_out=tuple(len(_constant(conv, 1)) for conv in convolutions),
        size_in=(shape_in[2], shape_in[3]),
        size_out=(shape_out[2], shape_out[3]),
        row_offsets=offsets[0],
        column_offsets=offsets[1],
    )


def _is_plain_linear(resize: ir.Node) -> bool:
    def attribute(name: str, default: str) -> str:
        found = resize.attributes.get(name)
        return default if found is None else found.as_string()

    def flag(name: str) -> int:
        found = resize.attributes.get(name)
        return 0 if found is None else found.as_int()

    return (
        attribute("mode", "nearest") == "linear"
        and _transformation(resize) in TRANSFORMATIONS
        and attribute("keep_aspect_ratio_policy", "stretch") == "stretch"
        and not flag("antialias")
        and not flag("exclude_outside")
        and "axes" not in resize.attributes
    )


def _transformation(resize: ir.Node) -> str:
    found = resize.attributes.get("coordinate_transformation_mode")
    return "half_pixel" if found is None else found.as_string()


def _scales(resize: ir.Node) -> tuple[float, float] | None:
    """Of rows and columns where the node names scales; None where it names sizes."""
    scales = constant_array(resize.inputs[2]) if len(resize.inputs) > 2 else None
    return None if scales is None or scales.size != 4 else (float(scales[2]), float(scales[3]))


def _offsets(
    conv: ir.Node, source: ir.Value, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Of the taps' rows and columns; None where the theorem does not hold."""
    weight = constant_array(conv.inputs[1]) if conv.op_type == "Conv" else None
    biased = len(conv.inputs) > 2 and conv.inputs[2] is not None
    if (
        weight is None
        or weight.ndim != 4
        or conv.inputs[0] is not source
        or source in conv.inputs[1:]
        or (biased and constant_array(conv.inputs[2]) is None)
        or (static_shape(conv.outputs[0]) or ())[2:] != shape[2:]
    ):
        return None

    def numbers(name: str, default: list[int]) -> list[int]:
        found = conv.attributes.get(name)
        return default if found is None else list(found.as_ints())

    group = conv.attributes.get("group")
    padding = conv.attributes.get("auto_pad")
    if (
        numbers("strides", [1, 1]) != [1, 1]
        or (group is not None and group.as_int() != 1)
        or (padding is not None and padding.as_string() != "NOTSET")
    ):
        return None
    dilations, pads = numbers("dilations", [1, 1]), numbers("pads", [0, 0, 0, 0])
    rows, columns = (
        tuple(dilations[axis] * tap - pads[axis] for tap in range(weight.shape[2 + axis]))
        for axis in (0, 1)
    )
    return rows, columns


def _step(offsets: tuple[int, ...]) -> int:
    return offsets[1] - offsets[0] if len(offsets) > 1 else 1


def _source(site: UpsampleConv) -> ir.Value:
    source = site.resize.inputs[0]
    assert source is not None
    return source


def _constant(conv: ir.Node, index: int) -> Array:
    array = constant_array(conv.inputs[index])
    assert array is not None
    return array
