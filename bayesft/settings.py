"""What the methods are run with, checked: lengths, steps, budgets. Light to import: no tensor library."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator

Kernel = Literal["squared_exponential", "matern52"]
Acquisition = Literal["ei", "mean", "lcb"]


class Settings(BaseModel):
    """A block of settings: immutable, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Recipe(Settings):
    """How long and with what steps to train."""

    epochs: PositiveInt
    batch_size: PositiveInt
    lr: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 1e-4
    clip_norm: PositiveFloat = 1.0
    schedule: Literal["one_cycle", "constant"] = "one_cycle"


class SearchRule(Settings):
    """How Algorithm 1 searches."""

    acquisition: Acquisition = "ei"
    kernel: Kernel = "squared_exponential"
    objective: Literal["accuracy", "neg_loss"] = "accuracy"
    weights: Literal["inherit", "scratch"] = "inherit"
    lr: PositiveFloat = 1e-3


class SearchBudget(Settings):
    """How long Algorithm 1 searches, and among which rates."""

    trials: PositiveInt = 20
    initial: PositiveInt = 4
    epochs: PositiveInt = 1
    draws: int = Field(10, ge=2)
    granularity: Literal["layer", "stage"] = "layer"
    bounds: tuple[float, float] = (0.0, 0.8)

    @field_validator("bounds")
    @classmethod
    def _rates(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] < 1:
            raise ValueError("need 0 <= lower < upper < 1")
        return value


class SearchSettings(SearchRule, SearchBudget):
    """What Algorithm 1 is run with. `sigmas` are the drift levels over which the objective is averaged."""

    sigmas: tuple[PositiveFloat, ...] = Field((0.3, 0.6, 0.9, 1.2, 1.5), min_length=1)
