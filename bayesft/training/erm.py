"""Empirical risk minimisation: cross entropy on clean data, nothing else. The baseline of every figure."""

from bayesft.training.loop import fit
from bayesft.training.trained import Problem, Trained


def train(problem: Problem, name: str = "erm") -> Trained:
    """Train with the recipe. A task's network is built without dropout, also where the literature ships it with some.

    `name` tells several networks of one problem apart, in the ablation.
    """
    model = fit(
        problem.fresh(),
        problem.train,
        problem.recipe,
        seed=problem.seed,
        label=problem.label(name),
        gradient=problem.gradient,
        checkpoint=problem.checkpoint,
    )
    return Trained.of(model, problem.specification, epochs=problem.recipe.epochs)
