"""Control: one dropout rate at every site, searched by nobody.

The paper has no such control, so its gain can't be told from that of dropout as such.
"""

from collections.abc import Sequence

from bayesft.models import Site, find_sites
from bayesft.training import dropout_rates
from bayesft.training.loop import Gradient, plain_gradient
from bayesft.training.trained import Problem, Trained
from bayesft.training.tunable import Dimension, Tunable


def tunable(sites: Sequence[Site], bounds: tuple[float, float], gradient: Gradient = plain_gradient) -> Tunable:
    """The one rate, between `bounds`."""
    each = dropout_rates.tunable(sites, bounds, gradient)

    def everywhere(values: Sequence[float]) -> list[float]:
        (rate,) = values
        return [rate] * len(sites)

    return Tunable(
        (Dimension("rate", *bounds),),
        lambda model, values: each.training(model, everywhere(values)),
        lambda values: each.about(everywhere(values)),
    )


def train(problem: Problem, rate: float) -> Trained:
    """Train with the recipe under dropout of `rate` at every site of the network."""
    sites = find_sites(problem.fresh(), problem.train.images[:1])
    return dropout_rates.train(problem, sites, [rate] * len(sites), "uniform")
