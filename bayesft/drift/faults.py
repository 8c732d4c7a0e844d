"""Fault models: what a device does to a stored parameter.

A fault model is a small frozen dataclass with a formula and one method. To add one, write the class and name it
in `FAULT_MODELS`.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class FaultModel(Protocol):
    """What a device does to a parameter tensor, at a fault level σ."""

    def perturb(self, theta: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
        """The faulty copy of `theta`, in its shape, dtype and device; `theta` itself is left alone.

        All randomness comes from `generator`, in an order that does not depend on σ: equal generators at two
        levels then give the same fault, stronger or weaker (common random numbers).
        """
        ...


@dataclass(frozen=True)
class LogNormalDrift:
    """Memristance drift, eq. (1) of BayesFT: θ′ = θ · e^λ, λ ~ N(0, σ²), independently for every scalar.

    σ has no unit: it is the standard deviation of λ = ln(θ′/θ). The mean factor is e^{σ²/2}, so drift also
    inflates the scale of a weight (3.08 times at σ = 1.5).
    """

    def perturb(self, theta: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
        return self.apply(theta, self.sample(theta, generator), sigma)

    def sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """λ at σ = 1 for every scalar of `theta`, which serves every level. The generator may be another device's."""
        z = torch.randn(theta.shape, generator=generator, dtype=theta.dtype, device=generator.device)
        return torch.empty_like(theta).copy_(z)  # in the memory format of theta

    def apply(self, theta: Tensor, sample: Tensor, sigma: float) -> Tensor:
        """The copy of `theta` that drifts by `sample` at level σ."""
        return theta * sample.mul(sigma).exp_()


FAULT_MODELS: dict[str, FaultModel] = {"lognormal": LogNormalDrift()}
