"""Convolutions of 3x3 and 5x5 with fewer multiplications: Winograd's minimal filtering, in plain operators.

Theorem (Toom 1963, Cook 1966; Winograd 1980, "Arithmetic complexity of computations"). Let r be the taps of
a filter g, m outputs of y[i] = sum over k of g[k] d[i + k] be wanted, and n = m + r - 1. For any n - 1
different points a_j, with the point at infinity as the last,

    y = A^T ((G g) * (B^T d)),   A^T (m,n): a_j^i,   G (n,r): a_j^i / prod over k != j of (a_j - a_k),
    B^T (n,n): row j the coefficients of prod over k != j of (x - a_k), the last row of prod over all k.

Proof. The product of the polynomials of degree r - 1 and m - 1 with coefficients g and y' has n coefficients;
it is found from its values at n points (Lagrange), which are products of values. That is the map
(g, y') -> E (V_g g * V_y y'); transposed in y' it is the filter above. In two dimensions the maps act on rows
and columns: Y = A^T ((G W G^T) * (B^T D B)) A (Lavin & Gray 2016, "Fast algorithms for convolutional neural
networks"). Nothing is approximated; only the rounding differs, by more than in other rewrites (for the points
0, +-1, +-1/2, +-2 about 4e-6 of the range), which is why it is made in float32 only.

With m = 4, 64 multiplications make 16 outputs of a 5x5 convolution instead of 400; of a 3x3, 36 instead of
144. The tiles D overlap; they are taken and transformed by one convolution of stride m with the fixed filters
B^T x B^T; the products are n * n matrix products over the channels, and one more matrix maps back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from depthmask.export.graph_edit import (
    Array,
    Site,
    constant_array,
    remove,
    replace_output,
    static_shape,
)

TILE = 4
"""Outputs of a tile, m, in each direction."""
TAPS = (3, 5)
_POINTS = tuple(map(Fraction, ("0", "1", "-1", "1/2", "-1/2", "2", "-2")))
_TILE_SHARE, _WEIGHT_SHARE = 0.55, 0.33
"""What a number of a tile takes, and a weight that is only read, of one that another rewrite writes and reads
again: fitted to 128 channels of 5x5 at 16 to 112 px and to 128, 256 and 512 of 3x3 at 28 px, on two cores."""
_LANES = 16
"""Matrix products are made for so many tiles at a time."""

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SquareConv:
    """A convolution that the theorem covers."""

    conv: ir.Node
    batch: int
    channels_in: int
    channels_out: int
    taps: int
    pads: tuple[int, int, int, int]
    """Above, left, below, right."""
    size_in: tuple[int, int]
    size_out: tuple[int, int]

    @property
    def name(self) -> str:
        """The site's: the convolution's."""
        return self.conv.name or ""

    @property
    def tiles(self) -> tuple[int, int]:
        """Down and across; the last ones may reach over the edge."""
        high, wide = self.size_out
        return -(-high // TILE), -(-wide // TILE)

    @property
    def window(self) -> int:
        """Inputs of a tile, n, in each direction."""
        return TILE + self.taps - 1


def find(graph: ir.Graph) -> Iterator[SquareConv]:
    """Sites: a convolution of 3x3 or 5x5 in one group, of stride 1 and dilation 1, with constant float32
    weights and bias, padding of its own and fixed sizes.
    """
    for node in list(graph):
        if node.op_type == "Conv" and node.domain == "":
            site = _site(node)
            if site is not None:
                yield site


def apply(graph: ir.Graph, site: SquareConv) -> None:
    """Put the fast form in the site's place; the convolution's output keeps its name."""
    make = Site(graph, site.conv, f"{site.name}/winograd")
    inverse, filters, tiles = matrices(TILE, site.taps)
    batch, window, count = site.batch, site.window, site.window**2
    down, across = site.tiles
    seen = _transformed_tiles(make, site, tiles)
    weight_OCKK = constant_array(site.conv.inputs[1])
    assert weight_OCKK is not None
    wide_weights = np.einsum("ia,ocab,jb->ijoc", filters, weight_OCKK.astype(np.float64), filters)
    shape = (count, site.channels_out, site.channels_in)
    products = make.node(
        "MatMul",
        [make.constant(wide_weights.reshape(shape).astype(np.float32)), seen],
        (count, site.channels_out, batch * down * across),
    )
    flat = make.reshape(products, (count, site.channels_out * batch * down * across))
    back = np.einsum("ia,jb->ijab", inverse, inverse).reshape(TILE**2, window**2)
    outputs = make.node(
        "MatMul",
        [make.constant(back.astype(np.float32)), flat],
        (TILE**2, site.channels_out * batch * down * across),
    )
    output = _as_image(make, site, outputs)
    bias = constant_array(site.conv.inputs[2]) if len(site.conv.inputs) > 2 else None
    if bias is not None:
        output_shape = (batch, site.channels_out, *site.size_out)
        output = make.node("Add", [output, make.constant(bias.reshape(1, -1, 1, 1))], output_shape)
    replace_output(site.conv, output)
    remove(graph, [site.conv])


def _as_image(make: Site, site: SquareConv, outputs: ir.Value) -> ir.Value:
    """(m * m, O * N * tiles) to (N,O,H,W)."""
    batch, (down, across), (high, wide) = site.batch, site.tiles, site.size_out
    apart = make.reshape(outputs, (TILE, TILE, site.channels_out, batch, down, across))
    shape = (batch, site.channels_out, down, TILE, across, TILE)
    beside = make.node("Transpose", [apart], shape, {"perm": [3, 2, 4, 0, 5, 1]})
    output = make.reshape(beside, (batch, site.channels_out, down * TILE, across * TILE))
    if (down * TILE, across * TILE) == (high, wide):
        return output
    bounds = [np.array(numbers, np.int64) for numbers in ([0, 0], [high, wide], [2, 3])]
    size = (batch, site.channels_out, high, wide)
    return make.node("Slice", [output, *map(make.constant, bounds)], size)


def macs(site: SquareConv, rewritten: bool) -> int:
    """Multiply-accumulates, of the transforms too."""
    if not rewritten:
        (high, wide), taps = site.size_out, site.taps**2
        return site.batch * high * wide * taps * site.channels_in * site.channels_out
    tiles, window = site.batch * site.tiles[0] * site.tiles[1], site.window**2
    there = window**2 * site.channels_in
    products = window * site.channels_in * site.channels_out
    return tiles * (there + products + window * TILE**2 * site.channels_out)


def padded_macs(site: SquareConv) -> int:
    """Those of the rewritten form, with the last of the products' vectors filled up."""
    tiles = site.batch * site.tiles[0] * site.tiles[1]
    filled = -tiles % _LANES * site.window**2 * site.channels_in * site.channels_out
    return macs(site, True) + filled


def moved_floats(site: SquareConv, rewritten: bool) -> int:
    """What is moved beside the output, in numbers that are written only to be read again."""
    weights = site.channels_in * site.channels_out
    if not rewritten:
        return round(_WEIGHT_SHARE * weights * site.taps**2)
    tiles, window = site.batch * site.tiles[0] * site.tiles[1], site.window**2
    # Tiles as they are made and rearranged, their products, the outputs as they are made and rearranged.
    moved = window * (2 * site.channels_in + site.channels_out) + 2 * TILE**2 * site.channels_out
    return round(_TILE_SHARE * tiles * moved + _WEIGHT_SHARE * weights * window)


def matrices(outputs: int, taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """A^T (m,n), G (n,r) and B^T (n,n) of the theorem."""
    count = outputs + taps - 1
    points = _POINTS[: count - 1]
    inverse, filters, tiles = (
        np.zeros((outputs, count)),
        np.zeros((count, taps)),
        np.zeros((count, count)),
    )
    for j, point in enumerate(points):
        others = [other for other in points if other != point]
        norm = Fraction(1)
        for other in others:
            norm *= point - other
        inverse[:, j] = [float(point**i) for i in range(outputs)]
        filters[j] = [float(point**i / norm) for i in range(taps)]
        tiles[j, : count - 1] = _coefficients(others)
    inverse[-1, -1] = filters[-1, -1] = 1
    tiles[-1] = _coefficients(points)
    return inverse, filters, tiles


def _coefficients(roots: Sequence[Fraction]) -> list[float]:
    """Of the product of (x - root), the constant first."""
    found = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *found], [*(root * c for c in found), Fraction(0)]
        found = [a - b for a, b in zip(shifted, scaled, strict=True)]
    return [float(coefficient) for coefficient in found]


def _transformed_tiles(make: Site, site: SquareConv, tiles: Matrix) -> ir.Value:
    """B^T D B of every tile and channel: (n * n, C, N * tiles)."""
    source = site.conv.inputs[0]
    assert source is not None
    batch, channels, window = site.batch, site.channels_in, site.window
    (down, across), (height, width), (above, left, _, _) = site.tiles, site.size_in, site.pads
    alone = make.reshape(source, (batch * channels, 1, height, width))
    kernel = np.einsum("ia,jb->ijab", tiles, tiles).reshape(-1, 1, window, window)
    below = down * TILE + site.taps - 1 - height - above
    right = across * TILE + site.taps - 1 - width - left
    taken = make.node(
        "Conv",
        [alone, make.constant(kernel.astype(np.float32))],
        (batch * channels, window**2, down, across),
        {
            "kernel_shape": [window, window],
            "strides": [TILE, TILE],
            "pads": [above, left, below, right],
        },
    )
    by_image = make.reshape(taken, (batch, channels, window**2, down * across))
    shape = (window**2, channels, batch, down * across)
    by_value = make.node("Transpose", [by_image], shape, {"perm": [2, 1, 0, 3]})
    return make.reshape(by_value, (window**2, channels, batch * down * across))


def _site(conv: ir.Node) -> SquareConv | None:
    shape_in, shape_out = static_shape(conv.inputs[0]), static_shape(conv.outputs[0])
    weight = constant_array(conv.inputs[1])
    biased = len(conv.inputs) > 2 and conv.inputs[2] is not None
    if (
        shape_in is None
        or shape_out is None
        or len(shape_in) != 4
        or not _is_square(weight)
        or (biased and constant_array(conv.inputs[2]) is None)
        or not _is_plain(conv)
    ):
        return None
    assert weight is not None
    pads = conv.attributes.get("pads")
    above, left, below, right = pads.as_ints() if pads is not None else (0, 0, 0, 0)
    return SquareConv(
        conv=conv,
        batch=shape_in[0],
        channels_in=shape_in[1],
        channels_out=len(weight),
        taps=weight.shape[2],
        pads=(above, left, below, right),
        size_in=(shape_in[2], shape_in[3]),
        size_out=(shape_out[2], shape_out[3]),
    )


def _is_square(weight: Array | None) -> bool:
    return (
        weight is not None
        and weight.ndim == 4
        and weight.dtype == np.float32
        and weight.shape[2] == weight.shape[3]
        and weight.shape[2] in TAPS
    )


def _is_plain(conv: ir.Node) -> bool:
    """One group, stride and dilation 1, padding in numbers."""
    group, auto_pad = conv.attributes.get("group"), conv.attributes.get("auto_pad")
    ones = [conv.attributes.get(name) for name in ("strides", "dilations")]
    return (
        (group is None or group.as_int() == 1)
        and (auto_pad is None or auto_pad.as_string() == "NOTSET")
        and all(one is None or set(one.as_ints()) == {1} for one in ones)
    )
