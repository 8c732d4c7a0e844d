"""Fault-tolerant training whose other pass drifts: (1 − α) · ℓ(under log-normal drift) + α · ℓ(under the fault).

Neither of the two papers does it. It asks whether one training can serve both faults.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import PositiveFloat
from torch import Tensor, nn

from bayesft.drift import LogNormalDrift
from bayesft.methods.drift_aware import HIGHEST, drift_gradient
from bayesft.methods.ftt import Ftt
from bayesft.methods.method import Hyperparameter, Look
from bayesft.training import Gradient, Loss, Problem


class DriftFtt(Ftt):
    """One pass under log-normal drift up to σ_train, and one under the fault."""

    title = "drift-aware + FTT"
    look = Look("#117733", "--", "H")

    class Settings(Ftt.Settings):
        """Settings as of `ftt`, and those of the drifting pass.

        Args:
            alpha, level: As of `ftt`.
            bits: As of `ftt`, in the pass under the fault alone. The weights that drift are not quantised.
            sigma_train: The highest level of drift in the other pass (σ, no unit).
        """

        sigma_train: PositiveFloat = 0.3

    def hyperparameters(self, problem: Problem) -> tuple[Hyperparameter, ...]:
        """α, the level, and σ_train."""
        return (*super().hyperparameters(problem), Hyperparameter("sigma_train", 0.05, HIGHEST))

    def gradient(self, problem: Problem, values: Mapping[str, Any]) -> Gradient:
        """The gradient of both passes."""
        faulty, alpha = super().gradient(problem, {**values, "alpha": 1.0}), values["alpha"]
        drifting = drift_gradient(LogNormalDrift(), values["sigma_train"], "all")

        def gradient(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, progress: float = 1.0) -> Tensor:
            first = drifting(model, lambda out, labels: (1 - alpha) * loss(out, labels), x, y, progress)
            return first + faulty(model, lambda out, labels: alpha * loss(out, labels), x, y, progress)

        return gradient


METHOD = DriftFtt()
