"""What a method lets be tuned: numbers with their ranges, and how a network trains under them.

Every method that has such numbers declares them in its module as a `Tunable`. One search finds them all, so that a
method is never compared at its best with another one at its default.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

from bayesft.training.loop import Gradient, fit
from bayesft.training.trained import Problem, Trained


@dataclass(frozen=True)
class Dimension:
    """A number between `low` and `high`. With `log`, all of its orders of magnitude are as likely."""

    name: str
    low: float
    high: float
    log: bool = False

    def value(self, unit: float) -> float:
        """The number at `unit`, in [0, 1], of the range."""
        if self.log:
            return float(math.exp(math.log(self.low) + math.log(self.high / self.low) * unit))
        return float(self.low + (self.high - self.low) * unit)

    def unit(self, value: float) -> float:
        """Where in the range a number lies: the inverse of `value`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Tunable:
    """The numbers of a method, in order, and what it does with them.

    `training(model, values)` is a context within which `model` trains under these values, by the gradient that it
    gives. `about(values)` is what is told of the values where the network is described.
    """

    dimensions: tuple[Dimension, ...]
    training: Callable[[nn.Module, Sequence[float]], AbstractContextManager[Gradient]]
    about: Callable[[Sequence[float]], dict]


def train(problem: Problem, tunable: Tunable, values: Sequence[float], method: str, **about) -> Trained:
    """Train a fresh network with the recipe under `values`."""
    model = problem.fresh()
    with tunable.training(model, values) as gradient:
        fit(
            model,
            problem.train,
            problem.recipe,
            seed=problem.seed,
            label=problem.label(method),
            gradient=gradient,
            checkpoint=problem.checkpoint,
        )
    return Trained.of(model, problem.specification, epochs=problem.recipe.epochs, **tunable.about(values), **about)
