"""What a rendered scene consists of: a camera, textured triangles, upright cut-outs, lights.

World: metres, x to the right, y up, z forward; the floor is y = 0 and the camera above x = z = 0.
Image positions are shares of the canvas. T: triangles; N: points or rays.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from depthmask.frames import FloatArray, UInt8Array
from depthmask.train import solids
from depthmask.train.solids import Mesh
from depthmask.train.textures import TILE_PX, Atlas

FAR_M = 40.0
"""Nothing is farther: the backdrop stands before it."""


@dataclass(frozen=True)
class Camera:
    """`axes_33` has the rows right, down, forward; the focal length is in shares of the height."""

    position_m_3: FloatArray
    axes_33: FloatArray
    focal: float
    aspect: float

    def rays_N3(self, x_N: FloatArray, y_N: FloatArray) -> FloatArray:
        """Directions whose length along the optical axis is 1: a ray's parameter is planar depth."""
        across_N = (x_N - np.float32(0.5)) * np.float32(self.aspect / self.focal)
        down_N = (y_N - np.float32(0.5)) * np.float32(1 / self.focal)
        local_N3 = np.stack([across_N, down_N, np.ones_like(across_N)], 1)
        return np.asarray(local_N3 @ self.axes_33, np.float32)

    def project_N3(self, points_m_N3: FloatArray) -> FloatArray:
        """(x, y, planar depth) of points; x and y mean nothing where the depth is not positive."""
        local_N3 = (points_m_N3 - self.position_m_3) @ self.axes_33.T
        depth_N = np.maximum(local_N3[:, 2], np.float32(1e-6))
        x_N = 0.5 + local_N3[:, 0] / depth_N * self.focal / self.aspect
        y_N = 0.5 + local_N3[:, 1] / depth_N * self.focal
        return np.stack([x_N, y_N, local_N3[:, 2]], 1)


@dataclass(frozen=True)
class Billboard:
    """A cut-out, upright on its lower edge; `foot_m_3` is that edge's middle."""

    premultiplied_HW4: UInt8Array
    foot_m_3: FloatArray
    along_3: FloatArray
    """From left to right, unit length, horizontal."""
    width_m: float
    height_m: float
    gain: float


@dataclass(frozen=True)
class Light:
    """A lamp, or with an infinite `falloff_m` the sun."""

    position_m_3: FloatArray
    colour_3: FloatArray
    falloff_m: float


@dataclass(frozen=True)
class Surfaces:
    """All triangles, with what they look like; `uv_T32` counts tiles of the texture."""

    mesh: Mesh
    uv_T32: FloatArray
    texture_T: npt.NDArray[np.int32]
    texel_m_T: FloatArray
    part_T: npt.NDArray[np.int32]
    is_object_T: npt.NDArray[np.bool_]
    is_backdrop_T: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """What `render` draws. Objects (the mask) are what stands free: not floor, walls, ceiling, backdrop,
    nor what hangs on a wall or stands against it.
    """

    camera: Camera
    surfaces: Surfaces
    atlas: Atlas
    billboards: tuple[Billboard, ...]
    lights: tuple[Light, ...]
    ambient_3: FloatArray
    backdrop_HW3: UInt8Array | None
    exposure: float
    """The mean that the camera exposes an image to, in 0..255."""


@dataclass
class Builder:
    """Collects the parts of a scene; a part is a mesh with one texture."""

    meshes: list[Mesh] = field(default_factory=list)
    tiles: list[UInt8Array] = field(default_factory=list)
    looks: list[tuple[int, float, float, bool, bool]] = field(default_factory=list)

    def texture(self, tile: UInt8Array) -> int:
        """The number of a new texture."""
        self.tiles.append(tile)
        return len(self.tiles) - 1

    def add(
        self,
        mesh: Mesh,
        texture: int,
        tile_m: tuple[float, float],
        *,
        is_object: bool = False,
        is_backdrop: bool = False,
    ) -> None:
        """A mesh whose texture's tile is (width, height) metres large."""
        self.meshes.append(mesh)
        self.looks.append((texture, *tile_m, is_object, is_backdrop))

    def surfaces(self) -> Surfaces:
        """All parts as one."""
        counts = [len(mesh.corners_m_T33) for mesh in self.meshes]
        part_T = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
        texture_P, width_P, height_P, object_P, backdrop_P = zip(*self.looks, strict=True)
        mesh = solids.join(self.meshes)
        tile_m_T2 = np.stack([np.array(width_P, np.float32), np.array(height_P, np.float32)], 1)[
            part_T
        ]
        return Surfaces(
            mesh=mesh,
            uv_T32=mesh.uv_m_T32 / tile_m_T2[:, None],
            texture_T=np.asarray(texture_P, np.int32)[part_T],
            texel_m_T=tile_m_T2.min(axis=1) / np.float32(TILE_PX),
            part_T=part_T,
            is_object_T=np.asarray(object_P, np.bool_)[part_T],
            is_backdrop_T=np.asarray(backdrop_P, np.bool_)[part_T],
        )


@dataclass(frozen=True)
class Limits:
    """Where things may stand, and how far the scene goes."""

    left_m: float
    right_m: float
    back_m: float
    far_m: float
    ceiling_m: float


@dataclass(frozen=True)
class Spot:
    """A circle on the floor that something stands on, and how high its top is."""

    x_m: float
    z_m: float
    radius_m: float
    top_m: float | None = None


def camera_axes(yaw: float, pitch: float, roll: float) -> FloatArray:
    """Rows right, down, forward; radians, turning to the right, upwards and clockwise."""
    forward = np.array(
        [np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], np.float64
    )
    right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    down = np.cross(right, forward)
    turned_right = np.cos(roll) * right + np.sin(roll) * down
    turned_down = np.cos(roll) * down - np.sin(roll) * right
    return np.stack([turned_right, turned_down, forward]).astype(np.float32)
