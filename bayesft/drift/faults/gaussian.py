"""Additive Gaussian noise."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from bayesft.drift.faults.interface import CellFault, Traits, largest, normal
from bayesft.drift.faults.registry import register


@register("gaussian")
class GaussianNoise(CellFault):
    """Gaussian noise of one size for all weights of a tensor, or in proportion to each weight.

    Args:
        relative: whether the noise is in proportion to the weight.
        stage: where the noise acts in a composite: "programming" (once, before retention) or "read" (after it).

    Device: a memory cell whose programming or read noise is all that is known.

    Formula: θ′ = θ + σ·M·z, M = max|θ|, z ~ N(0, 1); with `relative`, θ′ = θ(1 + σz)

    Source: CrossSim, `NormalIndependentDevice` and `NormalProportionalDevice`
    """

    relative: bool = False
    stage: Literal["programming", "read"] = "programming"

    traits: ClassVar[Traits] = Traits(
        "standard deviation as a share of max|θ|, or with `relative` of |θ|", "σ",
        grid=(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3), identity_at_zero=True,
    )  # fmt: skip

    def faulty(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        size = theta if self.relative else largest(theta)
        return theta + level * size * normal(theta, generator)

    def cells(self, g: Tensor, level: float, generator: torch.Generator) -> Tensor:
        size = g if self.relative else 1.0
        return (g + level * size * normal(g, generator)).clamp(min=0)
