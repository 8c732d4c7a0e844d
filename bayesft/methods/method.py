"""What a method is: its name and look in reports, its hyperparameters, and how a network trains under them."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from bayesft.models import dropout
from bayesft.settings import Settings
from bayesft.training import Gradient, Problem, Trained, fit


@dataclass(frozen=True)
class Hyperparameter:
    """A number between `low` and `high` that a search can choose.

    Args:
        name: The name, as in the method's settings.
        low: The lower end of the range.
        high: The upper end of the range.
        log: Whether the search treats all orders of magnitude alike.
    """

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
        """The place of a number in the range, in [0, 1]: the inverse of `value`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Look:
    """A method's curve in figures. Dashes and marker still tell curves apart in black and white.

    Args:
        colour: A colour of matplotlib.
        dashes: A line style of matplotlib.
        marker: A marker of matplotlib.
    """

    colour: str
    dashes: str | tuple[Any, ...]
    marker: str


class Method:
    """A way to train a network. A subclass states what differs from plain training.

    Attributes:
        title: The name in reports.
        look: The curve in figures.
        needs: The methods whose networks must be trained before.
        search: None for a method whose hyperparameters are given; else the method's own changes of the search settings.
        final_training: Whether a network is trained under the hyperparameters that a search found; else the result is
            the best trial's network.
        detects: Whether it trains detectors too.
        for_calibrated: Whether its copies are meant to be calibrated in use.
        passes: The number of forward and backward passes of a training step.
        Settings: What params.yaml may give, with defaults.
    """

    title: str
    look: Look
    needs: tuple[str, ...] = ()
    search: Mapping[str, Any] | None = None
    final_training: bool = True
    detects: bool = False
    for_calibrated: bool = False
    passes: int = 1

    class Settings(Settings):
        """No settings."""

    @property
    def name(self) -> str:
        """The name of the file that defines the method."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @property
    def searched_as(self) -> str:
        """The name of the method whose hyperparameters these are. Methods of one name can share a search."""
        owner = next(kind for kind in type(self).__mro__ if "hyperparameters" in vars(kind))
        return owner.__module__.rsplit(".", 1)[-1]

    def hyperparameters(self, problem: Problem) -> tuple[Hyperparameter, ...]:
        """The numbers that a search can choose on `problem`."""
        return ()

    def rates(self, problem: Problem, values: Mapping[str, Any]) -> tuple[float, ...]:
        """The dropout rate of each site of `problem`, or () for no dropout."""
        return ()

    def gradient(self, problem: Problem, values: Mapping[str, Any]) -> Gradient:
        """How the gradient of a step is taken."""
        return problem.gradient

    def about(self, problem: Problem, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the description of a trained network says of the hyperparameters."""
        rates = self.rates(problem, values)
        by_site = dict(zip((site.name for site in problem.sites), rates, strict=True)) if rates else {}
        others = {h.name: values[h.name] for h in self.hyperparameters(problem) if h.name not in by_site}
        return ({"rates": by_site} if rates else {}) | others

    @contextmanager
    def training(self, model: nn.Module, problem: Problem, values: Mapping[str, Any]) -> Iterator[Gradient]:
        """A context in which a network trains by the method: dropout is attached.

        Args:
            model: The network. Dropout is detached on leaving.
            problem: The problem that it is trained on.
            values: The method's settings, hyperparameters included.

        Yields:
            The gradient of a step, for `fit`.
        """
        rates = self.rates(problem, values)
        with dropout(model, problem.sites if rates else (), rates):
            yield self.gradient(problem, values)

    def train(self, problem: Problem, values: Mapping[str, Any], given: Mapping[str, Trained]) -> dict[str, Trained]:
        """Train a fresh network with the problem's recipe.

        Args:
            problem: The network, the data, the recipe and the seed.
            values: The method's settings, hyperparameters included.
            given: The trained networks of the methods in `needs`, by name.

        Returns:
            The trained network under the method's name, and further networks under names of their own.

        Raises:
            Diverged: The loss or its gradient is no longer finite.
        """
        model = problem.fresh()
        with self.training(model, problem, values) as gradient:
            fit(
                model,
                problem.train,
                problem.recipe,
                seed=problem.seed,
                label=problem.label(self.name),
                loss=problem.loss,
                gradient=gradient,
                checkpoint=problem.checkpoint,
            )
        about = self.about(problem, values)
        return {self.name: Trained.of(model, problem.specification, epochs=problem.recipe.epochs, **about)}
