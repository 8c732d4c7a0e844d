"""Drift-aware training under dropout: this study's own recipe.

Training under drift teaches a network which errors come. Dropout keeps any one weight from mattering much, so that the
errors average out. Neither is new; their sum is not in the paper. A step costs one forward and one backward pass, like
one of ERM. Together they can keep a narrow network from learning anything, so the level of drift rises over the first
half of the training.
"""

from bayesft.methods.drift_aware import DriftAware
from bayesft.methods.method import Hyperparameter, Look
from bayesft.methods.uniform import Rate, Uniform
from bayesft.training import Problem


class DriftDropout(DriftAware, Uniform):
    """One dropout rate at every site, and drift up to σ_train."""

    title = "drift-aware + dropout"
    look = Look("#000000", "-", "p")
    rise = 0.5

    class Settings(DriftAware.Settings):
        """rate: the dropout rate of every site; sigma_train: the highest level of drift in training."""

        rate: Rate = 0.3

    def hyperparameters(self, problem: Problem) -> tuple[Hyperparameter, ...]:
        """The one rate, and σ_train."""
        return Uniform.hyperparameters(self, problem) + DriftAware.hyperparameters(self, problem)


METHOD = DriftDropout()
