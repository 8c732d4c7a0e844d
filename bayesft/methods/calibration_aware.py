"""Training that expects calibration, under dropout: each step's faulty copy is calibrated on the batch.

It is drift-aware training for networks whose copies are calibrated in use (docs/calibration.md): the channels of the
drifted copy are matched to those of a clean pass of the same batch, and the gradient goes through both passes. So the
network learns to do without what calibration restores, and to resist the rest. The level of drift rises over the first
half of the training. A step costs two forward and two backward passes.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveFloat

from bayesft.calibration import calibrated_gradient
from bayesft.methods.method import Look, Method
from bayesft.methods.uniform import Rate
from bayesft.training import Gradient, Problem


class CalibrationAware(Method):
    """One dropout rate at every site, and calibrated copies under drift up to σ_train.

    It has no hyperparameters for a search, since a search measures copies that are not calibrated.
    """

    title = "calibration-aware + dropout"
    look = Look("#0f52ba", (0, (5, 1.5)), "8")
    for_calibrated = True
    passes = 2

    class Settings(Method.Settings):
        """rate: the dropout rate of every site; sigma_train: the highest level of drift in training (σ, no unit)."""

        rate: Rate = 0.3
        sigma_train: PositiveFloat = 1.5

    def rates(self, problem: Problem, values: Mapping[str, Any]) -> tuple[float, ...]:
        """The same rate at every site."""
        return (values["rate"],) * len(problem.sites)

    def gradient(self, problem: Problem, values: Mapping[str, Any]) -> Gradient:
        """The gradient of a calibrated copy under drift."""
        return calibrated_gradient(problem.fault, values["sigma_train"], problem.parameters)

    def about(self, problem: Problem, values: Mapping[str, Any]) -> dict[str, Any]:
        """The rates by site, and σ_train."""
        return {**super().about(problem, values), "sigma_train": values["sigma_train"]}


METHOD = CalibrationAware()
