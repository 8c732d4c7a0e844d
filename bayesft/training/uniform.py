"""Control: one dropout rate at every site, searched by nobody.

The paper has no such control, so its gain can't be told from that of dropout as such.
"""

from bayesft.models import find_sites
from bayesft.training import dropout_rates
from bayesft.training.trained import Problem, Trained


def train(problem: Problem, rate: float) -> Trained:
    """Train with the recipe under dropout of `rate` at every site of the network."""
    sites = find_sites(problem.fresh(), problem.train.images[:1])
    return dropout_rates.train(problem, sites, [rate] * len(sites), "uniform")
