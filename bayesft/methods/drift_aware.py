"""Drift-aware training: each step's loss is taken under a fresh drift, its level uniform in [0, σ_train].

Noise-injection training is what the analog-hardware community does (Joshi et al., Nature Communications 2020, for
phase-change memory). The paper does not compare with it. The gradient reaches θ through θ′ = θ · e^λ, eq. (1).
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from bayesft.drift import FaultModel, FeatureFault, under_fault
from bayesft.drift.faults import check_trains, traits_of
from bayesft.drift.passes import risen
from bayesft.drift.scope import Where
from bayesft.methods.method import Hyperparameter, Look, Method
from bayesft.training import Gradient, Loss, Problem, plain_gradient

HIGHEST = 2.0  # of σ_train: there the mean factor of a weight is seven


def drift_gradient(
    fault: FaultModel | FeatureFault, sigma_train: float, parameters: Where, rise: float = 0.0
) -> Gradient:
    """The gradient of the loss of one drifted copy, drawn anew at each step.

    Args:
        fault: The fault, of weights or of activations. It must have a gradient.
        sigma_train: The level is uniform in [0, sigma_train].
        parameters: Which parameters drift, as `scoped` takes them.
        rise: Over this first share of the training, the bound of the level grows from 0 to `sigma_train`.

    Returns:
        A gradient for `fit`. Level and drift come from the global generator. A network of several inputs gets them as a
        tuple.

    Raises:
        ValueError: The level is not allowed, or the fault has no gradient.
    """
    check_trains(fault, sigma_train)

    def gradient(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, progress: float = 1.0) -> Tensor:
        sigma = float(torch.rand(()) * risen(sigma_train, rise, progress))
        with under_fault(model, fault, sigma, parameters):
            return plain_gradient(model, loss, x, y)

    return gradient


class DriftAware(Method):
    """Training under drift up to σ_train."""

    title = "drift-aware"
    look = Look("#cc78bc", "--", "D")
    rise = 0.0

    class Settings(Method.Settings):
        """sigma_train: the highest level of drift in training (σ, no unit)."""

        sigma_train: PositiveFloat = 1.0

    def hyperparameters(self, problem: Problem) -> tuple[Hyperparameter, ...]:
        """σ_train."""
        return (Hyperparameter("sigma_train", 0.05, min(HIGHEST, traits_of(problem.fault).maximum)),)

    def gradient(self, problem: Problem, values: Mapping[str, Any]) -> Gradient:
        """The gradient under drift."""
        return drift_gradient(problem.fault, values["sigma_train"], problem.parameters, self.rise)


METHOD = DriftAware()
