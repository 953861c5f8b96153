"""Rendered scenes: textured rooms with exact depths and masks, ray-cast by Embree (extra `render`).

Sample i is a pure function of (recipe, assets, i). Depth is planar, in metres, of the ray through the
pixel's middle: never blended across an edge. The mask is soft where a pixel's parts differ. N: rays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from depthmask.errors import UnavailableError
from depthmask.frames import FloatArray, UInt8Array
from depthmask.train.augment import degrade
from depthmask.train.material import Assets, Sample
from depthmask.train.random_scene import random_scene
from depthmask.train.recipe import RenderRecipe
from depthmask.train.scene import FAR_M, Billboard, Light, Scene

IntArray = npt.NDArray[np.int32]

# Where an edge runs through a pixel, four rays more are cast: a turned square.
_SUB_RAYS = np.array(
    [[-0.125, -0.375], [0.375, -0.125], [0.125, 0.375], [-0.375, 0.125]], np.float32
)
_FIRST_BILLBOARD = 1_000_000
_LIFT_M = np.float32(2e-3)  # off a surface, so that it does not shadow itself


def render(recipe: RenderRecipe, assets: Assets, index: int) -> Sample:
    """Sample `index`, at canvas_px x canvas_px.

    Raises:
        UnavailableError: the extra `render` is not installed.

    """
    rng = np.random.default_rng([recipe.seed, index])
    sample = draw(random_scene(recipe, assets, rng), recipe.canvas_px)
    if not recipe.augment:
        return sample
    return replace(sample, image_HW3=degrade(sample.image_HW3, rng))


def draw(scene: Scene, size_px: int) -> Sample:
    """A scene as its camera sees it.

    Raises:
        UnavailableError: the extra `render` is not installed.

    """
    tracer = _Tracer(scene, size_px)
    rows, columns = np.divmod(np.arange(size_px * size_px), size_px)
    xy_N2 = (np.stack([columns, rows], 1) + 0.5).astype(np.float32) / np.float32(size_px)
    hits = tracer.cast(xy_N2)
    colours_N3 = hits.colours_N3.copy()
    mask_N = hits.is_object_N.astype(np.float32)

    edge_E = np.flatnonzero(_edges(hits.face_N.reshape(size_px, size_px)))
    offsets_S2 = _SUB_RAYS / np.float32(size_px)
    finer = tracer.cast((xy_N2[edge_E, None] + offsets_S2).reshape(-1, 2))
    colours_N3[edge_E] = finer.colours_N3.reshape(-1, len(offsets_S2), 3).mean(1)
    mask_N[edge_E] = finer.is_object_N.reshape(-1, len(offsets_S2)).mean(1)

    shape = (size_px, size_px)
    colours_N3 *= scene.exposure / max(float(colours_N3.mean()), 20.0)
    return Sample(
        (colours_N3 + 0.5).clip(0, 255).astype(np.uint8).reshape(*shape, 3),
        (255 * mask_N + 0.5).astype(np.uint8).reshape(shape),
        hits.depth_m_N.reshape(shape),
    )


@dataclass
class _Hits:
    """What rays meet; `face_N` numbers faces of surfaces, billboards after them."""

    colours_N3: FloatArray
    depth_m_N: FloatArray
    face_N: IntArray
    is_object_N: npt.NDArray[np.bool_]


class _Tracer:
    """Casts rays into one scene."""

    def __init__(self, scene: Scene, size_px: int) -> None:
        self._scene = scene
        self._size_px = size_px
        self._embree = _build(scene)
        corners = scene.surfaces.mesh.corners_m_T33.astype(np.float64)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        self._normals_T3 = normals / np.maximum(lengths, 1e-12)
        self._offsets_T = _dot(self._normals_T3, corners[:, 0])
        rounded_T33 = scene.surfaces.mesh.normals_T33
        self._is_round_T = (rounded_T33 != rounded_T33[:, :1]).any((1, 2))
        self._face_T = self._faces()
        uv_T32 = scene.surfaces.uv_T32
        self._uv_T23 = np.stack(
            [uv_T32[:, 0], uv_T32[:, 1] - uv_T32[:, 0], uv_T32[:, 2] - uv_T32[:, 0]], axis=2
        )

    def cast(self, xy_N2: FloatArray) -> _Hits:
        """What the rays through these places of the canvas meet."""
        camera, surfaces = self._scene.camera, self._scene.surfaces
        rays_N3 = camera.rays_N3(xy_N2[:, 0], xy_N2[:, 1])
        origins_N3 = np.broadcast_to(camera.position_m_3, rays_N3.shape)
        found = self._embree.run(np.ascontiguousarray(origins_N3), rays_N3, output=True)
        triangle_N = found["primID"]
        missed_N = triangle_N < 0  # a crack between two triangles, or the sky
        triangle_N = np.where(missed_N, 0, triangle_N)

        # From the triangle's plane: float64, where Embree's own distances are float32.
        normals_N3 = self._normals_T3[triangle_N]
        steepness_N = _dot(normals_N3, rays_N3)
        depth_N = self._offsets_T[triangle_N] - normals_N3 @ camera.position_m_3.astype(np.float64)
        depth_m_N = np.where(missed_N, FAR_M, depth_N / np.where(steepness_N, steepness_N, 1e-9))
        depth_m_N = depth_m_N.clip(1e-3, FAR_M).astype(np.float32)

        hits = _Hits(
            self._shade(found, triangle_N, rays_N3, depth_m_N, xy_N2),
            depth_m_N,
            np.where(missed_N, -1, self._face_T[triangle_N]).astype(np.int32),
            surfaces.is_object_T[triangle_N] & ~missed_N,
        )
        for number, billboard in enumerate(self._scene.billboards):
            self._show(billboard, number, xy_N2, rays_N3, hits)
        return hits

    def _faces(self) -> IntArray:
        """Numbers triangles (T,) by what has no edge inside: a part's plane, or a round part."""
        planes_T4 = np.column_stack([self._normals_T3, self._offsets_T]).round(3)
        planes_T4[self._is_round_T] = 0
        keys_T5 = np.column_stack([self._scene.surfaces.part_T, planes_T4])
        _, face_T = np.unique(keys_T5, axis=0, return_inverse=True)
        return np.asarray(face_T.reshape(-1), np.int32)

    def _shade(
        self,
        found: dict[str, npt.NDArray[Any]],
        triangle_N: IntArray,
        rays_N3: FloatArray,
        depth_m_N: FloatArray,
        xy_N2: FloatArray,
    ) -> FloatArray:
        surfaces = self._scene.surfaces
        weights_N3 = np.stack([np.ones_like(found["u"]), found["u"], found["v"]], 1)
        flat_N3 = self._normals_T3.astype(np.float32)[triangle_N]
        facing_N = -_dot(flat_N3, rays_N3)
        flat_N3 *= np.sign(facing_N)[:, None]
        normals_N3 = self._round_off(flat_N3, triangle_N, weights_N3)

        # A pixel covers more of a surface that is seen at a slant; half-way, it neither blurs nor flickers.
        slant_N = np.abs(facing_N) / _length(rays_N3)
        pixel_m_N = depth_m_N / np.float32(self._scene.camera.focal * self._size_px)
        pixel_m_N = pixel_m_N / np.sqrt(np.maximum(slant_N, 0.02))
        colours_N3 = self._scene.atlas.look_up(
            surfaces.texture_T[triangle_N],
            np.einsum("nik,nk->ni", self._uv_T23[triangle_N], weights_N3),
            pixel_m_N / surfaces.texel_m_T[triangle_N],
        )
        points_N3 = self._scene.camera.position_m_3 + rays_N3 * depth_m_N[:, None]
        colours_N3 *= self._light(points_N3 + flat_N3 * _LIFT_M, normals_N3)
        backdrop_N = surfaces.is_backdrop_T[triangle_N] | (found["primID"] < 0)
        if self._scene.backdrop_HW3 is not None and backdrop_N.any():
            photo_HW3 = self._scene.backdrop_HW3
            at_N2 = (xy_N2[backdrop_N] * photo_HW3.shape[0]).astype(np.int32)
            at_N2 = at_N2.clip(0, photo_HW3.shape[0] - 1)
            colours_N3[backdrop_N] = photo_HW3[at_N2[:, 1], at_N2[:, 0]]
        return colours_N3

    def _round_off(
        self, flat_N3: FloatArray, triangle_N: IntArray, weights_N3: FloatArray
    ) -> FloatArray:
        """Normals: on round bodies between those of the corners, on the side of the flat ones."""
        round_n = np.flatnonzero(self._is_round_T[triangle_N])
        if not len(round_n):
            return flat_N3
        weights_n3 = weights_N3[round_n]
        weights_n3[:, 0] -= weights_n3[:, 1] + weights_n3[:, 2]
        corners_n33 = self._scene.surfaces.mesh.normals_T33[triangle_N[round_n]]
        between_n3 = np.einsum("ncx,nc->nx", corners_n33, weights_n3)
        between_n3 *= np.sign(_dot(between_n3, flat_N3[round_n]))[:, None]
        normals_N3 = flat_N3.copy()
        normals_N3[round_n] = between_n3 / np.maximum(_length(between_n3), 1e-6)[:, None]
        return normals_N3

    def _light(self, points_m_N3: FloatArray, normals_N3: FloatArray) -> FloatArray:
        """Light (N,3) that falls on points: ambient, and each lamp by Lambert where it is seen."""
        total_N3 = np.tile(self._scene.ambient_3, (len(points_m_N3), 1))
        for light in self._scene.lights:
            way_N3 = light.position_m_3 - points_m_N3
            length_N = _length(way_N3)
            strength_N = _dot(normals_N3, way_N3) / np.maximum(length_N, 1e-6)
            strength_N = strength_N.clip(0, None) / (1 + np.square(length_N / light.falloff_m))
            lit_N = np.flatnonzero(strength_N > 0.01)
            strength_N[lit_N] *= self._seen(light, points_m_N3[lit_N], way_N3[lit_N])
            total_N3 += strength_N[:, None] * light.colour_3
        return total_N3

    def _seen(self, light: Light, points_m_N3: FloatArray, way_N3: FloatArray) -> FloatArray:
        """How much of a light reaches points: 1, or a quarter in a shadow."""
        if not len(points_m_N3):
            return np.ones(0, np.float32)
        blocked = self._embree.run(
            points_m_N3,
            np.ascontiguousarray(way_N3, np.float32),
            dists=np.full(len(points_m_N3), 0.999, np.float32),
            query="OCCLUDED",
        )
        shadow_N = blocked >= 0
        for billboard in self._scene.billboards:
            share_N, uv_N2 = _meet(billboard, points_m_N3, way_N3)
            inside_N = (share_N > 1e-3) & (share_N < 1) & _inside(uv_N2)
            near = np.flatnonzero(inside_N)
            shadow_N[near] |= _texels(billboard.premultiplied_HW4, uv_N2[near])[:, 3] >= 128
        return np.where(shadow_N, np.float32(0.25), np.float32(1))

    def _show(
        self,
        billboard: Billboard,
        number: int,
        xy_N2: FloatArray,
        rays_N3: FloatArray,
        hits: _Hits,
    ) -> None:
        """Put a cut-out before what is farther; writes into `hits`."""
        camera = self._scene.camera
        near = _in_view(billboard, xy_N2, self._scene)
        depth_n, uv_n2 = _meet(billboard, camera.position_m_3[None], rays_N3[near])
        inside_n = (depth_n > 0.05) & (depth_n < hits.depth_m_N[near])
        inside_n &= _inside(uv_n2)
        near, depth_n, uv_n2 = near[inside_n], depth_n[inside_n], uv_n2[inside_n]
        if not len(near):
            return
        pixel_m = float(np.median(depth_n)) / (camera.focal * self._size_px)
        texel_m = billboard.height_m / billboard.premultiplied_HW4.shape[0]
        level_HW4 = _shrunk(billboard.premultiplied_HW4, texel_m / pixel_m)
        texels_n4 = _texels(level_HW4, uv_n2)
        opaque_n = texels_n4[:, 3] >= 128
        near, depth_n, texels_n4 = near[opaque_n], depth_n[opaque_n], texels_n4[opaque_n]
        gain = np.float32(255 * billboard.gain) / texels_n4[:, 3:]
        hits.colours_N3[near] = (texels_n4[:, :3] * gain).clip(0, 255)
        hits.depth_m_N[near] = depth_n
        hits.face_N[near] = _FIRST_BILLBOARD + number
        hits.is_object_N[near] = True


def _build(scene: Scene) -> Any:  # noqa: ANN401  (the package has no types)
    try:
        from embreex import mesh_construction, rtcore_scene
    except ImportError as error:
        raise UnavailableError(
            "rendering needs embreex, which is not installed. Try `pip install 'depthmask[render]'`"
        ) from error
    embree = rtcore_scene.EmbreeScene()
    mesh_construction.TriangleMesh(embree, scene.surfaces.mesh.corners_m_T33)
    return embree


def _meet(
    billboard: Billboard, origins_m_N3: FloatArray, ways_N3: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Where rays meet a cut-out's plane: the ray's parameter, and shares (right, down) of it."""
    along_3 = billboard.along_3
    normal_3 = np.array([-along_3[2], 0, along_3[0]], np.float32)
    to_foot_N3 = billboard.foot_m_3 - origins_m_N3
    slope_N = ways_N3 @ normal_3
    share_N = (to_foot_N3 @ normal_3) / np.where(np.abs(slope_N) < 1e-9, 1e-9, slope_N)
    at_N3 = ways_N3 * share_N[:, None] - to_foot_N3
    right_N = at_N3 @ along_3 / np.float32(billboard.width_m) + np.float32(0.5)
    down_N = 1 - at_N3[:, 1] / np.float32(billboard.height_m)
    return share_N.astype(np.float32), np.stack([right_N, down_N], 1).astype(np.float32)


def _in_view(billboard: Billboard, xy_N2: FloatArray, scene: Scene) -> IntArray:
    """The rays that may meet a cut-out, by the box around its corners in the image."""
    half_3 = billboard.along_3 * np.float32(billboard.width_m / 2)
    up_3 = np.array([0, billboard.height_m, 0], np.float32)
    foot_3 = billboard.foot_m_3
    corners_43 = np.stack(
        [foot_3 - half_3, foot_3 + half_3, foot_3 - half_3 + up_3, foot_3 + half_3 + up_3]
    )
    seen_43 = scene.camera.project_N3(corners_43)
    if seen_43[:, 2].min() < 0.1:
        return np.arange(len(xy_N2), dtype=np.int32)
    low_2, high_2 = seen_43[:, :2].min(0), seen_43[:, :2].max(0)
    inside_N = (xy_N2[:, 0] >= low_2[0]) & (xy_N2[:, 0] <= high_2[0])
    inside_N &= (xy_N2[:, 1] >= low_2[1]) & (xy_N2[:, 1] <= high_2[1])
    return np.flatnonzero(inside_N).astype(np.int32)


def _shrunk(image_HW4: UInt8Array, scale: float) -> UInt8Array:
    """By areas, to about a pixel a texel; never larger."""
    if scale >= 1:
        return image_HW4
    size = (max(1, round(image_HW4.shape[1] * scale)), max(1, round(image_HW4.shape[0] * scale)))
    return np.asarray(cv2.resize(image_HW4, size, interpolation=cv2.INTER_AREA), np.uint8)


def _texels(image_HW4: UInt8Array, uv_N2: FloatArray) -> FloatArray:
    """Bilinear, (N,4)."""
    if not len(uv_N2):
        return np.zeros((0, 4), np.float32)
    height, width = image_HW4.shape[:2]
    at_N2 = uv_N2 * np.array([width, height], np.float32) - np.float32(0.5)
    at_N2 = at_N2.clip(0, [width - 1, height - 1])
    low_N2 = at_N2.astype(np.int32)
    high_N2 = np.minimum(low_N2 + 1, np.array([width - 1, height - 1], np.int32))
    weight_N2 = (at_N2 - low_N2).astype(np.float32)

    def row(y_N: IntArray) -> FloatArray:
        left_N4 = image_HW4[y_N, low_N2[:, 0]].astype(np.float32)
        right_N4 = image_HW4[y_N, high_N2[:, 0]].astype(np.float32)
        return left_N4 + (right_N4 - left_N4) * weight_N2[:, :1]

    upper_N4 = row(low_N2[:, 1])
    return upper_N4 + (row(high_N2[:, 1]) - upper_N4) * weight_N2[:, 1:]


def _dot(first_N3: npt.NDArray[Any], second_N3: npt.NDArray[Any]) -> npt.NDArray[Any]:
    dots_N: npt.NDArray[Any] = np.einsum("nk,nk->n", first_N3, second_N3)
    return dots_N


def _length(vectors_N3: FloatArray) -> FloatArray:
    lengths_N: FloatArray = np.sqrt(_dot(vectors_N3, vectors_N3))
    return lengths_N


def _inside(uv_N2: FloatArray) -> npt.NDArray[np.bool_]:
    across_N, down_N = uv_N2[:, 0], uv_N2[:, 1]
    return (across_N >= 0) & (across_N < 1) & (down_N >= 0) & (down_N < 1)


def _edges(face_HW: IntArray) -> npt.NDArray[np.bool_]:
    """Pixels beside another face: on either side of the border between them."""
    edge_HW = np.zeros(face_HW.shape, np.bool_)
    down_HW = face_HW[1:] != face_HW[:-1]
    across_HW = face_HW[:, 1:] != face_HW[:, :-1]
    edge_HW[1:] |= down_HW
    edge_HW[:-1] |= down_HW
    edge_HW[:, 1:] |= across_HW
    edge_HW[:, :-1] |= across_HW
    return edge_HW
