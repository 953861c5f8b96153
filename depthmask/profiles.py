"""The shapes that TensorRT is told to expect of a graph with open sides: its optimisation profile."""

from __future__ import annotations

from depthmask.bundle import GraphRecord, Limits, Manifest
from depthmask.engine import ShapeRange
from depthmask.frames import Resolution

LARGEST_FRAME = Resolution(2160, 3840)
LARGEST_DYNAMIC = Resolution(1024, 1024)
PROFILE_BATCH = 8
_USUAL_FRAME = Resolution(480, 640)


def input_shape(manifest: Manifest, graph: GraphRecord) -> tuple[int, ...]:
    """The shape of a graph's input, -1 where it is open."""
    batch = -1 if manifest.dynamic_batch else 1
    if manifest.input == "frame":
        return (batch, -1, -1, 3)
    if manifest.dynamic_resolution:
        return (batch, 3, -1, -1)
    return (batch, 3, graph.resolution.height, graph.resolution.width)


def shape_range(
    manifest: Manifest,
    graph: GraphRecord,
    name: str,
    shape: tuple[int, ...],
    *,
    largest: Resolution | None = None,
    largest_batch: int = PROFILE_BATCH,
) -> ShapeRange:
    """The optimisation profile of an input whose open sides are -1.

    Args:
        manifest: the bundle's.
        graph: whose input it is.
        name: `frame` (N,H,W,3) or `image` (N,3,H,W).
        shape: with -1 where it is open.
        largest: frame or dynamic resolution; by default `LARGEST_FRAME`, or `LARGEST_DYNAMIC` within the
            bundle's limits.
        largest_batch: of a bundle whose batch is open; not beyond the bundle's limit.
    """
    limits = manifest.limits or Limits()
    if name == "frame":
        smallest, best = (1, 1), _USUAL_FRAME
        largest = largest or LARGEST_FRAME
        best = Resolution(min(best.height, largest.height), min(best.width, largest.width))
    else:
        smallest, best = (limits.smallest_height, limits.smallest_width), graph.resolution
        largest = largest or Resolution(
            min(LARGEST_DYNAMIC.height, limits.largest_height),
            min(LARGEST_DYNAMIC.width, limits.largest_width),
        )
        largest = Resolution(max(best.height, largest.height), max(best.width, largest.width))
    batch = min(largest_batch, limits.largest_batch) if manifest.dynamic_batch else 1

    def sized(count: int, height: int, width: int) -> tuple[int, ...]:
        sides = (count, height, width, 3) if name == "frame" else (count, 3, height, width)
        return tuple(
            wanted if fixed == -1 else fixed for wanted, fixed in zip(sides, shape, strict=True)
        )

    return ShapeRange(
        sized(1, *smallest),
        sized(1, best.height, best.width),
        sized(batch, largest.height, largest.width),
    )
