"""Log-normal drift, the fault of the BayesFT paper."""

from typing import ClassVar

import torch
from torch import Tensor

from bayesft.drift.faults.interface import CellFault, Stage, Traits
from bayesft.drift.faults.registry import register


@register("lognormal")
class LogNormalDrift(CellFault):
    """Memristance drift, eq. (1) of BayesFT, independently for every scalar.

    σ has no unit: it is the standard deviation of λ = ln(θ′/θ). The mean factor is e^{σ²/2}, so drift also
    inflates the scale of a weight (3.08 times at σ = 1.5).

    Device: ReRAM whose conductances drift by a random factor.

    Formula: θ′ = θ · e^λ, λ ~ N(0, σ²)

    Source: Ye et al., DAC 2021, arXiv 2210.01795, eq. (1)
    """

    traits: ClassVar[Traits] = Traits(
        "standard deviation of ln θ′/θ", "σ", grid=tuple(i / 10 for i in range(16)), identity_at_zero=True
    )
    stage: ClassVar[Stage] = "programming"

    def faulty(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return self.apply(theta, self.sample(theta, generator), level)

    def cells(self, g: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return self.apply(g, self.sample(g, generator), level)

    def sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """λ at σ = 1 for every scalar of `theta`, which serves every level. The generator may be another device's."""
        z = torch.randn(theta.shape, generator=generator, dtype=theta.dtype, device=generator.device)
        return torch.empty_like(theta).copy_(z)  # in the memory format of theta

    def apply(self, theta: Tensor, sample: Tensor, level: float) -> Tensor:
        """The copy of `theta` that drifts by `sample` at the level σ."""
        return theta * sample.mul(level).exp_()
