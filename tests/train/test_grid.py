from __future__ import annotations

import msgspec
import numpy as np
import pytest

from depthmask.errors import CheckFailedError, InputError, UsageError
from depthmask.train.compose import compose
from depthmask.train.grid import placements, stage_of, standing_depth_m
from depthmask.train.material import Assets, Cutout, load_material
from depthmask.train.recipe import GridRecipe, PhotoRecipe, StageRecipe, check_labels
from depthmask.train.stage import Stage
from depthmask.train.stats import grid_statistics


def box_of(recipe, index):
    """Rows and columns in which the foreground may be."""
    chosen = placements(recipe, np.array([index]))
    top, left, longest = (int(v[0]) for v in (chosen.top_px, chosen.left_px, chosen.longest_px))
    return slice(top, top + longest), slice(left, left + longest)


def test_the_reference_enumerates_every_combination_once_and_within_its_ranges():
    found = grid_statistics(GridRecipe())
    assert found.count == 424_320 == 102 * 104 * 20 * 2
    assert (found.foreground_px.smallest, found.foreground_px.largest) == (90, 160)
    assert (found.left_px.smallest, found.left_px.largest) == (0, 64)
    assert (found.top_px.smallest, found.top_px.largest) == (0, 64)
    assert abs(found.foreground_px.mean - 125) < 0.2
    assert abs(found.left_px.mean - 32) < 0.2


def test_every_combination_is_there_once_and_flips_share_their_position(grid):
    chosen = placements(grid, np.arange(grid.count))
    axes = (chosen.background, chosen.foreground, chosen.position, chosen.flip)
    order = np.ravel_multi_index(axes, (3, 4, 3, 2))
    np.testing.assert_array_equal(np.sort(order), np.arange(3 * 4 * 3 * 2))
    for drawn in (chosen.longest_px, chosen.left_px, chosen.top_px):
        ordered = drawn[np.argsort(order)]
        np.testing.assert_array_equal(ordered[::2], ordered[1::2])
    assert len(set(zip(chosen.longest_px, chosen.left_px, chosen.top_px, strict=True))) > 30


def test_the_first_samples_of_the_reference_are_of_all_backgrounds_and_foregrounds():
    first = placements(GridRecipe(), np.arange(2000))
    assert len(set(first.background)) == 102
    assert len(set(first.foreground)) == 104


def test_placements_do_not_depend_on_what_they_are_asked_with(grid):
    together = placements(grid, np.arange(grid.count))
    for index in (0, 17, grid.count - 1):
        alone = placements(grid, np.array([index]))
        assert all(vars(alone)[name][0] == values[index] for name, values in vars(together).items())


def test_a_seed_draws_other_positions(grid):
    other = msgspec.structs.replace(grid, seed=6)
    drawn = [placements(recipe, np.arange(50)).left_px for recipe in (grid, other)]
    assert not np.array_equal(*drawn)


def test_a_sample_is_its_background_with_one_whole_foreground(grid, assets):
    for index in range(0, grid.count, 7):
        sample = compose(grid, assets, index)
        assert set(np.unique(sample.mask_HW)) == {0, 255}
        box = box_of(grid, index)
        inside_HW = np.zeros((64, 64), bool)
        inside_HW[box] = True
        assert not sample.mask_HW[~inside_HW].any()
        longest = int(placements(grid, np.array([index])).longest_px[0])
        rows, columns = np.nonzero(sample.mask_HW)
        found = max(np.ptp(rows), np.ptp(columns)) + 1
        assert longest - 6 <= found <= longest  # the cut-outs have a margin of 2 px and soft edges


def test_a_flip_mirrors_the_foreground_in_its_box(grid, assets):
    chosen = placements(grid, np.arange(grid.count))
    order = np.lexsort((chosen.flip, chosen.position, chosen.foreground, chosen.background))
    for pair in order.reshape(-1, 2)[:10]:
        first, second = (compose(grid, assets, int(index)) for index in pair)
        rows, columns = np.nonzero(first.mask_HW)
        mirrored_rows, mirrored_columns = np.nonzero(second.mask_HW)
        assert len(rows) == len(mirrored_rows)
        assert sorted(rows) == sorted(mirrored_rows)
        left = int(chosen.left_px[pair[0]])
        width = columns.max() + mirrored_columns.min() - 2 * left + 1
        assert sorted(2 * left + width - 1 - columns) == sorted(mirrored_columns)


def test_the_bytes_of_a_sample_do_not_depend_on_order_or_cache(grid, assets):
    def fresh():
        return Assets(assets.foregrounds, assets.backgrounds)

    together = fresh()
    indices = np.random.default_rng(0).permutation(grid.count)[:20].tolist()
    for index in [*indices, *reversed(indices)]:
        first, second = compose(grid, together, index), compose(grid, fresh(), index)
        for name in ("image_HW3", "mask_HW", "depth_m_HW"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_depth_is_the_stage_outside_the_mask_and_nearer_inside(grid, assets):
    for index in range(0, grid.count, 5):
        sample = compose(grid, assets, index)
        background = int(placements(grid, np.array([index])).background[0])
        stage_m_HW = stage_of(grid, background).depth_m_HW(64, 64)
        inside_HW = sample.mask_HW > 0
        np.testing.assert_array_equal(sample.depth_m_HW[~inside_HW], stage_m_HW[~inside_HW])
        assert (sample.depth_m_HW[inside_HW] < stage_m_HW[inside_HW]).all()
        assert sample.depth_m_HW.min() > 0.3


@pytest.mark.parametrize(
    ("foot", "depth_m"), [(0.1, 9.5), (0.4, 9.5), (0.41, 9.5), (0.7, 5.0), (1.0, 2.5)]
)
def test_a_foreground_stands_on_the_ground_or_hangs_before_the_wall(foot, depth_m):
    stage = Stage(camera_height_m=1.5, focal=1.0, horizon=0.4, wall_depth_m=10.0)
    assert standing_depth_m(stage, foot) == pytest.approx(depth_m)


def test_a_foreground_larger_than_the_background_is_scaled(grid, assets):
    alpha_HW = np.zeros((900, 500), np.uint8)
    alpha_HW[10:890, 10:490] = 255
    huge = Cutout("huge", np.dstack([alpha_HW // 2] * 3 + [alpha_HW]))
    sample = compose(grid, Assets((huge,) * 4, assets.backgrounds), 0)
    rows, _ = np.nonzero(sample.mask_HW)
    longest = int(placements(grid, np.array([0])).longest_px[0])
    assert longest - 2 <= np.ptp(rows) + 1 <= longest


def test_too_little_material_names_the_command_that_fetches_it(grid, assets, assets_folder):
    more = msgspec.structs.replace(grid, foregrounds=500)
    with pytest.raises(InputError, match=r"500 foregrounds.*dmx data fetch"):
        load_material(more, assets_folder)
    with pytest.raises(InputError, match="dmx data fetch"):
        compose(more, assets, 0)


def test_of_more_material_the_first_by_name_is_taken(grid, assets_folder):
    found = load_material(grid, assets_folder)
    names = sorted(path.stem for path in (assets_folder / "foregrounds").glob("*.png"))
    assert [cutout.name for cutout in found.foregrounds] == names[:4]
    assert len(found.backgrounds) == 3


@pytest.mark.parametrize("index", [-1, 72])
def test_there_is_no_sample_outside_the_grid(grid, assets, index):
    with pytest.raises(IndexError, match="must be 0 to 72"):
        compose(grid, assets, index)


def test_a_grid_that_is_not_one_is_found_out(grid, monkeypatch):
    from depthmask.train import stats as module

    def shifted(recipe, index):
        return placements(recipe, np.maximum(index, 1))

    monkeypatch.setattr(module, "placements", shifted)
    with pytest.raises(CheckFailedError, match="each combination once, but 2 of 72"):
        grid_statistics(grid)


class Teacher:
    """As train/teacher.py's Teachers, without a network."""

    mask = None

    @staticmethod
    def depth(image_HW3):
        return image_HW3[:, :, 0].astype(np.float32) + 1


@pytest.mark.parametrize("kind", ["grid", "stage"])
def test_depth_may_come_from_a_teacher_or_from_nowhere(grid, recipe, assets, kind):
    base = grid if kind == "grid" else recipe
    exact = compose(base, assets, 3)
    taught = compose(msgspec.structs.replace(base, depth="teacher"), assets, 3, Teacher())
    without = compose(msgspec.structs.replace(base, depth="none"), assets, 3)
    assert without.depth_m_HW is None
    np.testing.assert_array_equal(taught.depth_m_HW, Teacher.depth(taught.image_HW3))
    for other in (taught, without):
        np.testing.assert_array_equal(other.image_HW3, exact.image_HW3)
        np.testing.assert_array_equal(other.mask_HW, exact.mask_HW)


@pytest.mark.parametrize(
    ("recipe", "match"),
    [
        (StageRecipe(depth="teacher"), "--depth teacher=MODEL.onnx"),
        (PhotoRecipe(depth="none"), "--mask-teacher MODEL.onnx"),
    ],
)
def test_a_missing_teacher_is_a_usage_error(recipe, match):
    with pytest.raises(UsageError, match=match):
        check_labels(recipe, None)
