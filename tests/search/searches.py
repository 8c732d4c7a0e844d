"""A tiny problem to search on, and a method that shows what a search does with it."""

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from bayesft.methods import Hyperparameter, load
from bayesft.methods.bayesft import BayesFT
from bayesft.search.algorithm1 import SearchResult, search
from bayesft.settings import SearchSettings
from bayesft.training import Problem, plain_gradient
from tests.problems import patterns, same, tiny


def make_problem(kind: type[Problem] = Problem, **changes: Any) -> Problem:
    """Four patterns under so much noise that trials differ."""
    parts = {"train": patterns(40, noise=0.8), "validation": patterns(60, part=1, noise=0.8)}
    return tiny(kind, **{**parts, "bounds": (0.1, 0.7), **changes})


def make_settings(**changes: Any) -> SearchSettings:
    """Four trials of two epochs, the first two without the surrogate, with changes."""
    given = {"sigmas": (0.4, 1.0), "lr": 0.01, "trials": 4, "initial": 2, "epochs": 2, "draws": 3}
    return SearchSettings(**{**given, **changes})


def run(settings: SearchSettings, method: Any = None, problem: Problem | None = None, **options: Any) -> SearchResult:
    """The search of BayesFT's rates on the tiny problem, or of another method or on another problem."""
    return search(problem or make_problem(), method or load("bayesft"), settings, **options)


def assert_same_result(first: SearchResult, second: SearchResult) -> None:
    assert repr(first.trials) == repr(second.trials)  # equal to the digit, and NaN to NaN
    assert (first.values, repr(first.best)) == (second.values, repr(second.best))
    assert first.best_model.about == second.best_model.about
    assert same(first.best_model.members[0], second.best_model.members[0])


class Watched(BayesFT):
    """BayesFT, which keeps what its trials are given and make. One of them can be interrupted, others diverge."""

    def __init__(self, interrupted: int | None = None, diverging: tuple[int, ...] = ()):
        self.interrupted, self.diverging = interrupted, diverging
        self.rates_given: list[tuple[float, ...]] = []
        self.starts: list[dict] = []
        self.ends: list[dict] = []

    @contextmanager
    def training(self, model, problem, values):
        number = len(self.starts)
        self.rates_given.append(self.rates(problem, values))
        self.starts.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        with super().training(model, problem, values) as gradient:
            yield nowhere if number in self.diverging else gradient
        if number == self.interrupted:
            raise KeyboardInterrupt  # the trial's weights are no longer what they were
        self.ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})


def nowhere(model, loss, x, y, progress):
    """A gradient that is not finite."""
    return plain_gradient(model, loss, x, y) * float("nan")


@dataclass(frozen=True)
class Told(Problem):
    """A problem whose networks have the scores that the test says, by purpose: ("trial", 0) say."""

    told: Callable[[tuple, int], tuple[float, float]] = lambda purpose, draws: (0.5, 0.01)

    def scores(self, model, sigmas, draws, key, objective="accuracy"):
        """Scores of the mean and the standard error that `told` says for a purpose and a number of draws."""
        assert key[:3] == (self.task, self.seed, "search")
        mean, error = self.told(tuple(key[3:]), len(draws))
        signs = torch.linspace(-1, 1, len(draws), dtype=torch.float64)
        spread = signs / signs.std() * error * len(draws) ** 0.5
        return (mean + spread).expand(len(sigmas), -1)


def told(values: Mapping[tuple, float]) -> Callable[[tuple, int], tuple[float, float]]:
    """Means by purpose, with a standard error of 0.01."""
    return lambda purpose, draws: (values[purpose], 0.01)


class Nothing(BayesFT):
    """Plain training, and so many hyperparameters without any effect."""

    def __init__(self, count: int = 1):
        self.count = count

    def hyperparameters(self, problem):
        return tuple(Hyperparameter(f"number {i}", 0.0, 1.0) for i in range(self.count))

    def rates(self, problem, values):
        return ()
