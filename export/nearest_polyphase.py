"""Convolution after nearest-neighbour upsampling by a whole factor, with the convolution done first: exact.

Theorem. Let u[s p + a] = x[p] for 0 <= a < s be x upsampled by s, and y[i] = sum over d of W[d] u[i + d] a
convolution with zero padding and stride 1 that keeps the size, d the offsets of its taps. Then

    y[s p + a] = sum over e of V[a, e] x[p + e],    V[a, e] = sum of W[d] over d with floor((a + d) / s) = e,

with zero padding again, in rows and columns alike, and for every group of channels.

Proof. i = s p + a reads u at s p + a + d, which is x at p + floor((a + d) / s) where that is inside. And
s p + a + d is inside of u, 0 to s h - 1, just where p + floor((a + d) / s) is inside of x, 0 to h - 1:
so both read a zero at the same time, whatever the padding, and the borders are exact.

So one convolution at the low resolution gives the s * s phases (a 5x5 by 2 becomes a 3x3: 9 taps for an
output pixel in place of 25), and DepthToSpace interleaves them. Two forms:

- `polyphase`: that.
- `swap`: a convolution of 1x1 has V[a] = W for all phases, so it is done before the Resize, and so is
  every function of single numbers (Relu, Clip, Sigmoid ...) that alone reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from depthmask.export.graph_edit import (
    Array,
    Site,
    conv_bias,
    conv_geometry,
    conv_weight,
    int_attribute,
    known_shape,
    remove,
    replace_output,
    site_name,
    static_shape,
)
from depthmask.export.plain_nearest import plain_resize, whole_factor

POLYPHASE, SWAP = "polyphase", "swap"
_POINTWISE = ("Relu", "Clip", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu")


@dataclass(frozen=True)
class NearestConv:
    """A Resize and the only convolution that reads it, with what is done to single numbers after that."""

    resize: ir.Node
    convolution: ir.Node
    pointwise: tuple[ir.Node, ...]
    """Empty unless the convolution is 1x1."""
    scale: int
    row_offsets: tuple[int, ...]
    column_offsets: tuple[int, ...]

    @property
    def name(self) -> str:
        """The site's: that of the Resize without its operator."""
        return site_name(self.resize)

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """In order."""
        return (self.resize, self.convolution, *self.pointwise)


def forms(site: NearestConv) -> tuple[str, ...]:
    """A 1x1 convolution is swapped, others are taken apart."""
    return (SWAP,) if site.row_offsets == site.column_offsets == (0,) else (POLYPHASE,)


def find(graph: ir.Graph) -> Iterator[NearestConv]:
    """Nearest Resizes of rows and columns by one whole factor, read by one convolution alone, of stride 1,
    with constant weights, that keeps the size.
    """
    for node in list(graph):
        site = _site(node) if node.op_type == "Resize" else None
        if site is not None:
            yield site


def apply(graph: ir.Graph, site: NearestConv, form: str) -> None:
    """Put a form in the site's place; its last output keeps its name."""
    make = Site(graph, site.convolution, f"{site.name}/{form}")
    output = _swap(make, site) if form == SWAP else _polyphase(make, site)
    replace_output(site.nodes[-1], output)
    remove(graph, [*reversed(site.nodes)])


def macs(site: NearestConv, form: str | None) -> int:
    """Multiply-accumulates of the convolution."""
    weight, taken, given = (
        conv_weight(site.convolution),
        known_shape(site.resize.inputs[0]),
        known_shape(site.convolution.outputs[0]),
    )
    if form is None:
        return int(np.prod(given) * np.prod(weight.shape[1:]))
    if form == SWAP:
        return int(np.prod(given) * np.prod(weight.shape[1:])) // site.scale**2
    taps = [len(_steps(offsets, site.scale)) for offsets in (site.row_offsets, site.column_offsets)]
    return int(taken[0] * np.prod(given[1:]) * weight.shape[1] * np.prod(taps))


def moved_floats(site: NearestConv, form: str | None) -> int:
    """The upsampled map as exported; what is left to upsample or to interleave, otherwise.

    A convolution in groups with several outputs each has no blocked layout in ONNX Runtime: around it, maps
    are rearranged once more.
    """
    upsampled, made = (
        int(np.prod(known_shape(node.outputs[0]))) for node in (site.resize, site.convolution)
    )
    if form is None:
        return upsampled
    grouped = form == POLYPHASE and int_attribute(site.convolution, "group", 1) > 1
    return made + (made + upsampled // site.scale**2 if grouped else 0)


def phase_weights(
    weight_OCKL: Array, rows: tuple[int, ...], columns: tuple[int, ...], scale: int
) -> Array:
    """V of a convolution, (O * s * s, C, E, F), the phases of an output channel side by side.

    Args:
        weight_OCKL: W.
        rows: the offsets d of its rows.
        columns: of its columns.
        scale: s.
    """
    sums = [_tap_sums(offsets, scale) for offsets in (rows, columns)]
    phases: Array = np.einsum("aek,bfl,ockl->oabcef", *sums, weight_OCKL.astype(np.float64))
    stacked: Array = phases.reshape(-1, *phases.shape[3:]).astype(np.float32)
    return stacked


def _tap_sums(offsets: tuple[int, ...], scale: int) -> Array:
    """(s, E, K): 1 where phase a reads tap k at step e."""
    steps = _steps(offsets, scale)
    found = np.zeros((scale, len(steps), len(offsets)))
    for phase in range(scale):
        for tap, offset in enumerate(offsets):
            found[phase, steps.index((phase + offset) // scale), tap] = 1
    return found


def _steps(offsets: tuple[int, ...], scale: int) -> range:
    return range(min(offsets) // scale, (scale - 1 + max(offsets)) // scale + 1)


def _polyphase(make: Site, site: NearestConv) -> ir.Value:
    batch, channels_out, high, wide = known_shape(site.convolution.outputs[0])
    s, source = site.scale, site.resize.inputs[0]
    assert source is not None
    weight = phase_weights(conv_weight(site.convolution), site.row_offsets, site.column_offsets, s)
    steps = [_steps(offsets, s) for offsets in (site.row_offsets, site.column_offsets)]
    inputs = [source, make.constant(weight)]
    bias = conv_bias(site.convolution)
    if bias is not None:
        inputs.append(make.constant(np.repeat(bias, s * s)))
    phases = make.node(
        "Conv",
        inputs,
        (batch, channels_out * s * s, high // s, wide // s),
        {
            "kernel_shape": list(weight.shape[2:]),
            "pads": [-steps[0][0], -steps[1][0], steps[0][-1], steps[1][-1]],
            "group": int_attribute(site.convolution, "group", 1),
        },
    )
    shape = (batch, channels_out, high, wide)
    return make.node("DepthToSpace", [phases], shape, {"blocksize": s, "mode": "CRD"})


def _swap(make: Site, site: NearestConv) -> ir.Value:
    batch, channels_out, high, wide = known_shape(site.convolution.outputs[0])
    value = site.resize.inputs[0]
    assert value is not None
    low = (batch, channels_out, high // site.scale, wide // site.scale)
    for node in (site.convolution, *site.pointwise):
        value = make.like(node, [value, *node.inputs[1:]], low)
    return plain_resize(make, value, site.scale, (batch, channels_out, high, wide))


def _site(resize: ir.Node) -> NearestConv | None:
    output = resize.outputs[0]
    high = static_shape(output)
    scale = whole_factor(resize)
    uses = tuple(output.uses())
    if scale is None or output.is_graph_output() or len(uses) != 1 or uses[0].idx != 0:
        return None
    conv = uses[0].node
    found = conv_geometry(conv)
    if (
        found is None
        or found.strides != (1, 1)
        or (static_shape(conv.outputs[0]) or ())[2:] != (high or ())[2:]
    ):
        return None
    rows, columns = found.offsets(0), found.offsets(1)
    if not (rows[0] <= 0 <= rows[-1] and columns[0] <= 0 <= columns[-1]):
        return None
    pointwise = _pointwise(conv) if rows == columns == (0,) else ()
    return NearestConv(resize, conv, pointwise, scale, rows, columns)


def _pointwise(conv: ir.Node) -> tuple[ir.Node, ...]:
    found: list[ir.Node] = []
    value = conv.outputs[0]
    while not value.is_graph_output() and len(value.uses()) == 1:
        (use,) = value.uses()
        if use.node.op_type not in _POINTWISE or use.idx != 0:
            break
        found.append(use.node)
        value = use.node.outputs[0]
    return tuple(found)
