"""A random scene to render: where it is, what stands in it, and who looks."""

from __future__ import annotations

import numpy as np

from depthmask.train.crop import ASPECTS
from depthmask.train.furnishing import furnish
from depthmask.train.material import Assets
from depthmask.train.recipe import RenderRecipe
from depthmask.train.scene import Builder, Camera, Scene, camera_axes
from depthmask.train.surroundings import daylight, lamps, line_walls, open_ground, room
from depthmask.train.textures import Atlas

_EMPTY_SHARE = 0.06
_OUTDOOR_SHARE = 0.25


def random_scene(recipe: RenderRecipe, assets: Assets, rng: np.random.Generator) -> Scene:
    """A scene; the camera is 0.8 to 2.2 m above the floor and looks 25° down to 15° up."""
    aspect = float(rng.choice(ASPECTS))
    height_m = rng.uniform(0.8, 2.2)
    yaw = rng.uniform(-0.7, 0.7)
    # Who stands high looks down: not a floor that is out of sight.
    pitch = np.deg2rad(np.clip(rng.normal(-6 - 5 * (height_m - 1.5), 8), -25, 15))
    roll = np.deg2rad(rng.normal(0, 1.5))
    camera = Camera(
        np.array([0, height_m, 0], np.float32),
        camera_axes(yaw, pitch, roll),
        focal=float(np.exp(rng.uniform(np.log(0.8), np.log(1.6)))),
        aspect=aspect,
    )
    builder = Builder()
    backdrop_HW3 = None
    if rng.random() < _OUTDOOR_SHARE:
        limits, backdrop_HW3 = open_ground(builder, camera, yaw, assets, recipe.canvas_px, rng)
        lights, ambient_3 = daylight(rng)
    else:
        limits = room(builder, height_m, assets, rng)
        lights, ambient_3 = lamps(limits, rng)
    count = 0 if rng.random() < _EMPTY_SHARE else 1 + int(rng.integers(recipe.max_objects))
    taken = [] if backdrop_HW3 is not None else line_walls(builder, limits, assets, rng)
    billboards = furnish(builder, camera, yaw, limits, count, assets, taken, rng)
    return Scene(
        camera,
        builder.surfaces(),
        Atlas(builder.tiles),
        tuple(billboards),
        lights,
        ambient_3,
        backdrop_HW3,
        exposure=rng.uniform(75, 150),
    )
