"""Training under given dropout rates: the last step of BayesFT, and of its controls."""

from collections.abc import Sequence

from bayesft.models import Site, dropout
from bayesft.training.loop import fit
from bayesft.training.trained import Problem, Trained


def train(problem: Problem, sites: Sequence[Site], rates: Sequence[float], method: str, **about) -> Trained:
    """Train a fresh network with the recipe under dropout: one rate a site."""
    model = problem.fresh()
    with dropout(model, sites, rates):
        fit(
            model,
            problem.train,
            problem.recipe,
            seed=problem.seed,
            label=problem.label(method),
            gradient=problem.gradient,
            checkpoint=problem.checkpoint,
        )
    named = {site.name: float(rate) for site, rate in zip(sites, rates, strict=True)}
    return Trained.of(model, problem.specification, epochs=problem.recipe.epochs, rates=named, **about)
