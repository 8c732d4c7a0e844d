"""What the methods are run with, checked: lengths, steps, budgets. Light to import: no tensor library."""

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StrictBool,
    StrictInt,
    field_validator,
    model_validator,
)  # fmt: skip

Kernel = Literal["squared_exponential", "matern52"]
Acquisition = Literal["ei", "mean", "lcb"]
Strategy = Literal["gp", "random", "grid"]
Design = Literal["random", "sobol"]


class Settings(BaseModel):
    """A block of settings: immutable, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Recipe(Settings):
    """How long and with what steps to train.

    Args:
        epochs: How often each training image is seen.
        batch_size: The most images of a step. The batches of an epoch differ by one image at most.
        lr: Adam's step size: the highest one with the schedule "one_cycle", else every one.
        weight_decay: Adam's factor of the L2 penalty.
        clip_norm: The largest norm of a step's gradient; a larger one is scaled down to it.
        schedule: "one_cycle": the step size rises and falls again over the training; or "constant".
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    lr: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 1e-4
    clip_norm: PositiveFloat = 1.0
    schedule: Literal["one_cycle", "constant"] = "one_cycle"


class SearchRule(Settings):
    """How Algorithm 1 searches.

    Args:
        strategy: What proposes trials: the surrogate ("gp"), chance, or a grid in random order.
        design: How the trials before the surrogate's lie: at random, or evenly (Sobol's sequence, scrambled).
        acquisition: How the surrogate chooses among points: by expected improvement ("ei"), by its posterior mean (the
            paper's rule), or by a confidence bound ("lcb").
        kernel: The surrogate's kernel.
        objective: The score of a drifted copy on validation data: accuracy (of a detector, mAP), or −ℓ of eq. (3).
        weights: Whether a trial goes on from the weights of the last one or from fresh ones.
        lr: The constant step size of trials that inherit weights. Others have the recipe's steps.
        batch: How many trials are proposed at once, to run side by side. More than 1 needs fresh weights.
        stop_early: Whether a trial ends half-way when it does worse than half of the others did there. It needs fresh
            weights.
        common_draws: Whether all trials get the images in the same order and meet the same drift.
        top: How many of the best trials are measured again with fresh draws, to choose among them.
    """

    strategy: Strategy = "gp"
    design: Design = "random"
    acquisition: Acquisition = "ei"
    kernel: Kernel = "squared_exponential"
    objective: Literal["accuracy", "neg_loss"] = "accuracy"
    weights: Literal["inherit", "scratch"] = "inherit"
    lr: PositiveFloat = 1e-3
    batch: Annotated[StrictInt, Field(gt=0)] = 1
    stop_early: StrictBool = False
    common_draws: StrictBool = False
    top: Annotated[StrictInt, Field(gt=0)] = 3

    @model_validator(mode="after")
    def _alone(self) -> Self:
        if self.weights == "inherit" and self.batch > 1:
            raise ValueError(
                "trials of a batch can't inherit weights from one another: batch > 1 needs weights = scratch"
            )
        if self.weights == "inherit" and self.stop_early:
            raise ValueError("trials that inherit can't be compared half-way: stop_early needs weights = scratch")
        return self


class SearchBudget(Settings):
    """How long Algorithm 1 searches, and among which rates.

    Args:
        trials: N, the number of trials.
        initial: The number of trials before the surrogate's first one.
        epochs: E, those of a trial.
        draws: T, the number of drifted copies that a trial is measured with, at each level.
        granularity: Whether each layer has a dropout rate of its own ("layer"), or each stage ("stage").
        bounds: The lowest and the highest dropout rate.
    """

    trials: Annotated[StrictInt, Field(gt=0, le=10_000)] = 20
    initial: Annotated[StrictInt, Field(gt=0)] = 4
    epochs: Annotated[StrictInt, Field(gt=0)] = 1
    draws: Annotated[StrictInt, Field(ge=2, le=100_000)] = 10
    granularity: Literal["layer", "stage"] = "layer"
    bounds: tuple[float, float] = (0.0, 0.8)

    @field_validator("bounds")
    @classmethod
    def _rates(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] < 1:
            raise ValueError("need 0 <= lower < upper < 1")
        return value


class SearchSettings(SearchRule, SearchBudget):
    """What Algorithm 1 is run with: the rule, the budget, and the levels.

    Args:
        sigmas: The drift levels over which the objective is averaged. The other arguments are those of `SearchRule` and
            `SearchBudget`.
    """

    sigmas: tuple[NonNegativeFloat, ...] = Field(default=(0.0, 0.3, 0.6, 0.9, 1.2, 1.5), min_length=1)

    @model_validator(mode="after")
    def _half(self) -> Self:
        if self.stop_early and self.epochs < 2:
            raise ValueError("a trial of one epoch has no half-way: stop_early needs epochs > 1")
        return self
