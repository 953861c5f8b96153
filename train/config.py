"""What a training run is told: mode, phases, rates, and the recipe of its data. No torch here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from depthmask.errors import UsageError
from depthmask.frames import LARGEST_SIDE_PX, SMALLEST_SIDE_PX
from depthmask.train.documents import check_ranges, read_document
from depthmask.train.recipe import Recipe, Seed, Share, StageRecipe

Mode = Literal["supervised", "relevance", "distill"]
"""`supervised`: labels teach. `relevance`: the mask becomes as sparse as it can while the depth stays
the same (Hu, Zhang, Okatani, ICCV 2019). `distill`: a teacher chain teaches, beside the labels."""
Networks = Literal["both", "mask", "depth"]
Precision = Literal["auto", "fp32", "bf16"]
AtLeast1 = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
RateSchedule = Literal["cosine", "constant", "constant-then-cosine"]


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of training at one resolution: so many steps, or so many epochs."""

    resolution_px: Annotated[int, Meta(ge=SMALLEST_SIDE_PX, le=LARGEST_SIDE_PX)]
    batch_size: Annotated[int, Meta(ge=2)]
    """Over all processes; batch norm needs two."""
    steps: AtLeast1 | None = None
    epochs: AtLeast1 | None = None
    """Passes over the training samples of a finite recipe or of a data set."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if (self.steps is None) == (self.epochs is None):
            raise UsageError("a phase must have either steps or epochs, but got both or neither")


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a run depends on, apart from its assets, data sets and first weights."""

    preset: str = "lite"
    mode: Mode = "supervised"
    train: Networks = "both"
    """Which networks learn; the other one stays as it is, also its batch norm."""
    seed: Seed = 0

    recipe: Recipe = StageRecipe()
    data_share: Share | None = None
    """Share of samples from the data sets (`--data`), the others are the recipe's; by default a half
    where data sets are given."""
    paste_share: Share = 0.0
    """Share of the data sets' samples that get an object pasted in, out of another of their samples."""
    samples: AtLeast1 | None = None
    """Use only so many samples of each finite source, drawn by the seed."""
    validation_share: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Held out for the metrics, by index. 0: no metrics."""
    validation_limit: AtLeast1 = 200
    """Samples that each measurement takes, at most."""
    validate_every_steps: AtLeast1 | None = None
    """By default after each epoch, or after each phase of steps."""
    disjoint: bool = False
    """Hold out whole backgrounds and foregrounds of a grid recipe, each fifth, not only samples."""

    phases: tuple[Phase, ...] = (
        Phase(96, 32, 1500),
        Phase(128, 32, 1600),
        Phase(160, 32, 700),
        Phase(224, 24, 450),
    )
    micro_batch: AtLeast1 | None = None
    """Work through a batch in parts of so many samples and add up the gradients, so that it fits into
    memory: the same gradient, but batch norm sees the parts one by one. In each process."""
    hours: Positive | None = None
    """End after so many hours of training (as resumed: all parts together), at the latest. The
    learning rate then falls with whichever is further, steps or time."""

    learning_rate: NotNegative = 1.5e-3
    min_rate: NotNegative = 0.0
    """Where a cosine ends."""
    schedule: RateSchedule = "cosine"
    decay_share: Annotated[float, Meta(gt=0, le=1)] = 0.3
    """Of the steps, at the end: the cosine of `constant-then-cosine`."""
    encoder_rate: NotNegative = 0.4
    """The encoders' learning rate, as a share of `learning_rate`: they start from ImageNet."""
    weight_decay: NotNegative = 1e-4
    warmup_steps: Annotated[int, Meta(ge=0)] = 200
    clip_norm: Positive = 5.0
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.998
    """Of the exponential moving average of the weights, which is what the checkpoint holds."""
    freeze_batch_norm: bool = False
    precision: Precision = "auto"
    """`auto`: bf16 where the processor has it, else fp32 (emulated bf16 is ten times slower)."""

    true_mask_share: Share = 0.3
    """Share of samples whose depth input is masked by the truth instead of the mask network. For a
    chain of kind `relevance` that is the whole image."""
    depth_scale_m: Positive | None = None
    """Metres per unit of the depth network's output; by default 20 where that is in [0, 1], else 1."""
    sparsity: NotNegative = 5.0
    """Weight of the mask's mean in mode `relevance`."""
    relevance_target: Literal["network", "labels"] = "network"
    """What the depth from the masked image must equal: the depth from the whole image, or the label
    in metres where there is one."""
    adapt_depth: bool = False
    """In mode `relevance`, let the depth network learn, too; its first state stays the target."""
    distill_weight: Share = 0.7
    """Of the teacher in mode `distill`; the labels have the rest."""

    save_every_steps: AtLeast1 = 100
    save_every_minutes: Positive = 10.0
    keep_states: AtLeast1 = 2

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.phases:
            raise UsageError("phases must be one or more, but got none")
        if self.mode == "relevance" and self.train != "both":
            raise UsageError(
                f"train must be both in mode relevance, but got {self.train}. Try adapt_depth"
            )


def read_config(path_or_name: Path | str) -> TrainingConfig:
    """Read a configuration, YAML or JSON, by path or, shipped, by name (`lite`).

    What it does not name keeps its default.

    Raises:
        InputError: it is missing, or has errors: all are named.
        UnavailableError: it is YAML, and PyYAML is not installed.

    """
    return read_document(path_or_name, TrainingConfig)
