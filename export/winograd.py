"""Small convolutions with fewer multiplications: Winograd's minimal filtering, exact up to rounding.

Theorem (Toom 1963, Cook 1966; Winograd 1980, "Arithmetic complexity of computations"; for networks: Lavin
& Gray, CVPR 2016). m outputs of a filter g of r taps, y[i] = sum over k of g[k] d[i + k], need only
t = m + r - 1 multiplications:

    y = A ((G g) * (B d)),   A (m,t), G (t,r), B (t,t),

with V_n (t,n) the Vandermonde matrix of t - 1 points and infinity, A = V_m^T, G = V_r and B = V_t^-T.

Proof. The product of the polynomials with coefficients a (m of them) and g (r) is fixed by its values at t
points: its coefficients are V_t^-1 ((V_m a) * (V_r g)). For fixed g this is a linear map of a, and
the filter is its transpose. In two dimensions the filter acts on columns and rows one after the other.

Two forms, with m = 4 in both:

- `products`: B of all tiles of an axis is one matrix, zero padding, dilation (each phase has its own tiles)
  and the last, incomplete tile included, and so is A: two matrix products before and two after the t*t
  products of all channels. Channels come last in between, so every product has long rows.
- `strided`: tiles are taken and transformed by one convolution of stride m with the filters B x B, each
  channel alone; one matrix A x A maps back. No dilation. Its cost per tile does not grow with the map.

G g is written as a product of constants: runtimes fold it when they load, and files do not grow.

The points are 0, 1, -1, 2, -2, 1/2, -1/2 and infinity, each row of B scaled to 1 at most: with m = 4 the
rounding of float32 stays at about 4e-6 of the output's range, for 3 and for 5 taps. Other types are too
coarse for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Literal

import numpy as np
import onnx_ir as ir

from depthmask.export.graph_edit import (
    Site,
    conv_bias,
    conv_geometry,
    remove,
    replace_output,
    site_name,
    static_shape,
)
from depthmask.export.resize_matrix import Matrix

Form = Literal["products", "strided"]
_LANES = 16
"""Of the runtimes' matrix products, in AVX-512; the last ones are filled up."""
_OUTPUTS = 4
"""Of a tile, each way. 2 was slower everywhere, 6 rounds by 1e-4 with five taps."""
_TAPS = range(2, 6)
_POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2"))

FractionRows = list[list[Fraction]]


@dataclass(frozen=True)
class Winograd:
    """A convolution that the theorem covers."""

    conv: ir.Node
    batch: int
    channels_in: int
    channels_out: int
    size_in: tuple[int, int]
    size_out: tuple[int, int]
    taps: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int]
    """Above and on the left."""

    @property
    def name(self) -> str:
        """The site's: that of the Conv without its operator."""
        return site_name(self.conv)

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """What is replaced."""
        return (self.conv,)

    def tile(self, axis: int) -> int:
        """t: products per tile along an axis."""
        return _OUTPUTS + self.taps[axis] - 1

    def tiles(self, axis: int) -> int:
        """How many tiles there are along an axis."""
        return len(self._places(axis))

    def matrices(self, axis: int) -> tuple[Matrix, Matrix]:
        """B (t * tiles, size_in) and A (size_out, t * tiles) of all tiles of an axis."""
        outer_mt, _, inner_tt = transforms(self.taps[axis])
        size_in, size_out = self.size_in[axis], self.size_out[axis]
        dilation, tile, places = self.dilations[axis], self.tile(axis), self._places(axis)
        before = np.zeros((tile, len(places), size_in))
        after = np.zeros((size_out, tile, len(places)))
        for number, first in enumerate(places):
            for step in range(tile):
                row = first + dilation * step - self.pads[axis]
                if 0 <= row < size_in:  # else it is zero padding, or beyond the last output
                    before[:, number, row] = inner_tt[:, step]
            for step in range(_OUTPUTS):
                row = first + dilation * step
                if row < size_out:
                    after[row, :, number] = outer_mt[step]
        return before.reshape(-1, size_in), after.reshape(size_out, -1)

    def _places(self, axis: int) -> list[int]:
        """The first output of each tile: neighbours in a tile are a dilation apart."""
        dilation, size_out = self.dilations[axis], self.size_out[axis]
        return [
            first
            for phase in range(dilation)
            for first in range(phase, size_out, dilation * _OUTPUTS)
        ]


@cache
def transforms(taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """A (m,t), G (t,r) and B (t,t) of the theorem, for m = 4 outputs."""
    size = _OUTPUTS + taps - 1
    inner = [list(column) for column in zip(*_inverse(_vandermonde(size, size)), strict=True)]
    filters = _vandermonde(size, taps)
    for row, largest in enumerate([max(map(abs, values)) for values in inner]):
        inner[row] = [value / largest for value in inner[row]]
        filters[row] = [value * largest for value in filters[row]]
    outer = zip(*_vandermonde(size, _OUTPUTS), strict=True)
    a_mt, g_tr, b_tt = (
        np.array([[float(value) for value in row] for row in rows])
        for rows in (outer, filters, inner)
    )
    return a_mt, g_tr, b_tt


def find(graph: ir.Graph) -> Iterator[Winograd]:
    """Convolutions of stride 1, one group and fixed sizes, with constant weights of 2 to 5 taps each way."""
    for node in list(graph):
        geometry = conv_geometry(node)
        if geometry is None or geometry.strides != (1, 1) or geometry.group != 1:
            continue
        shape_in, shape_out = static_shape(node.inputs[0]), static_shape(node.outputs[0])
        if shape_in is None or shape_out is None:
            continue
        taps = (geometry.weight_OCKL.shape[2], geometry.weight_OCKL.shape[3])
        if all(number in _TAPS for number in taps):
            yield Winograd(
                conv=node,
                batch=shape_in[0],
                channels_in=shape_in[1],
                channels_out=shape_out[1],
                size_in=(shape_in[2], shape_in[3]),
                size_out=(shape_out[2], shape_out[3]),
                taps=taps,
                dilations=geometry.dilations,
                pads=geometry.pads[:2],
            )


def forms(site: Winograd) -> tuple[Form, ...]:
    """What can be put in a site's place."""
    return ("products", "strided") if site.dilations == (1, 1) else ("products",)


def apply(graph: ir.Graph, site: Winograd, form: Form) -> None:
    """Put a form in the convolution's place; its output keeps its name."""
    make = Site(graph, site.conv, f"{site.name}/winograd-{form}")
    replace_output(site.conv, {"products": _products, "strided": _strided}[form](make, site))
    remove(graph, [site.conv])


def _products(make: Site, site: Winograd) -> ir.Value:
    (h, w), (high, wide), batch = site.size_in, site.size_out, site.batch
    t_y, t_x, tiles_y, tiles_x = (of(axis) for of in (site.tile, site.tiles) for axis in (0, 1))
    channels_in, channels_out = site.channels_in, site.channels_out
    (before_y, after_y), (before_x, after_x) = site.matrices(0), site.matrices(1)
    rows, columns = t_y * tiles_y, t_x * tiles_x

    def product(matrix: Matrix, value: ir.Value) -> ir.Value:
        shape = static_shape(value) or ()
        constant = make.constant(matrix.astype(np.float32))
        return make.node("MatMul", [constant, value], (*shape[:-2], len(matrix), shape[-1]))

    source = site.conv.inputs[0]
    assert source is not None
    flat = make.reshape(source, (batch, channels_in, h * w))
    last = make.transpose(flat, (0, 2, 1))
    tall = product(before_y, make.reshape(last, (batch, h, w * channels_in)))
    both = product(before_x, make.reshape(tall, (batch * rows, w, channels_in)))
    tiles = make.reshape(both, (batch, t_y, tiles_y, t_x, tiles_x * channels_in))
    by_point = make.transpose(tiles, (1, 3, 0, 2, 4))
    points, pixels = t_y * t_x, batch * tiles_y * tiles_x
    products = make.node(
        "MatMul",
        [make.reshape(by_point, (points, pixels, channels_in)), _filters(make, site, (2, 1, 0))],
        (points, pixels, channels_out),
    )
    made = make.reshape(products, (t_y, t_x, batch, tiles_y, tiles_x * channels_out))
    back = make.transpose(made, (2, 0, 3, 1, 4))
    narrow = product(after_x, make.reshape(back, (batch * rows, columns, channels_out)))
    done = product(after_y, make.reshape(narrow, (batch, rows, wide * channels_out)))
    output = make.reshape(done, (batch, high * wide, channels_out))
    bias = conv_bias(site.conv)
    if bias is not None:
        shape = (batch, high * wide, channels_out)
        output = make.node("Add", [output, make.constant(bias)], shape)
    first = make.transpose(output, (0, 2, 1))
    return make.reshape(first, (batch, channels_out, high, wide))


def _strided(make: Site, site: Winograd) -> ir.Value:
    (outer_y, _, inner_y), (outer_x, _, inner_x) = (transforms(taps) for taps in site.taps)
    (h, w), (high, wide), batch = site.size_in, site.size_out, site.batch
    t_y, t_x, tiles_y, tiles_x = (of(axis) for of in (site.tile, site.tiles) for axis in (0, 1))
    channels_in, channels_out = site.channels_in, site.channels_out
    points, pixels = t_y * t_x, tiles_y * tiles_x
    source = site.conv.inputs[0]
    assert source is not None
    kernel = np.kron(inner_y, inner_x).reshape(points, 1, t_y, t_x)
    ends = [
        _OUTPUTS * site.tiles(axis) + site.taps[axis] - 1 - site.size_in[axis] - site.pads[axis]
        for axis in (0, 1)
    ]
    taken = make.node(
        "Conv",
        [
            make.reshape(source, (batch * channels_in, 1, h, w)),
            make.constant(kernel.astype(np.float32)),
        ],
        (batch * channels_in, points, tiles_y, tiles_x),
        {"kernel_shape": [t_y, t_x], "strides": [_OUTPUTS] * 2, "pads": [*site.pads, *ends]},
    )
    apart = make.reshape(taken, (batch, channels_in, points, pixels))
    by_point = make.transpose(apart, (2, 1, 0, 3))
    products = make.node(
        "MatMul",
        [
            _filters(make, site, (2, 0, 1)),
            make.reshape(by_point, (points, channels_in, batch * pixels)),
        ],
        (points, channels_out, batch * pixels),
    )
    flat = make.reshape(products, (points, channels_out * batch * pixels))
    back = make.constant(np.kron(outer_y, outer_x).astype(np.float32))
    made = make.node("MatMul", [back, flat], (_OUTPUTS**2, channels_out * batch * pixels))
    shape = (_OUTPUTS, _OUTPUTS, channels_out, batch, tiles_y, tiles_x)
    beside = make.transpose(make.reshape(made, shape), (3, 2, 4, 0, 5, 1))
    padded_size = (_OUTPUTS * tiles_y, _OUTPUTS * tiles_x)
    output = make.reshape(beside, (batch, channels_out, *padded_size))
    if padded_size != (high, wide):
        bounds = [np.array(numbers, np.int64) for numbers in ([0, 0], [high, wide], [2, 3])]
        cut = [output, *map(make.constant, bounds)]
        output = make.node("Slice", cut, (batch, channels_out, high, wide))
    bias = conv_bias(site.conv)
    if bias is not None:
        added = [output, make.constant(bias.reshape(1, -1, 1, 1))]
        output = make.node("Add", added, (batch, channels_out, high, wide))
    return output


def _filters(make: Site, site: Winograd, order: tuple[int, int, int]) -> ir.Value:
    """G g G^T of all channels, (out, in, t * t) in this order of axes, of the weights as they are."""
    (_, g_y, _), (_, g_x, _) = (transforms(taps) for taps in site.taps)
    both = np.kron(g_y, g_x)  # (t * t, taps * taps)
    weight = site.conv.inputs[1]
    assert weight is not None
    channels = site.channels_out * site.channels_in
    flat = make.reshape(weight, (channels, both.shape[1]))
    constant = make.constant(np.ascontiguousarray(both.T.astype(np.float32)))
    points = make.node("MatMul", [flat, constant], (channels, len(both)))
    stacked = make.reshape(points, (site.channels_out, site.channels_in, len(both)))
    return make.transpose(stacked, order)


def macs(site: Winograd, form: Form | None) -> int:
    """Multiply-accumulates of the products; None: of the convolution as exported."""
    (h, w), (high, wide) = site.size_in, site.size_out
    channels_in, channels_out = site.channels_in, site.channels_out
    if form is None:
        return site.batch * high * wide * int(np.prod(site.taps)) * channels_in * channels_out
    rows, columns = (site.tile(axis) * site.tiles(axis) for axis in (0, 1))
    if form == "strided":
        points, tiles = site.tile(0) * site.tile(1), site.tiles(0) * site.tiles(1)
        filled = -(-site.batch * tiles // _LANES) * _LANES
        there, back = points**2 * channels_in, points * _OUTPUTS**2 * channels_out
        return site.batch * tiles * (there + back) + filled * points * channels_in * channels_out
    before = channels_in * w * rows * (h + columns)
    after = channels_out * wide * rows * (columns + high)
    return site.batch * (before + rows * columns * channels_in * channels_out + after)


def moved_floats(site: Winograd, form: Form | None) -> int:
    """How many numbers are written beside the output, only to read them again.

    All channels of a pixel, or all pixels of a channel, stay together.
    """
    if form is None:
        return 0
    (h, w), (high, wide) = site.size_in, site.size_out
    rows, columns = (site.tile(axis) * site.tiles(axis) for axis in (0, 1))
    # Runtimes pack the filters of the products anew for every image.
    filters = site.tile(0) * site.tile(1) * site.channels_in * site.channels_out
    if form == "strided":
        outputs = _OUTPUTS**2 * site.tiles(0) * site.tiles(1)
        tiles = rows * columns * (2 * site.channels_in + site.channels_out)
        return filters + 2 * site.batch * (tiles + 2 * outputs * site.channels_out)
    before = site.channels_in * (h * w + rows * w + 2 * rows * columns)
    after = site.channels_out * (2 * rows * columns + rows * wide + high * wide)
    return site.batch * (before + after) + filters


def _vandermonde(size: int, columns: int) -> FractionRows:
    finite = [[point**power for power in range(columns)] for point in _POINTS[: size - 1]]
    infinity = [Fraction(int(column == columns - 1)) for column in range(columns)]
    return [*finite, infinity]


def _inverse(rows: FractionRows) -> FractionRows:
    """By Gauss and Jordan, without rounding."""
    size = len(rows)
    work = [[*row, *(Fraction(int(i == j)) for j in range(size))] for i, row in enumerate(rows)]
    for column in range(size):
        pivot = next(row for row in range(column, size) if work[row][column])
        work[column], work[pivot] = work[pivot], work[column]
        scale = work[column][column]
        work[column] = [value / scale for value in work[column]]
        for row in range(size):
            if row != column and work[row][column]:
                factor = work[row][column]
                work[row] = [a - factor * b for a, b in zip(work[row], work[column], strict=True)]
    return [row[size:] for row in work]
