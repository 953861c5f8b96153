"""Nearest-neighbour upsampling by a whole factor, said in the plainest way: exact.

Theorem. For a factor s, rounding the half-pixel coordinate (i + 1/2) / s - 1/2 to the nearest whole number
gives floor(i / s), for every i, whichever way halves are rounded.

Proof. With i = s p + a, 0 <= a < s, the coordinate is p + (a + 1/2) / s - 1/2, which lies between
p - 1/2 + 1 / (2 s) and p + 1/2 - 1 / (2 s): nearer to p than to any other number, and never on a half.

So `half_pixel` may be written as `asymmetric` with `floor`. It is the same work, but ONNX Runtime keeps maps
in its blocked layout through a Resize only where it is written so, and rearranges them before and after it
otherwise. A converter of opsets writes a published Upsample the other way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from depthmask.export.graph_edit import (
    Site,
    constant_array,
    remove,
    replace_output,
    site_name,
    static_shape,
    string_attribute,
)

FORMS = ("plain",)
PLAIN = {
    "mode": "nearest",
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
}


@dataclass(frozen=True)
class PlainNearest:
    """A Resize that gives x[i // scale], but says so in another way."""

    resize: ir.Node
    scale: int

    @property
    def name(self) -> str:
        """The site's: that of the Resize without its operator."""
        return site_name(self.resize)

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        """The Resize."""
        return (self.resize,)


def find(graph: ir.Graph) -> Iterator[PlainNearest]:
    """Nearest Resizes of rows and columns by one whole factor, fixed sizes, that are not plain."""
    for node in list(graph):
        scale = whole_factor(node) if node.op_type == "Resize" else None
        plain = all(string_attribute(node, name, "") == value for name, value in PLAIN.items())
        if scale is not None and not plain:
            yield PlainNearest(node, scale)


def apply(graph: ir.Graph, site: PlainNearest, form: str) -> None:
    """Put a plain Resize in the site's place; the output keeps its name."""
    make = Site(graph, site.resize, f"{site.name}/{form}")
    shape, source = static_shape(site.resize.outputs[0]), site.resize.inputs[0]
    assert shape is not None
    assert source is not None
    replace_output(site.resize, plain_resize(make, source, site.scale, shape))
    remove(graph, [site.resize])


def macs(site: PlainNearest, form: str | None) -> int:
    """None."""
    return 0


def moved_floats(site: PlainNearest, form: str | None) -> int:
    """What the Resize writes, and rearranges before and after it where it is not plain."""
    low, high = (static_shape(v) for v in (site.resize.inputs[0], site.resize.outputs[0]))
    assert low is not None
    assert high is not None
    return int(np.prod(high)) if form is not None else int(np.prod(low) + 2 * np.prod(high))


def plain_resize(make: Site, value: ir.Value, scale: int, shape: tuple[int, ...]) -> ir.Value:
    """A new Resize to x[i // scale], with the shape of its output."""
    scales = make.constant(np.array([1, 1, scale, scale], np.float32))
    return make.node("Resize", [value, None, scales], shape, PLAIN)


def whole_factor(resize: ir.Node) -> int | None:
    """s, where a Resize gives x[i // s] for sure; None of any other."""
    low, high = static_shape(resize.inputs[0]), static_shape(resize.outputs[0])
    if low is None or high is None or len(low) != 4 or low[:2] != high[:2]:
        return None
    scale = high[2] // low[2]
    if scale < 2 or (high[2], high[3]) != (scale * low[2], scale * low[3]):
        return None
    scales = constant_array(resize.inputs[2]) if len(resize.inputs) > 2 else None
    if scales is not None and scales.size and tuple(scales) != (1, 1, scale, scale):
        return None
    how = (
        string_attribute(resize, "coordinate_transformation_mode", "half_pixel"),
        string_attribute(resize, "nearest_mode", "round_prefer_floor"),
    )
    exact = how == ("asymmetric", "floor") or (
        how[0] in ("half_pixel", "pytorch_half_pixel") and how[1].startswith("round_prefer")
    )
    plain = (
        string_attribute(resize, "mode", "nearest") == "nearest"
        and string_attribute(resize, "keep_aspect_ratio_policy", "stretch") == "stretch"
        and "axes" not in resize.attributes
    )
    return scale if exact and plain else None
