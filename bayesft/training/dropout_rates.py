"""Training under given dropout rates, one a site: what BayesFT tunes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from bayesft.models import Site, dropout
from bayesft.training.loop import Gradient, plain_gradient
from bayesft.training.trained import Problem, Trained
from bayesft.training.tunable import Dimension, Tunable
from bayesft.training.tunable import train as train_under


def tunable(sites: Sequence[Site], bounds: tuple[float, float], gradient: Gradient = plain_gradient) -> Tunable:
    """A rate between `bounds` for each site."""

    @contextmanager
    def training(model: nn.Module, rates: Sequence[float]) -> Iterator[Gradient]:
        with dropout(model, sites, rates):
            yield gradient

    return Tunable(
        tuple(Dimension(site.name, *bounds) for site in sites),
        training,
        lambda rates: {"rates": named(sites, rates)},
    )


def named(sites: Sequence[Site], rates: Sequence[float]) -> dict[str, float]:
    """The rates by the names of their sites."""
    return {site.name: float(rate) for site, rate in zip(sites, rates, strict=True)}


def train(problem: Problem, sites: Sequence[Site], rates: Sequence[float], method: str, **about) -> Trained:
    """Train a fresh network with the recipe under `rates`."""
    return train_under(problem, tunable(sites, (0.0, 1.0), problem.gradient), rates, method, **about)
