"""Triangle meshes of what stands in rendered rooms: boxes, turned bodies, furniture.

Metres; x to the right, y up, z forward. A mesh stands on y = 0 with its middle at x = z = 0.
T: triangles; 3 corners; 3 coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from depthmask.frames import FloatArray

Vector = Sequence[float] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mesh:
    """Corners, their normals (unit length) and texture coordinates, in metres along the surface."""

    corners_m_T33: FloatArray
    normals_T33: FloatArray
    uv_m_T32: FloatArray

    def placed(self, x_m: float, y_m: float, z_m: float, yaw: float = 0.0) -> Mesh:
        """Turned about the vertical by `yaw` radians, then moved."""
        cosine, sine = np.cos(yaw), np.sin(yaw)
        turn_33 = np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]], np.float32)
        return Mesh(
            self.corners_m_T33 @ turn_33.T + np.array([x_m, y_m, z_m], np.float32),
            self.normals_T33 @ turn_33.T,
            self.uv_m_T32,
        )

    def __repr__(self) -> str:
        return f"Mesh({len(self.corners_m_T33)} triangles)"


def join(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of several."""
    return Mesh(
        np.concatenate([mesh.corners_m_T33 for mesh in meshes]),
        np.concatenate([mesh.normals_T33 for mesh in meshes]),
        np.concatenate([mesh.uv_m_T32 for mesh in meshes]),
    )


def quad(origin_m: Vector, along_m: Vector, up_m: Vector) -> Mesh:
    """A rectangle from a corner and two sides."""
    origin, along, up = (np.asarray(vector, np.float64) for vector in (origin_m, along_m, up_m))
    normal = np.cross(along, up)
    normal /= np.linalg.norm(normal)
    corners = np.array([origin, origin + along, origin + along + up, origin + up])
    width, height = np.linalg.norm(along), np.linalg.norm(up)
    uv = np.array([[0, height], [width, height], [width, 0], [0, 0]])
    order = [[0, 1, 2], [0, 2, 3]]
    normals = np.broadcast_to(normal, (2, 3, 3))
    return Mesh(
        corners[order].astype(np.float32), normals.astype(np.float32), uv[order].astype(np.float32)
    )


def box(width_m: float, height_m: float, depth_m: float) -> Mesh:
    """An upright box."""
    x, y, z = width_m / 2, height_m, depth_m / 2
    faces = [
        quad((-x, 0, -z), (width_m, 0, 0), (0, y, 0)),
        quad((x, 0, z), (-width_m, 0, 0), (0, y, 0)),
        quad((-x, 0, z), (0, 0, -depth_m), (0, y, 0)),
        quad((x, 0, -z), (0, 0, depth_m), (0, y, 0)),
        quad((-x, y, -z), (width_m, 0, 0), (0, 0, depth_m)),
        quad((-x, 0, z), (width_m, 0, 0), (0, 0, -depth_m)),
    ]
    return join(faces)


def turned(profile_m: Sequence[tuple[float, float]], around: int = 20) -> Mesh:
    """A body of revolution about the vertical; the profile is (radius, height), from the bottom up.

    It is round along the profile too, except where that turns by more than 45°.
    """
    points = np.asarray(profile_m, np.float64)
    sides = np.diff(points, axis=0)
    lengths = np.linalg.norm(sides, axis=1, keepdims=True)
    slopes = np.stack([sides[:, 1], -sides[:, 0]], 1) / np.maximum(lengths, 1e-9)
    along_m = np.concatenate([[0], np.cumsum(lengths)])
    parts = []
    for index, slope in enumerate(slopes):
        widest_m = float(points[index : index + 2, 0].max())
        rings = []
        for corner, beside in ((index, index - 1), (index + 1, index + 1)):
            smooth = 0 <= beside < len(slopes) and slope @ slopes[beside] > np.sqrt(0.5)
            normal = slope + slopes[beside] if smooth else slope
            normal = normal / max(float(np.linalg.norm(normal)), 1e-9)
            rings.append(_ring(points[corner], normal, widest_m, along_m[corner], around))
        parts.append(_strip(*rings))
    return join(parts)


def ball(radius_m: float, around: int = 20) -> Mesh:
    """A sphere that lies on y = 0."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, around // 2 + 1)
    profile = [
        (max(0.0, radius_m * float(np.cos(a))), radius_m * (1 + float(np.sin(a)))) for a in angles
    ]
    return turned(profile, around)


def table(width_m: float, height_m: float, depth_m: float) -> Mesh:
    """A slab on four legs."""
    slab_m = 0.04
    leg_m = min(0.06, width_m / 6)
    x, z = width_m / 2 - leg_m, depth_m / 2 - leg_m
    leg = box(leg_m, height_m - slab_m, leg_m)
    legs = [leg.placed(sx * x, 0, sz * z) for sx in (-1, 1) for sz in (-1, 1)]
    return join([box(width_m, slab_m, depth_m).placed(0, height_m - slab_m, 0), *legs])


def chair(width_m: float, height_m: float) -> Mesh:
    """A small table with a back; `height_m` is the seat's."""
    back = box(width_m, height_m, 0.04).placed(0, height_m, width_m / 2 - 0.02)
    return join([table(width_m, height_m, width_m), back])


def sofa(width_m: float, height_m: float, depth_m: float) -> Mesh:
    """A seat with a back and two arms; `height_m` is the seat's."""
    arm_m = 0.18
    arm = box(arm_m, 1.5 * height_m, depth_m)
    parts = [
        box(width_m, height_m, depth_m),
        box(width_m, 2.1 * height_m, 0.2).placed(0, 0, depth_m / 2 - 0.1),
    ]
    parts += [arm.placed(side * (width_m - arm_m) / 2, 0, 0) for side in (-1, 1)]
    return join(parts)


def shelf(width_m: float, height_m: float, depth_m: float, boards: int) -> Mesh:
    """A bookcase, open to the front (-z)."""
    thick_m = 0.03
    side = box(thick_m, height_m, depth_m)
    parts = [box(width_m, height_m, thick_m).placed(0, 0, depth_m / 2 - thick_m / 2)]
    parts += [side.placed(way * (width_m - thick_m) / 2, 0, 0) for way in (-1, 1)]
    heights_m = np.linspace(0, height_m - thick_m, boards)
    parts += [box(width_m, thick_m, depth_m).placed(0, float(y), 0) for y in heights_m]
    return join(parts)


def _ring(
    point_m: npt.NDArray[np.float64],
    normal: npt.NDArray[np.float64],
    widest_m: float,
    v_m: float,
    around: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Corners, normals and texture coordinates of a circle at (radius, height)."""
    angles = np.linspace(0, 2 * np.pi, around + 1)
    cosine, sine, one = np.cos(angles), np.sin(angles), np.ones_like(angles)
    points = np.stack([point_m[0] * cosine, point_m[1] * one, point_m[0] * sine], 1)
    normals = np.stack([normal[0] * cosine, normal[1] * one, normal[0] * sine], 1)
    uv = np.stack([widest_m * angles, v_m * one], 1)
    return points.astype(np.float32), normals.astype(np.float32), uv.astype(np.float32)


def _strip(
    low: tuple[FloatArray, FloatArray, FloatArray], high: tuple[FloatArray, FloatArray, FloatArray]
) -> Mesh:
    """Two triangles between each two neighbours of two rings."""
    joined = []
    for below, above in zip(low, high, strict=True):
        first = np.stack([below[:-1], below[1:], above[1:]], 1)
        second = np.stack([below[:-1], above[1:], above[:-1]], 1)
        joined.append(np.concatenate([first, second]))
    return Mesh(*joined)
