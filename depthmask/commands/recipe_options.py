"""Recipes on the command line: a document or the default, what options replace, and its teachers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from depthmask.commands.options import PathType, messages, together
from depthmask.errors import UsageError

if TYPE_CHECKING:
    from depthmask.train.material import Assets, SkippedAsset
    from depthmask.train.recipe import Recipe
    from depthmask.train.teacher import Teachers

DEFAULT_ASSETS = Path("assets")
recipe_option = click.option(
    "--recipe",
    type=PathType(),
    metavar="FILE|NAME",
    help="A recipe or a training configuration (.yaml, .json), or one that ships: reference.",
)

strict_option = click.option(
    "--strict", is_flag=True, help="Stop at the first picture that cannot be used."
)


recipe_options = together(
    click.option(
        "--assets",
        type=PathType(),
        default=DEFAULT_ASSETS,
        show_default=True,
        help="Cut-outs and backgrounds, by `dmx data fetch`.",
    ),
    recipe_option,
    click.option(
        "--depth",
        metavar="stage|none|render|teacher=MODEL.onnx",
        help="Where depth comes from: exactly from the composite or the render, from a network, or"
        " nowhere.  [default: the recipe's]",
    ),
    click.option(
        "--mask-teacher",
        metavar="MODEL.onnx",
        help="The network that gives photographs their masks (recipes of kind photos).",
    ),
)
"""What `open_recipe` takes: --assets, --recipe, --depth and --mask-teacher."""


def open_recipe(
    assets: Path,
    document: Path | None,
    depth: str | None,
    mask_teacher: str | None,
    *,
    strict: bool = False,
    **replaced: object,
) -> tuple[Recipe, Assets, Teachers | None]:
    """The recipe with what the options replace, its material and its teachers.

    Raises:
        UsageError: an option does not fit the recipe, or one that it needs is missing.
        InputError: the document, the material or a model is missing or bad.
        UnavailableError: ONNX Runtime is missing.

    """
    from depthmask.train.material import load_material

    recipe = chosen_recipe(document, depth, **replaced)
    teachers = _open_teachers(recipe, depth, mask_teacher)
    return recipe, load_material(recipe, assets, strict=strict), teachers


def report_skipped(skipped: Iterable[SkippedAsset]) -> None:
    """Name the pictures of the material that were left out, a line each."""
    for one in skipped:
        messages.print(f"left out: {one.reason}", soft_wrap=True, markup=False)


def chosen_recipe(document: Path | None, depth: str | None = None, **replaced: object) -> Recipe:
    """The recipe of a document (by default one of kind `stage`), with what the options replace.

    Raises:
        UsageError: an option does not fit the recipe.
        InputError: the document is bad.

    """
    from depthmask.train.documents import read_recipe
    from depthmask.train.recipe import RenderRecipe, StageRecipe

    if document is not None:
        recipe = read_recipe(document)
    else:
        recipe = RenderRecipe() if depth == "render" else StageRecipe()
    if depth is not None:
        source = "teacher" if depth.startswith("teacher=") else depth
        if isinstance(recipe, RenderRecipe) != (source == "render"):
            kind = recipe.__struct_config__.tag
            raise UsageError(
                f"--depth render and a recipe of kind render go together, but got --depth {depth}"
                f" and the kind {kind}"
            )
        replaced["depth"] = None if source == "render" else source
    return _replace(recipe, {name: value for name, value in replaced.items() if value is not None})


def _open_teachers(recipe: Recipe, depth: str | None, mask_teacher: str | None) -> Teachers | None:
    """The networks that label; None where there are none to open."""
    from depthmask.train.recipe import check_labels

    teachers = None
    by_network = depth is not None and depth.startswith("teacher=")
    if mask_teacher is not None and getattr(recipe, "mask", None) != "teacher":
        raise UsageError(
            "--mask-teacher must have a recipe of kind photos with mask: teacher, but got one of kind"
            f" {recipe.__struct_config__.tag}"
        )
    if by_network or mask_teacher is not None:
        from depthmask.train.teacher import DepthTeacher, MaskTeacher, Teachers
        from depthmask.train.teacher_options import parse_teacher

        teachers = Teachers(
            DepthTeacher.open(*parse_teacher(depth)) if depth and by_network else None,
            None if mask_teacher is None else MaskTeacher.open(*parse_teacher(mask_teacher)),
        )
    check_labels(recipe, teachers)
    return teachers


def _replace(recipe: Recipe, values: dict[str, object]) -> Recipe:
    unknown = sorted(values.keys() - set(recipe.__struct_fields__))
    if unknown:
        raise UsageError(
            f"a recipe of kind {recipe.__struct_config__.tag} must be able to use every option, but"
            f" it has no {', '.join(unknown)}"
        )
    return msgspec.structs.replace(recipe, **values)
