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

A and B are banded (row i reaches only the rows around i * h / H): for large maps they are applied in blocks.
Convolutions that read the same resized tensor become one where z is small; where it would not stay in the
caches, it is made for a few output channels at a time, which bounds the memory, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from depthmask.export.graph_edit import (
    Array,
    Site,
    constant_array,
    conv_bias,
    conv_geometry,
    conv_weight,
    int_attribute,
    known_shape,
    remove,
    replace_output,
    site_name,
    static_shape,
    string_attribute,
)
from depthmask.export.resize_matrix import TRANSFORMATIONS, Matrix, resize_matrix, shifted

Form = Literal["matrix", "half"]
FORMS: tuple[Form, ...] = ("matrix", "half")
_SINGLE_BLOCK = 40
"""Rows or columns of the low-resolution map; more are cut into blocks of about half of this."""
_BLOCK = 20
_GROUP_FLOATS = 1 << 21
"""Of the largest intermediate tensor of one group of output channels: 8 MB."""

Block = tuple[int, int, int, int]
"""Rows (or columns) [first, last) of the output, and those [above, below) of the input that they need."""


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
        return site_name(self.resize)

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """In order."""
        return (self.resize, *self.convolutions)

    def matrices(self) -> tuple[Matrix, Matrix]:
        """U_y and U_x."""
        mode = _transformation(self.resize)
        scales = _scales(self.resize) or (None, None)
        rows, columns = (
            resize_matrix(size_in, size_out, mode, scale)
            for size_in, size_out, scale in zip(self.size_in, self.size_out, scales, strict=True)
        )
        return rows, columns


MakeForm = Callable[[Site, UpsampleConv, Array], ir.Value]


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
    make_form = {"matrix": _matrix, "half": _half}[form]
    weights = [conv_weight(conv) for conv in site.convolutions]
    groups = _groups(site, form)
    if groups == 1:
        merged = make_form(make, site, np.concatenate(weights))
        outputs = _split(make, site, merged)
    else:
        outputs = [_in_groups(make, site, make_form, weight, groups) for weight in weights]
    for conv, output in zip(site.convolutions, outputs, strict=True):
        bias = conv_bias(conv)
        if bias is not None:
            added = [output, make.constant(bias.reshape(1, -1, 1, 1))]
            output = make.node("Add", added, known_shape(conv.outputs[0]))
        replace_output(conv, output)
    remove(graph, site.nodes[::-1])


def macs(site: UpsampleConv, form: Form | None) -> int:
    """Multiply-accumulates of the convolutions and products of a form; None: as exported."""
    (h, w), (high, wide) = site.size_in, site.size_out
    rows, columns = len(site.row_offsets), len(site.column_offsets)
    channels_out = sum(site.channels_out)
    if form is None:
        return site.batch * high * wide * rows * columns * site.channels_in * channels_out
    row_blocks, column_blocks = _blocks(site, 0), _blocks(site, 1)
    left, right = (
        sum((last - first) * taps * (below - above) for first, last, above, below in blocks)
        for blocks, taps in ((row_blocks, rows), (column_blocks, columns))
    )
    if form == "half":
        convolution = h * wide * columns * site.channels_in * rows * channels_out
        return site.batch * (convolution + channels_out * wide * left)
    convolution = h * w * site.channels_in * rows * columns * channels_out
    return site.batch * (convolution + channels_out * (columns * w * left + high * right))


def moved_floats(site: UpsampleConv, form: Form | None) -> int:
    """How many numbers a form writes beside its output, only to read them again.

    As exported, a convolution reads its input in place.
    """
    if form is None:
        return 0
    (h, w), (high, wide) = site.size_in, site.size_out
    rows, columns = len(site.row_offsets), len(site.column_offsets)
    channels_out = sum(site.channels_out)
    if form == "half":
        return site.batch * (site.channels_in + rows * channels_out) * h * wide
    # The taps, and the product with A as it is made and as it is rearranged.
    return site.batch * channels_out * columns * w * (rows * h + 2 * high)


def _groups(site: UpsampleConv, form: Form) -> int:
    """In how many groups the output channels of each convolution are made."""
    (h, w), (high, wide) = site.size_in, site.size_out
    rows, columns = len(site.row_offsets), len(site.column_offsets)
    width, tallest = (columns * w, max(rows * h, high)) if form == "matrix" else (wide, rows * h)
    floats = site.batch * sum(site.channels_out) * width * tallest
    if floats <= _GROUP_FLOATS:
        return 1
    groups = -(-floats // _GROUP_FLOATS)
    return min(min(site.channels_out), -(-groups // len(site.convolutions)))


def _split(make: Site, site: UpsampleConv, merged: ir.Value) -> list[ir.Value]:
    if len(site.convolutions) == 1:
        return [merged]
    shapes = [(site.batch, channels, *site.size_out) for channels in site.channels_out]
    sizes = make.constant(np.array(site.channels_out, np.int64))
    return make.nodes("Split", [merged, sizes], shapes, {"axis": 1})


def _in_groups(
    make: Site, site: UpsampleConv, make_form: MakeForm, weight_OCKL: Array, groups: int
) -> ir.Value:
    parts = [make_form(make, site, weight) for weight in np.array_split(weight_OCKL, groups)]
    if len(parts) == 1:
        return parts[0]
    shape = (site.batch, len(weight_OCKL), *site.size_out)
    return make.node("Concat", parts, shape, {"axis": 1})


def _matrix(make: Site, site: UpsampleConv, weight_OCKL: Array) -> ir.Value:
    (h, w), batch = site.size_in, site.batch
    channels_out, channels_in, rows, columns = weight_OCKL.shape
    # Channels in the order (column tap, output, row tap): then the row taps and the rows lie together.
    weight = weight_OCKL.transpose(3, 0, 2, 1).reshape(-1, channels_in, 1, 1)
    taps = make.node(
        "Conv",
        [_source(site), make.constant(np.ascontiguousarray(weight))],
        (batch, columns * channels_out * rows, h, w),
        {"kernel_shape": [1, 1]},
    )
    tall = _left_product(make, site, taps, columns * channels_out, w)
    return _right_product(make, site, tall, channels_out)


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
    stacked = make.reshape(taps, (batch, channels, rows, h, width))
    parts = []
    for first, last, above, below in _blocks(site, 0):
        part = _slice(make, stacked, 3, above, below)
        flat = make.reshape(part, (batch, channels, rows * (below - above), width))
        matrix = left_HKh[first:last, :, above:below].reshape(last - first, -1)
        shape = (batch, channels, last - first, width)
        parts.append(make.node("MatMul", [make.constant(matrix.astype(np.float32)), flat], shape))
    return _concat(make, parts, 2)


def _right_product(make: Site, site: UpsampleConv, tall: ir.Value, channels: int) -> ir.Value:
    """B from the right: (N, columns * channels, H, w) to (N, channels, H, W)."""
    w, high, batch, columns = (
        site.size_in[1],
        site.size_out[0],
        site.batch,
        len(site.column_offsets),
    )
    _, resize_x = site.matrices()
    right_LwW = np.stack([shifted(resize_x, offset).T for offset in site.column_offsets])
    by_tap = make.reshape(tall, (batch, columns, channels, high, w))
    parts = []
    for first, last, above, below in _blocks(site, 1):
        part = _slice(make, by_tap, 4, above, below)
        shape = (batch, channels, high, columns, below - above)
        beside = make.node("Transpose", [part], shape, {"perm": [0, 2, 3, 1, 4]})
        flat = make.reshape(beside, (batch, channels * high, columns * (below - above)))
        matrix = right_LwW[:, above:below, first:last].reshape(-1, last - first)
        product = make.node(
            "MatMul",
            [flat, make.constant(matrix.astype(np.float32))],
            (batch, channels * high, last - first),
        )
        parts.append(make.reshape(product, (batch, channels, high, last - first)))
    return _concat(make, parts, 3)


def _slice(make: Site, value: ir.Value, axis: int, first: int, last: int) -> ir.Value:
    shape = list(static_shape(value) or ())
    if (first, last) == (0, shape[axis]):
        return value
    shape[axis] = last - first
    bounds = [make.constant(np.array([number], np.int64)) for number in (first, last, axis)]
    return make.node("Slice", [value, *bounds], shape)


def _concat(make: Site, parts: list[ir.Value], axis: int) -> ir.Value:
    if len(parts) == 1:
        return parts[0]
    shapes = [static_shape(part) or () for part in parts]
    shape = list(shapes[0])
    shape[axis] = sum(one[axis] for one in shapes)
    return make.node("Concat", parts, shape, {"axis": axis})


def _blocks(site: UpsampleConv, axis: int) -> list[Block]:
    """Of rows (axis 0) or columns (1)."""
    size_in, size_out = site.size_in[axis], site.size_out[axis]
    if size_in <= _SINGLE_BLOCK:
        return [(0, size_out, 0, size_in)]
    count = round(size_in / _BLOCK)
    offsets = (site.row_offsets, site.column_offsets)[axis]
    matrix = site.matrices()[axis]
    reached = np.asarray(np.stack([shifted(matrix, offset) for offset in offsets]).any(0))
    blocks = []
    for number in range(count):
        first, last = number * size_out // count, (number + 1) * size_out // count
        (needed,) = np.nonzero(reached[first:last].any(0))
        blocks.append((first, last, int(needed[0]), int(needed[-1]) + 1))
    return blocks


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
        channels_out=tuple(len(conv_weight(conv)) for conv in convolutions),
        size_in=(shape_in[2], shape_in[3]),
        size_out=(shape_out[2], shape_out[3]),
        row_offsets=offsets[0],
        column_offsets=offsets[1],
    )


def _is_plain_linear(resize: ir.Node) -> bool:
    return (
        string_attribute(resize, "mode", "nearest") == "linear"
        and _transformation(resize) in TRANSFORMATIONS
        and string_attribute(resize, "keep_aspect_ratio_policy", "stretch") == "stretch"
        and not int_attribute(resize, "antialias", 0)
        and not int_attribute(resize, "exclude_outside", 0)
        and "axes" not in resize.attributes
    )


def _transformation(resize: ir.Node) -> str:
    return string_attribute(resize, "coordinate_transformation_mode", "half_pixel")


def _scales(resize: ir.Node) -> tuple[float, float] | None:
    """Of rows and columns where the node names scales; None where it names sizes."""
    scales = constant_array(resize.inputs[2]) if len(resize.inputs) > 2 else None
    return None if scales is None or scales.size != 4 else (float(scales[2]), float(scales[3]))


def _offsets(
    conv: ir.Node, source: ir.Value, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Of the taps' rows and columns; None where the theorem does not hold."""
    found = conv_geometry(conv)
    if (
        found is None
        or found.strides != (1, 1)
        or found.group != 1
        or conv.inputs[0] is not source
        or (static_shape(conv.outputs[0]) or ())[2:] != shape[2:]
    ):
        return None
    return found.offsets(0), found.offsets(1)


def _step(offsets: tuple[int, ...]) -> int:
    return offsets[1] - offsets[0] if len(offsets) > 1 else 1


def _source(site: UpsampleConv) -> ir.Value:
    source = site.resize.inputs[0]
    assert source is not None
    return source
