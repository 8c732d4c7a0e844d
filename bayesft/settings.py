"""What the methods are run with, checked: lengths, steps, budgets. Light to import: no tensor library."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

Kernel = Literal["squared_exponential", "matern52"]
Acquisition = Literal["ei", "mean", "lcb"]


class Settings(BaseModel):
    """A block of settings: immutable, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Recipe(Settings):
    """How long and with what steps to train."""

    epochs: PositiveInt
    batch_size: PositiveInt
    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    clip_norm: PositiveFloat
    schedule: Literal["one_cycle", "constant"] = "one_cycle"


class SearchRule(Settings):
    """How Algorithm 1 searches."""

    acquisition: Acquisition
    kernel: Kernel
    objective: Literal["accuracy", "neg_loss"]
    sigmas: tuple[PositiveFloat, ...] = Field(min_length=1)
    weights: Literal["inherit", "scratch"]
    granularity: Literal["layer", "stage"]
    bounds: tuple[float, float]
    lr: PositiveFloat

    @field_validator("bounds")
    @classmethod
    def _rates(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] < 1:
            raise ValueError("need 0 <= lower < upper < 1")
        return value


class SearchBudget(Settings):
    """How long Algorithm 1 searches."""

    trials: PositiveInt
    initial: PositiveInt
    epochs: PositiveInt
    draws: int = Field(ge=2)


class SearchSettings(SearchRule, SearchBudget):
    """What Algorithm 1 is run with."""
