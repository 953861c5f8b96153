"""What stands free in rendered scenes: furniture, and cut-outs as upright pictures.

World: metres, x to the right, y up, z forward; the floor is y = 0 and the camera above x = z = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from depthmask.train import solids
from depthmask.train.material import Assets
from depthmask.train.scene import Billboard, Builder, Camera, Limits, Spot
from depthmask.train.solids import Mesh
from depthmask.train.textures import random_tile


def furnish(
    builder: Builder,
    camera: Camera,
    yaw: float,
    limits: Limits,
    count: int,
    assets: Assets,
    taken: list[Spot],
    rng: np.random.Generator,
) -> list[Billboard]:
    """Furniture and cut-outs in view; what finds no place is left out."""
    billboards: list[Billboard] = []
    for _ in range(count):
        tops = [spot for spot in taken if spot.top_m is not None]
        if rng.random() < 0.45:
            if tops and rng.random() < 0.35:
                spot = tops[rng.integers(len(tops))]
                taken[taken.index(spot)] = Spot(spot.x_m, spot.z_m, spot.radius_m)
                billboards.append(_small_cutout(spot, yaw, assets, rng))
                continue
            free = _free_spot(0.35, camera, yaw, limits, taken, rng)
            if free is not None:
                taken.append(free)
                billboards.append(_standing_cutout(free, yaw, assets, rng))
            continue
        make, top_m, radius_m = _random_furniture(rng)
        free = _free_spot(radius_m, camera, yaw, limits, taken, rng)
        if free is not None:
            taken.append(Spot(free.x_m, free.z_m, radius_m, top_m))
            mesh = make().placed(free.x_m, 0, free.z_m, _turn(yaw, rng))
            tile_m = float(np.exp(rng.uniform(np.log(0.25), np.log(1.5))))
            texture = builder.texture(random_tile(assets.backgrounds, rng))
            builder.add(mesh, texture, (tile_m, tile_m), is_object=True)
    return billboards


def _turn(yaw: float, rng: np.random.Generator) -> float:
    """Along the walls, or any way: a front (-z) mostly faces the camera."""
    return (
        float(rng.choice([0, np.pi / 2, -np.pi / 2]))
        if rng.random() < 0.5
        else (yaw + float(rng.uniform(-1.2, 1.2)))
    )


def _free_spot(
    radius_m: float,
    camera: Camera,
    yaw: float,
    limits: Limits,
    taken: Sequence[Spot],
    rng: np.random.Generator,
) -> Spot | None:
    """A place in view, within the limits and off what stands there already."""
    nearest = 2 * radius_m + 0.9
    farthest = max(nearest + 0.3, min(0.95 * limits.far_m, 12.0))
    half_view = 0.9 * np.arctan(0.5 * camera.aspect / camera.focal)
    for _ in range(8):
        distance = float(np.exp(rng.uniform(np.log(nearest), np.log(farthest))))
        bearing = yaw + rng.uniform(-half_view, half_view)
        x, z = distance * float(np.sin(bearing)), distance * float(np.cos(bearing))
        inside = limits.left_m + radius_m < x < limits.right_m - radius_m
        inside &= limits.back_m + radius_m < z < limits.far_m - radius_m
        clear = all(
            np.hypot(x - spot.x_m, z - spot.z_m) > radius_m + spot.radius_m for spot in taken
        )
        if inside and clear:
            return Spot(x, z, radius_m)
    return None


def _random_furniture(
    rng: np.random.Generator,
) -> tuple[Callable[[], Mesh], float | None, float]:
    """How to make a piece, the height of a top that holds small things, and its floor radius."""
    kind = rng.choice(["box", "cabinet", "table", "chair", "sofa", "shelf", "turned", "ball"])
    if kind in ("box", "cabinet"):
        width, depth = rng.uniform(0.25, 0.9), rng.uniform(0.25, 0.7)
        height = rng.uniform(0.2, 0.9) if kind == "box" else rng.uniform(0.9, 2.0)
        top = height if height < 1.2 else None
        return lambda: solids.box(width, height, depth), top, 0.5 * float(np.hypot(width, depth))
    if kind == "table":
        width, depth, height = rng.uniform(0.6, 1.6), rng.uniform(0.5, 0.9), rng.uniform(0.4, 0.9)
        radius = 0.5 * float(np.hypot(width, depth))
        return lambda: solids.table(width, height, depth), height, radius
    if kind == "chair":
        width, height = rng.uniform(0.38, 0.5), rng.uniform(0.4, 0.5)
        return lambda: solids.chair(width, height), None, 0.75 * width
    if kind == "sofa":
        width, depth, height = rng.uniform(1.2, 2.2), rng.uniform(0.7, 1), rng.uniform(0.35, 0.45)
        radius = 0.5 * float(np.hypot(width, depth))
        return lambda: solids.sofa(width, height, depth), None, radius
    if kind == "shelf":
        width, depth, height = rng.uniform(0.5, 1.2), rng.uniform(0.25, 0.4), rng.uniform(0.9, 2.1)
        boards = int(rng.integers(3, 7))
        radius = 0.5 * float(np.hypot(width, depth))
        return lambda: solids.shelf(width, height, depth, boards), None, radius
    if kind == "turned":
        profile = _profile(rng)
        return lambda: solids.turned(profile), None, max(radius for radius, _ in profile)
    radius = rng.uniform(0.12, 0.4)
    return lambda: solids.ball(radius), None, radius


def _profile(rng: np.random.Generator) -> list[tuple[float, float]]:
    """A cylinder, or a vase's or lamp's outline."""
    height, radius = rng.uniform(0.25, 1.5), rng.uniform(0.08, 0.35)
    if rng.random() < 0.4:
        return [(radius, 0.0), (radius, height), (0.0, height)]
    heights = np.linspace(0, height, 7)
    radii = radius * np.interp(np.arange(7), [0, 2, 4, 6], rng.uniform(0.25, 1, 4))
    return [*zip(radii.tolist(), heights.tolist(), strict=True), (0.0, height)]


def _standing_cutout(spot: Spot, yaw: float, assets: Assets, rng: np.random.Generator) -> Billboard:
    """On the floor; neither a dot nor larger than the view."""
    distance = float(np.hypot(spot.x_m, spot.z_m))
    longest = np.exp(rng.normal(np.log(0.9), 0.5))
    longest = float(np.clip(longest, max(0.2, 0.12 * distance), min(2.2, 0.9 * distance)))
    return _cutout(spot, 0.0, longest, yaw, assets, rng)


def _small_cutout(spot: Spot, yaw: float, assets: Assets, rng: np.random.Generator) -> Billboard:
    """On top of a piece of furniture."""
    return _cutout(spot, spot.top_m or 0.0, float(rng.uniform(0.2, 0.6)), yaw, assets, rng)


def _cutout(
    spot: Spot,
    foot_m: float,
    longest_m: float,
    yaw: float,
    assets: Assets,
    rng: np.random.Generator,
) -> Billboard:
    image_HW4 = assets.foregrounds[rng.integers(len(assets.foregrounds))].premultiplied_HW4
    if rng.random() < 0.5:
        image_HW4 = np.ascontiguousarray(image_HW4[:, ::-1])
    scale = longest_m / max(image_HW4.shape[:2])
    towards = float(np.arctan2(spot.x_m, spot.z_m)) + rng.uniform(-0.5, 0.5)
    return Billboard(
        image_HW4,
        np.array([spot.x_m, foot_m, spot.z_m], np.float32),
        np.array([np.cos(towards), 0, -np.sin(towards)], np.float32),
        width_m=image_HW4.shape[1] * scale,
        height_m=image_HW4.shape[0] * scale,
        gain=float(rng.uniform(0.7, 1.15)),
    )
