"""Sample i of a recipe: a pure function of (recipe, assets, i), and of the teachers that label it.

So a data set can be made on the fly, resumed exactly and split over any number of workers without
talking.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from depthmask.train.composite import composite
from depthmask.train.grid import grid_sample
from depthmask.train.material import Assets, Sample
from depthmask.train.photos import photo
from depthmask.train.recipe import (
    GridRecipe,
    PhotoRecipe,
    Recipe,
    RenderRecipe,
    check_labels,
    count_of,
)

if TYPE_CHECKING:
    from depthmask.train.teacher import Teachers


def compose(recipe: Recipe, assets: Assets, index: int, teachers: Teachers | None = None) -> Sample:
    """Sample `index`, at canvas_px x canvas_px.

    Raises:
        IndexError: the recipe has no such sample.
        UsageError: the recipe wants a label of a teacher that is not there.
        InputError: the assets are fewer than the recipe asks for, or a teacher's output is bad.
        UnavailableError: a package that renders is missing.

    """
    count = count_of(recipe)
    if index < 0 or (count is not None and index >= count):
        raise IndexError(f"a sample's index must be 0 to {count or 'any'}, but got {index}")
    if isinstance(recipe, RenderRecipe):
        from depthmask.train.render import render

        return render(recipe, assets, index)
    if isinstance(recipe, PhotoRecipe):
        return photo(recipe, assets, index, teachers)
    if isinstance(recipe, GridRecipe):
        sample = grid_sample(recipe, assets, index)
    else:
        sample = composite(recipe, assets, index)
    if recipe.depth == "stage":
        return sample
    check_labels(recipe, teachers)
    teacher = teachers.depth if teachers and recipe.depth == "teacher" else None
    return replace(sample, depth_m_HW=teacher(sample.image_HW3) if teacher else None)
