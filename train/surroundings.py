"""Surroundings of rendered scenes: rooms, and open ground before a photographed backdrop.

World: metres, x to the right, y up, z forward; the floor is y = 0 and the camera above x = z = 0.
Nothing here is an object, which is what the mask shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from depthmask.frames import FloatArray, UInt8Array
from depthmask.train import solids
from depthmask.train.material import Assets
from depthmask.train.scene import FAR_M, Builder, Camera, Light, Limits, Spot
from depthmask.train.solids import Mesh
from depthmask.train.textures import TILE_PX, ground_tile, plain_tile, random_crop, random_tile


def room(
    builder: Builder, camera_height_m: float, assets: Assets, rng: np.random.Generator
) -> Limits:
    """Floor, four walls and a ceiling, with flat pictures on the walls and sometimes a rug."""
    left, right, far = -rng.uniform(1.2, 4), rng.uniform(1.2, 4), rng.uniform(2.5, 9)
    back = -rng.uniform(0.3, 2)
    top = max(camera_height_m + 0.2, rng.uniform(2.2, 3.6))
    limits = Limits(left, right, back, far, top)
    width, depth = right - left, far - back

    def tile_m() -> tuple[float, float]:
        side = float(np.exp(rng.uniform(np.log(0.5), np.log(3))))
        return side, side

    floor = builder.texture(random_tile(assets.backgrounds, rng))
    builder.add(solids.quad((left, 0, back), (width, 0, 0), (0, 0, depth)), floor, tile_m())
    ceiling = builder.texture(plain_tile(rng, lightest=True))
    builder.add(solids.quad((left, top, back), (width, 0, 0), (0, 0, depth)), ceiling, (2.0, 2.0))
    wall = builder.texture(_wall_tile(assets, rng))
    wall_tile_m = tile_m()
    walls = [
        ((left, 0, far), (width, 0, 0)),
        ((left, 0, back), (0, 0, depth)),
        ((right, 0, far), (0, 0, -depth)),
        ((right, 0, back), (-width, 0, 0)),
    ]
    for corner, along in walls:
        texture = builder.texture(_wall_tile(assets, rng)) if rng.random() < 0.2 else wall
        builder.add(solids.quad(corner, along, (0, top, 0)), texture, wall_tile_m)
    for _ in range(int(rng.integers(5))):
        corner, along = walls[rng.integers(3)]
        _hang_picture(builder, corner, along, top, assets, rng)
    if rng.random() < 0.3:
        _lay_rug(builder, limits, assets, rng)
    return limits


def open_ground(
    builder: Builder,
    camera: Camera,
    yaw: float,
    assets: Assets,
    canvas_px: int,
    rng: np.random.Generator,
) -> tuple[Limits, UInt8Array]:
    """Ground up to an upright plane that shows a photograph, aligned with the plane's foot."""
    far = float(np.exp(rng.uniform(np.log(8), np.log(0.9 * FAR_M))))
    ground = solids.quad((-150, 0, -5), (300, 0, 0), (0, 0, 150))
    tile_m = float(rng.uniform(1.5, 5))
    texture = builder.texture(ground_tile(assets.backgrounds, rng))
    builder.add(ground, texture, (tile_m, tile_m))
    plane = solids.quad((-200, -1, far), (400, 0, 0), (0, 200, 0)).placed(0, 0, 0, yaw)
    builder.add(plane, texture, (tile_m, tile_m), is_backdrop=True)

    foot = np.array([[far * np.sin(yaw), 0, far * np.cos(yaw)]], np.float32)
    foot_row = float(np.clip(camera.project_N3(foot)[0, 1] + 0.08, 0.3, 1.0))
    rows = round(foot_row * canvas_px)
    photo = assets.backgrounds[rng.integers(len(assets.backgrounds))]
    upper = photo[: max(2, round(photo.shape[0] * rng.uniform(0.7, 1.0)))]
    upper = upper if rng.random() < 0.5 else upper[:, ::-1]
    seen = cv2.resize(upper, (canvas_px, rows), interpolation=cv2.INTER_AREA)
    # Roll may show some of the plane below its foot row.
    backdrop_HW3 = cv2.copyMakeBorder(seen, 0, canvas_px - rows, 0, 0, cv2.BORDER_REPLICATE)
    limits = Limits(-far, far, 0.0, far, 20.0)
    return limits, np.asarray(backdrop_HW3, np.uint8)


def line_walls(
    builder: Builder, limits: Limits, assets: Assets, rng: np.random.Generator
) -> list[Spot]:
    """Cupboards, shelves and sofas with their backs to the walls: part of the room, not objects."""
    taken = []
    for side in ("far", "left", "right"):
        if rng.random() > 0.3:
            continue
        width, depth, height = rng.uniform(0.5, 1.8), rng.uniform(0.3, 0.6), rng.uniform(0.5, 2.1)
        mesh = _wall_piece(width, height, depth, rng)
        gap = depth / 2 + 0.01
        z = rng.uniform(0.4, 1.0) * limits.far_m - 0.5 * width
        if side == "far":
            x = rng.uniform(limits.left_m + width / 2, limits.right_m - width / 2)
            z = limits.far_m - gap
            mesh = mesh.placed(x, 0, z)
        elif side == "left":
            x = limits.left_m + gap
            mesh = mesh.placed(x, 0, z, -np.pi / 2)
        else:
            x = limits.right_m - gap
            mesh = mesh.placed(x, 0, z, np.pi / 2)
        taken.append(Spot(x, z, width / 2))
        tile_m = float(rng.uniform(0.4, 1.5))
        texture = builder.texture(random_tile(assets.backgrounds, rng))
        builder.add(mesh, texture, (tile_m, tile_m))
    return taken


def daylight(rng: np.random.Generator) -> tuple[tuple[Light, ...], FloatArray]:
    """The sun, or hardly any behind clouds, and the sky's light (RGB, 1 shows a texture as it is)."""
    bearing, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.3)
    direction = [np.cos(bearing) * np.cos(height), np.sin(height), np.sin(bearing) * np.cos(height)]
    sun = rng.uniform(0.1, 0.9)
    ambient = (rng.uniform(0.45, 0.7) * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
    colour = (sun * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
    return (Light(300 * np.array(direction, np.float32), colour, np.inf),), ambient


def lamps(limits: Limits, rng: np.random.Generator) -> tuple[tuple[Light, ...], FloatArray]:
    """One or two lamps below the ceiling, and what the walls throw back (RGB)."""

    def lamp() -> Light:
        position = [
            rng.uniform(0.8 * limits.left_m, 0.8 * limits.right_m),
            rng.uniform(0.7, 0.95) * limits.ceiling_m,
            rng.uniform(0, 0.9) * limits.far_m,
        ]
        colour = rng.uniform(0.3, 0.9) * np.array([1, rng.uniform(0.88, 1), rng.uniform(0.7, 1.05)])
        return Light(np.array(position, np.float32), colour.astype(np.float32), rng.uniform(3, 8))

    ambient = (rng.uniform(0.3, 0.65) * rng.uniform(0.94, 1.06, 3)).astype(np.float32)
    return tuple(lamp() for _ in range(1 + int(rng.random() < 0.4))), ambient


def _wall_tile(assets: Assets, rng: np.random.Generator) -> UInt8Array:
    return (
        plain_tile(rng, muted=True) if rng.random() < 0.6 else random_tile(assets.backgrounds, rng)
    )


def _hang_picture(
    builder: Builder,
    corner_m: Sequence[float],
    along_m: Sequence[float],
    top_m: float,
    assets: Assets,
    rng: np.random.Generator,
) -> None:
    """A photograph or a pattern, flat on the wall: part of the wall, not an object."""
    length_m = float(np.linalg.norm(along_m))
    unit = np.asarray(along_m) / length_m
    inwards = np.array([unit[2], 0, -unit[0]]) * 0.01
    width = float(min(rng.uniform(0.3, 1.6), 0.8 * length_m))
    height = float(min(width * rng.uniform(0.6, 1.6), 0.8 * top_m))
    start = rng.uniform(0, length_m - width)
    low = rng.uniform(0.1 * top_m, 0.95 * top_m - height)
    if rng.random() < 0.75:
        tile = random_crop(assets.backgrounds, rng, TILE_PX, TILE_PX)
    else:
        tile = random_tile((), rng)
    frame = builder.texture(plain_tile(rng))
    origin = np.asarray(corner_m) + unit * start + inwards + np.array([0, low, 0])
    builder.add(solids.quad(origin, unit * width, (0, height, 0)), frame, (1.0, 1.0))
    edge = min(0.04, 0.1 * width)
    origin = origin + unit * edge + inwards + np.array([0, edge, 0])
    inner = (width - 2 * edge, height - 2 * edge)
    picture = solids.quad(origin, unit * inner[0], (0, inner[1], 0))
    builder.add(picture, builder.texture(tile), inner)


def _lay_rug(builder: Builder, limits: Limits, assets: Assets, rng: np.random.Generator) -> None:
    """A flat rug: part of the floor, not an object."""
    width, depth = rng.uniform(0.8, 2.5), rng.uniform(0.8, 2.5)
    rug = solids.quad((-width / 2, 0, -depth / 2), (width, 0, 0), (0, 0, depth))
    x = rng.uniform(limits.left_m, limits.right_m)
    rug = rug.placed(x, 0.005, rng.uniform(0.4, 1) * limits.far_m, rng.uniform(-0.6, 0.6))
    builder.add(rug, builder.texture(random_tile(assets.backgrounds, rng)), (width, depth))


def _wall_piece(width_m: float, height_m: float, depth_m: float, rng: np.random.Generator) -> Mesh:
    kind = rng.choice(["cupboard", "shelf", "sofa"])
    if kind == "cupboard":
        return solids.box(width_m, height_m, depth_m)
    if kind == "shelf":
        return solids.shelf(width_m, height_m, depth_m, int(rng.integers(3, 7)))
    return solids.sofa(max(width_m, 1.2), 0.4, depth_m + 0.3)
