"""Drift-aware training under dropout: this study's own recipe.

The two help in different ways. Training under drift teaches a network which errors come; dropout keeps any one weight
from mattering much, so that the errors average out. Neither is new; their sum is not in the paper, and costs one
forward and one backward pass a step, like ERM. Together they can keep a narrow network from learning anything, so the
level of drift rises over the first half of the training.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from bayesft.drift.faults import FaultModel
from bayesft.models import Site, find_sites
from bayesft.training import uniform
from bayesft.training.drift_aware import SIGMA_TRAIN, drift_gradient
from bayesft.training.loop import Gradient
from bayesft.training.trained import Problem, Trained
from bayesft.training.tunable import Tunable
from bayesft.training.tunable import train as train_under

RISE = 0.5  # share of the training over which the level of drift rises


def tunable(sites: Sequence[Site], bounds: tuple[float, float], gradient: Callable[[float], Gradient]) -> Tunable:
    """One dropout rate for all sites, between `bounds`, and σ_train, for which `gradient` gives that of a step."""
    dropout = uniform.tunable(sites, bounds)

    @contextmanager
    def training(model: nn.Module, values: Sequence[float]) -> Iterator[Gradient]:
        rate, sigma_train = values
        with dropout.training(model, [rate]):
            yield gradient(sigma_train)

    return Tunable(
        (*dropout.dimensions, SIGMA_TRAIN),
        training,
        lambda values: {**dropout.about(values[:1]), "sigma_train": values[1]},
    )


def train(problem: Problem, fault: FaultModel, rate: float, sigma_train: float, parameters: str) -> Trained:
    """Train with the recipe under drift up to `sigma_train`, with dropout of `rate` at every site."""
    sites = find_sites(problem.fresh(), problem.train.images[:1])
    both = tunable(sites, (0.0, 1.0), lambda sigma: drift_gradient(fault, sigma, parameters, RISE))
    return train_under(problem, both, (rate, sigma_train), "drift_dropout")
