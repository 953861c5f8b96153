"""Rendered scenes: exact depths and masks of known bodies, and random scenes that repeat."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from depthmask.errors import UnavailableError
from depthmask.train import solids
from depthmask.train.material import Assets, Cutout
from depthmask.train.recipe import RenderRecipe
from depthmask.train.render import draw, render
from depthmask.train.scene import FAR_M, Billboard, Builder, Camera, Light, Scene, camera_axes
from depthmask.train.textures import (
    TILE_PX,
    Atlas,
    ground_tile,
    plain_tile,
    random_crop,
    random_tile,
)

needs_embree = pytest.mark.skipif(
    importlib.util.find_spec("embreex") is None, reason="needs the extra `render`"
)
SIZE = 64
RED, BLUE = (200, 20, 20), (20, 20, 200)


def tile(colour):
    return np.full((TILE_PX, TILE_PX, 3), colour, np.uint8)


def camera(pitch=0.0, yaw=0.0, roll=0.0, aspect=1.0):
    return Camera(np.float32([0, 1.5, 0]), camera_axes(yaw, pitch, roll), 1.0, aspect)


def scene(seen_by, *bodies, billboards=(), lights=(), wall_m=8.0):
    """A red floor up to a red wall, with blue objects."""
    builder = Builder()
    red, blue = builder.texture(tile(RED)), builder.texture(tile(BLUE))
    builder.add(solids.quad((-50, 0, -1), (100, 0, 0), (0, 0, 50)), red, (1.0, 1.0))
    builder.add(solids.quad((-50, -1, wall_m), (100, 0, 0), (0, 50, 0)), red, (1.0, 1.0))
    for body in bodies:
        builder.add(body, blue, (1.0, 1.0), is_object=True)
    return Scene(
        seen_by,
        builder.surfaces(),
        Atlas(builder.tiles),
        tuple(billboards),
        tuple(lights),
        np.ones(3, np.float32),
        None,
        exposure=100.0,
    )


def middles():
    return (np.arange(SIZE) + 0.5) / SIZE - 0.5


def dilated(mask):
    grown = np.pad(mask, 1)
    parts = [grown[1:-1, 1:-1], grown[:-2, 1:-1], grown[2:, 1:-1], grown[1:-1, :-2]]
    return np.logical_or.reduce([*parts, grown[1:-1, 2:]])


@needs_embree
def test_the_depth_of_a_floor_and_a_wall_is_that_of_their_planes():
    sample = draw(scene(camera()), SIZE)
    assert (sample.image_HW3.dtype, sample.depth_m_HW.dtype) == (np.uint8, np.float32)
    assert not sample.mask_HW.any()
    with np.errstate(divide="ignore"):
        floor_H = np.where(middles() > 0, 1.5 / middles(), np.inf)
    expected = np.repeat(np.minimum(floor_H, 8.0)[:, None], SIZE, 1)
    np.testing.assert_allclose(sample.depth_m_HW, expected, rtol=1e-5)


@needs_embree
@pytest.mark.parametrize(("pitch", "yaw", "roll"), [(-0.4, 0, 0), (0.2, 0.5, 0), (-0.1, -0.3, 0.2)])
def test_depth_is_planar_for_a_camera_of_any_pose(pitch, yaw, roll):
    seen_by = camera(pitch, yaw, roll, aspect=1.5)
    sample = draw(scene(seen_by), SIZE)
    across, down = np.meshgrid(middles() * 1.5, middles())
    rays = np.stack([across, down, np.ones_like(across)], -1) @ seen_by.axes_33.astype(np.float64)
    with np.errstate(divide="ignore"):
        floor = np.where(rays[..., 1] < 0, -1.5 / rays[..., 1], np.inf)
        wall = np.where(rays[..., 2] > 0, 8 / rays[..., 2], np.inf)
    np.testing.assert_allclose(
        sample.depth_m_HW, np.minimum(floor, wall).clip(max=FAR_M), rtol=2e-5
    )


def test_camera_axes_turn_right_up_and_clockwise():
    np.testing.assert_allclose(camera_axes(0, 0, 0), [[1, 0, 0], [0, -1, 0], [0, 0, 1]], atol=1e-7)
    assert camera_axes(0.1, 0, 0)[2, 0] > 0
    assert camera_axes(0, 0.1, 0)[2, 1] > 0
    assert camera_axes(0, 0, 0.1)[0, 1] < 0
    axes = camera_axes(0.3, -0.2, 0.1)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-6)


@needs_embree
def test_a_box_is_masked_where_it_stands_and_its_front_has_its_depth():
    sample = draw(scene(camera(), solids.box(1.0, 3.0, 1.0).placed(0.2, 0, 3.5)), SIZE)
    front = (-0.3 / 3, 0.7 / 3)  # the front is at 3 m
    inside_W = (middles() > front[0] + 0.5 / SIZE) & (middles() < front[1] - 0.5 / SIZE)
    outside_W = (middles() < front[0] - 0.5 / SIZE) | (middles() > front[1] + 0.5 / SIZE)
    rows = slice(SIZE // 4, SIZE // 2)
    assert (sample.mask_HW[rows][:, inside_W] == 255).all()
    assert (sample.mask_HW[rows][:, outside_W] == 0).all()
    np.testing.assert_allclose(sample.depth_m_HW[rows][:, inside_W], 3.0, rtol=1e-6)
    assert (sample.image_HW3[rows][:, inside_W, 2] > sample.image_HW3[rows][:, inside_W, 0]).all()


@needs_embree
def test_the_mask_is_soft_only_at_edges_and_depth_is_never_blended():
    body = solids.ball(0.5).placed(0, 1.0, 3)
    sample = draw(scene(camera(), body), SIZE)
    soft = (sample.mask_HW > 0) & (sample.mask_HW < 255)
    assert soft.any()
    assert set(np.unique(sample.mask_HW)) <= {0, 64, 128, 191, 255}
    solid = sample.mask_HW == 255
    assert (dilated(soft) & solid).sum() > 0
    depth = sample.depth_m_HW[: SIZE // 2]
    near, far = depth < 3.1, depth > 7.9
    assert (near | far).all()  # nothing between the ball and the wall behind it
    assert depth[near].min() == pytest.approx(2.5, abs=0.02)
    area = sample.mask_HW.mean() / 255
    assert area == pytest.approx(np.pi * (0.5 / 3) ** 2, rel=0.06)


def half_cutout():
    """Left half opaque green, right half transparent."""
    image = np.zeros((40, 40, 4), np.uint8)
    image[:, :20] = (0, 200, 0, 255)
    return image


def board(z_m=4.0, **changes):
    values = {
        "premultiplied_HW4": half_cutout(),
        "foot_m_3": np.float32([0, 0.5, z_m]),
        "along_3": np.float32([1, 0, 0]),
        "width_m": 2.0,
        "height_m": 2.0,
        "gain": 1.0,
    }
    return Billboard(**{**values, **changes})


@needs_embree
def test_a_cutout_covers_where_it_is_opaque():
    sample = draw(scene(camera(), billboards=[board()]), SIZE)
    columns = middles()
    row = SIZE // 2 - 2
    opaque = (columns > -0.25 + 1 / SIZE) & (columns < -1 / SIZE)
    assert (sample.mask_HW[row, opaque] == 255).all()
    assert (sample.mask_HW[row, columns > 1 / SIZE] == 0).all()
    np.testing.assert_allclose(sample.depth_m_HW[row, opaque], 4.0, rtol=1e-6)
    np.testing.assert_allclose(sample.depth_m_HW[row, columns > 1 / SIZE], 8.0, rtol=1e-6)
    green = sample.image_HW3[row, opaque]
    assert (green[:, 1] > 2 * green[:, 0]).all()


@needs_embree
def test_what_is_nearer_hides_what_is_farther():
    hidden = draw(
        scene(camera(), solids.box(4, 3, 0.2).placed(0, 0, 3), billboards=[board()]), SIZE
    )
    assert hidden.image_HW3[SIZE // 2, :, 1].max() < 60
    both = draw(scene(camera(), billboards=[board(), board(3.0, width_m=4.0)]), SIZE)
    swapped = draw(scene(camera(), billboards=[board(3.0, width_m=4.0), board()]), SIZE)
    np.testing.assert_array_equal(both.depth_m_HW, swapped.depth_m_HW)
    np.testing.assert_array_equal(both.image_HW3, swapped.image_HW3)
    assert both.depth_m_HW[SIZE // 2, SIZE // 2 - 4] == pytest.approx(3.0)


@needs_embree
def test_bodies_and_cutouts_cast_shadows():
    lamp = Light(np.float32([0, 6, 3]), np.float32([2, 2, 2]), np.inf)
    flat = solids.box(1, 0.02, 1)

    def floor_under(*bodies, billboards=()):
        image = draw(scene(camera(-0.5), *bodies, billboards=billboards, lights=[lamp]), SIZE)
        return image.image_HW3[..., 0].astype(int)

    lit = floor_under()
    shaded = floor_under(flat.placed(0, 0.8, 3))
    darker = (shaded < 0.75 * lit.mean()) & (shaded > 20)
    assert darker.sum() > 20
    slanted = Light(np.float32([0, 4, 9]), np.float32([2, 2, 2]), np.inf)
    sheet = [board(3.0, foot_m_3=np.float32([0, 0, 3.0]))]
    image = draw(scene(camera(-0.5), billboards=sheet, lights=[slanted], wall_m=20), SIZE)
    red = image.image_HW3[..., 0].astype(int)[image.mask_HW == 0]
    assert red.min() < 0.75 * np.median(red)


@pytest.fixture(scope="module")
def material():
    rng = np.random.default_rng(0)
    photos = tuple(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8) for _ in range(3))
    return Assets((Cutout("half", half_cutout()),), photos)


@needs_embree
def test_random_scenes_are_whole_and_differ(material):
    recipe = RenderRecipe(canvas_px=SIZE)
    samples = [render(recipe, material, index) for index in range(24)]
    for sample in samples:
        assert sample.image_HW3.shape == (SIZE, SIZE, 3)
        assert np.isfinite(sample.depth_m_HW).all()
        assert sample.depth_m_HW.min() > 0.1
        assert sample.depth_m_HW.max() <= FAR_M
        assert 30 < sample.image_HW3.mean() < 225
    shares = [sample.mask_HW.mean() / 255 for sample in samples]
    assert min(shares) < 0.02
    assert 0.05 < np.mean(shares) < 0.6
    assert len({sample.image_HW3.tobytes() for sample in samples}) == len(samples)


@needs_embree
def test_a_sample_is_a_function_of_recipe_and_index_in_any_process(material):
    recipe = RenderRecipe(canvas_px=SIZE, seed=3)
    here = render(recipe, material, 5)
    render(recipe, material, 6)
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        there = pool.submit(render, recipe, material, 5).result(timeout=60)
    for name in ("image_HW3", "mask_HW", "depth_m_HW"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    clean = render(RenderRecipe(canvas_px=SIZE, seed=3, augment=False), material, 5)
    np.testing.assert_array_equal(clean.depth_m_HW, here.depth_m_HW)
    assert not np.array_equal(clean.image_HW3, here.image_HW3)
    other = render(RenderRecipe(canvas_px=SIZE, seed=4), material, 5)
    assert not np.array_equal(other.depth_m_HW, here.depth_m_HW)


def test_without_the_extra_the_message_says_how_to_get_it(material, monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex", None)
    with pytest.raises(UnavailableError, match=r"pip install 'depthmask\[render\]'") as caught:
        render(RenderRecipe(canvas_px=SIZE), material, 0)
    assert caught.value.exit_code == 4


def test_textures_repeat_and_average_what_is_far():
    checker = np.indices((TILE_PX, TILE_PX)).sum(0) % 2 * np.uint8(200)
    atlas = Atlas([tile(RED), np.repeat(checker[:, :, None], 3, 2).astype(np.uint8)])
    near, far = np.float32([0.1, 0.1]), np.float32([8, 300])
    both = np.zeros(2, np.int32)
    uv = np.float32([[0.3, -7.2], [1e3, 0.999]])
    np.testing.assert_array_equal(atlas.look_up(both, uv, far), [RED, RED])
    texel = np.float32([[0.5, 0.5], [1.5, 0.5]]) / TILE_PX
    sharp = atlas.look_up(both + 1, np.concatenate([texel, texel + 3])[[0, 1]], near)
    np.testing.assert_allclose(sharp[:, 0], [0, 200], atol=0.5)
    repeated = atlas.look_up(both + 1, texel + 3, near)
    np.testing.assert_allclose(repeated, sharp, atol=0.5)
    np.testing.assert_allclose(atlas.look_up(both + 1, texel, far), 100, atol=1)


@pytest.mark.parametrize("size", [(1, 120), (120, 1), (1, 1)])
@pytest.mark.parametrize("lower", [True, False])
def test_a_photograph_of_any_shape_gives_a_texture(size, lower):
    photo_HW3 = np.full((*size, 3), 90, np.uint8)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        part_HW3 = random_crop([photo_HW3], rng, 16, 24, lower=lower)
        assert part_HW3.shape == (16, 24, 3)
        assert (part_HW3 == 90).all()


def test_patterns_are_tiles_and_a_function_of_their_seed():
    photos = [np.full((50, 70, 3), 90, np.uint8)]
    for make in (plain_tile, lambda r: random_tile(photos, r), lambda r: ground_tile(photos, r)):
        for seed in range(25):
            first, second = (make(np.random.default_rng(seed)) for _ in range(2))
            assert (first.shape, first.dtype) == ((TILE_PX, TILE_PX, 3), np.uint8)
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    "mesh",
    [
        solids.box(1, 2, 3),
        solids.table(1.2, 0.7, 0.6),
        solids.chair(0.4, 0.45),
        solids.sofa(1.8, 0.4, 0.8),
        solids.shelf(1, 2, 0.3, 5),
        solids.ball(0.3),
        solids.turned([(0.2, 0), (0.1, 0.5), (0.3, 1), (0, 1)]),
    ],
)
def test_bodies_stand_on_the_floor_around_their_middle(mesh):
    low, high = mesh.corners_m_T33.min((0, 1)), mesh.corners_m_T33.max((0, 1))
    assert low[1] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(low[[0, 2]], -high[[0, 2]], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(mesh.normals_T33, axis=2), 1, atol=1e-5)
    moved = mesh.placed(1, 2, 3, 0.5).corners_m_T33
    assert moved[..., 1].min() == pytest.approx(2, abs=1e-6)
