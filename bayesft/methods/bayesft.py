"""BayesFT (Ye et al., DAC 2021): a dropout rate for each site, found by Bayesian optimisation.

`search` of params.yaml and of scales.yaml says how its trials train: from fresh weights, so that a trial judges its
rates alone, or from the weights of the trial before. `algorithm1` is the search as the paper publishes it.
"""

from collections.abc import Mapping
from typing import Any

from bayesft.methods.method import Hyperparameter, Look, Method
from bayesft.training import Problem


class BayesFT(Method):
    """Dropout with a searched rate at each site."""

    title = "BayesFT"
    look = Look("#d55e00", "-", "*")
    search: Mapping[str, Any] = {}
    detects = True

    def hyperparameters(self, problem: Problem) -> tuple[Hyperparameter, ...]:
        """The rate of each site, between the problem's bounds."""
        return tuple(Hyperparameter(site.name, *problem.bounds) for site in problem.sites)

    def rates(self, problem: Problem, values: Mapping[str, Any]) -> tuple[float, ...]:
        """The rates by site."""
        return tuple(values[site.name] for site in problem.sites)


METHOD = BayesFT()
