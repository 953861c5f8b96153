"""What a data set is made of: four kinds of recipes, each a pure function's description.

Sample i of a recipe depends on (recipe, assets, i) and nothing else. `kind` names the recipe in a
document:

- `stage`: random composites on a ground plane before a wall; unending, any index is valid.
- `grid`: the reference data set, every combination of background, foreground, position and flip.
- `render`: textured rooms, ray-cast, with exact depths and masks (extra `render`); unending.
- `photos`: random crops of photographs, labelled by teacher networks; unending.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from depthmask.errors import UsageError

Split = Literal["train", "test", "all"]
"""Which part of the material, by groups of assets that show the same thing."""
Labels = Literal["stage", "teacher", "none"]
"""Where depth comes from: exactly from the stage, from a teacher network, or nowhere."""


class _Base(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"
):
    seed: int = 0
    split: Split = "train"
    canvas_px: int = 224

    def __post_init__(self) -> None:
        if self.canvas_px < 32:
            raise UsageError(f"canvas_px must be 32 or more, but got {self.canvas_px}")
        if self.seed < 0:
            raise UsageError(f"a recipe's seed must be 0 or more, but got {self.seed}")


class StageRecipe(_Base, frozen=True, kw_only=True, tag="stage"):
    """Random composites; equal recipes over equal assets make equal bytes."""

    max_foregrounds: int = 3
    empty_share: float = 0.06
    """Share of samples without any foreground: hard negatives."""
    augment: bool = True
    """Light, blur, noise, JPEG and colour changes; off gives clean composites."""
    depth: Labels = "stage"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_foregrounds < 1:
            raise UsageError(f"max_foregrounds must be 1 or more, but got {self.max_foregrounds}")
        if not 0 <= self.empty_share <= 1:
            raise UsageError(f"empty_share must be 0 to 1, but got {self.empty_share}")


class GridRecipe(_Base, frozen=True, kw_only=True, tag="grid"):
    """Every combination, backgrounds slowest: background, foreground, position, flip.

    A foreground's longest side is within `foreground_px`, its left and upper corner within
    `offset_px`; both are drawn per index.
    """

    split: Split = "all"
    backgrounds: int = 102
    foregrounds: int = 104
    positions: int = 20
    flips: int = 2
    foreground_px: tuple[int, int] = (90, 160)
    offset_px: tuple[int, int] = (0, 64)
    depth: Labels = "stage"

    @property
    def count(self) -> int:
        """How many samples it enumerates."""
        return self.backgrounds * self.foregrounds * self.positions * self.flips


class RenderRecipe(_Base, frozen=True, kw_only=True, tag="render"):
    """Rooms with textured furniture and cut-outs, seen by a camera of any pose."""

    max_objects: int = 6
    augment: bool = True


class PhotoRecipe(_Base, frozen=True, kw_only=True, tag="photos"):
    """Random crops of the material's photographs, for teachers to label."""

    smallest_crop: float = 0.6
    """Of the photograph's shorter side."""
    mask: Literal["teacher", "none"] = "teacher"
    depth: Literal["teacher", "none"] = "teacher"


Recipe = StageRecipe | GridRecipe | RenderRecipe | PhotoRecipe
