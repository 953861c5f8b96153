"""What a data set is made of: four kinds of recipes, each a pure function's description.

Sample i of a recipe depends on (recipe, assets, i) and nothing else. `kind` names the recipe in a
document:

- `stage`: random composites on a ground plane before a wall; unending, any index is valid.
- `grid`: the reference data set, every combination of background, foreground, position and flip.
- `render`: textured rooms, ray-cast, with exact depths and masks (extra `render`); unending.
- `photos`: random crops of photographs, labelled by teacher networks; unending.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from depthmask.errors import UsageError
from depthmask.train.documents import check_ranges

if TYPE_CHECKING:
    from depthmask.train.teacher import Teachers

Split = Literal["train", "test", "all"]
"""Which part of the material, by groups of assets that show the same thing."""
Labels = Literal["stage", "teacher", "none"]
"""Where depth comes from: exactly from the stage, from a teacher network, or nowhere."""
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=1, le=10**6)]
Pixels = Annotated[int, Meta(ge=1, le=4096)]
Offset = Annotated[int, Meta(ge=0, le=4096)]


class _Base(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    seed: Seed = 0
    split: Split = "train"
    canvas_px: Annotated[int, Meta(ge=32, le=4096)] = 224

    def __post_init__(self) -> None:
        check_ranges(self)


class StageRecipe(_Base, frozen=True, kw_only=True, tag="stage"):
    """Random composites; equal recipes over equal assets make equal bytes."""

    max_foregrounds: Annotated[int, Meta(ge=1, le=100)] = 3
    empty_share: Share = 0.06
    """Share of samples without any foreground: hard negatives."""
    augment: bool = True
    """Light, blur, noise, JPEG and colour changes; off gives clean composites."""
    depth: Labels = "stage"


class GridRecipe(_Base, frozen=True, kw_only=True, tag="grid"):
    """Every combination of background, foreground, position and flip, once.

    The order is scattered, so that the first N samples are of many backgrounds and foregrounds. A
    foreground's longest side is within `foreground_px`, its left and upper corner within
    `offset_px` (both inclusive); both are drawn once per background, foreground and position.
    """

    split: Split = "all"
    backgrounds: Count = 102
    foregrounds: Count = 104
    positions: Count = 20
    flips: Annotated[int, Meta(ge=1, le=2)] = 2
    """2: each composite also with its foreground mirrored."""
    foreground_px: tuple[Pixels, Pixels] = (90, 160)
    offset_px: tuple[Offset, Offset] = (0, 64)
    depth: Labels = "stage"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("foreground_px", "offset_px"):
            low, high = getattr(self, name)
            if low > high:
                raise UsageError(f"{name} must be (smallest, largest), but got {low}, {high}")
        reach_px = self.foreground_px[1] + self.offset_px[1]
        if reach_px > self.canvas_px:
            raise UsageError(
                "the largest foreground_px and offset_px together must be canvas_px or less, so that"
                f" every foreground is whole, but got {reach_px} and {self.canvas_px}"
            )

    @property
    def count(self) -> int:
        """How many samples it enumerates."""
        return self.backgrounds * self.foregrounds * self.positions * self.flips

    def combination(self, index: Any) -> tuple[Any, Any, Any, Any]:  # noqa: ANN401
        """Background, foreground, position and flip of a sample; of one index or an array of them."""
        rest, flip = divmod(index * _scattering(self.count) % self.count, self.flips)
        rest, position = divmod(rest, self.positions)
        background, foreground = divmod(rest, self.foregrounds)
        return background, foreground, position, flip


class RenderRecipe(_Base, frozen=True, kw_only=True, tag="render"):
    """Rooms with textured furniture and cut-outs, seen by a camera of any pose."""

    max_objects: Annotated[int, Meta(ge=1, le=100)] = 6
    augment: bool = True


class PhotoRecipe(_Base, frozen=True, kw_only=True, tag="photos"):
    """Random crops of the material's photographs, for teachers to label."""

    smallest_crop: Annotated[float, Meta(gt=0, le=1)] = 0.6
    """Of the photograph's shorter side."""
    mask: Literal["teacher", "none"] = "teacher"
    depth: Literal["teacher", "none"] = "teacher"


Recipe = StageRecipe | GridRecipe | RenderRecipe | PhotoRecipe


def count_of(recipe: Recipe) -> int | None:
    """How many samples a recipe enumerates; None of one that is unending."""
    return recipe.count if isinstance(recipe, GridRecipe) else None


def check_labels(recipe: Recipe, teachers: Teachers | None) -> None:
    """Hold a recipe to the teachers that there are, before any work is done.

    Raises:
        UsageError: the recipe wants a label of a teacher that is not there.

    """
    wanted = [role for role in ("mask", "depth") if getattr(recipe, role, "stage") == "teacher"]
    missing = [role for role in wanted if teachers is None or getattr(teachers, role) is None]
    if missing:
        option = {"mask": "--mask-teacher MODEL.onnx", "depth": "--depth teacher=MODEL.onnx"}
        raise UsageError(
            f"a recipe with {missing[0]}: teacher must have a teacher, but got none. Try"
            f" {option[missing[0]]}"
        )


@lru_cache
def _scattering(count: int) -> int:
    """A factor that, modulo `count`, visits every number once and leaps by the golden ratio."""
    factor = max(1, round(count * 0.6180339887))
    while gcd(factor, count) != 1:
        factor += 1
    return factor
