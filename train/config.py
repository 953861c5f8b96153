"""What a training run is told: phases, rates, and the recipe of its data. No torch here."""

from __future__ import annotations

from pathlib import Path

import msgspec

from depthmask.errors import InputError, UsageError
from depthmask.frames import Resolution
from depthmask.train.recipe import StageRecipe


class Phase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of training at one resolution."""

    resolution_px: int
    batch_size: int
    steps: int

    def __post_init__(self) -> None:
        Resolution(self.resolution_px, self.resolution_px)  # checks its range
        if self.batch_size < 2 or self.steps < 1:
            raise UsageError(
                "a phase must have a batch_size of 2 or more (batch norm) and 1 step or more, but"
                f" got {self.batch_size} and {self.steps}"
            )


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a run depends on, apart from the assets and the first weights."""

    preset: str = "lite"
    seed: int = 0
    recipe: StageRecipe = StageRecipe()
    phases: tuple[Phase, ...] = (
        Phase(96, 32, 1500),
        Phase(128, 32, 1600),
        Phase(160, 32, 700),
        Phase(224, 24, 450),
    )
    learning_rate: float = 1.5e-3
    encoder_rate: float = 0.4
    """The encoder's learning rate, as a share of `learning_rate`: it starts from ImageNet."""
    weight_decay: float = 1e-4
    warmup_steps: int = 200
    clip_norm: float = 5.0
    average_decay: float = 0.998
    """Of the exponential moving average of the weights, which is what the checkpoint holds."""
    true_mask_share: float = 0.3
    """Share of samples whose depth input is masked by the truth instead of the mask network."""
    bf16: bool = True
    save_every_steps: int = 100

    def __post_init__(self) -> None:
        if not self.phases or self.save_every_steps < 1:
            raise UsageError(
                "a training must have a phase and save_every_steps of 1 or more, but got"
                f" {len(self.phases)} phases and {self.save_every_steps}"
            )

    @property
    def steps(self) -> int:
        """Of all phases."""
        return sum(phase.steps for phase in self.phases)


def read_config(path: Path) -> TrainingConfig:
    """Read a configuration, such as configs/lite.json; what it does not name keeps its default.

    Raises:
        InputError: it is missing, not JSON, or has unknown fields or values of another type.
        UsageError: a value is out of range.

    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=TrainingConfig)
    except OSError as error:
        raise InputError(f"{path} must be a training configuration: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{path} must be a training configuration in JSON, such as configs/lite.json: {error}"
        ) from error
