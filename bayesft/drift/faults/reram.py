"""Measured ReRAM."""

from typing import ClassVar

import torch
from torch import Tensor

from bayesft.drift.faults.interface import CellFault, Stage, Traits, normal
from bayesft.drift.faults.registry import register

# The standard deviation in µS as a polynomial in g, the share of 40 µS, by the time in seconds.
_POLYNOMIALS = {
    1.0: (0.348, 16.030, -43.853, 45.393, -16.815),
    86400.0: (0.701, 22.086, -50.773, 47.095, -16.458),
    172800.0: (0.782, 20.274, -43.507, 37.062, -11.934),
}


@register("reram_wan")
class ReramWan2022(CellFault):
    """Conductances of a measured ReRAM chip, one second, one day or two days after programming.

    Device: ReRAM with conductances up to 40 µS, as measured on a chip.

    Formula: g′ = max(0, g + P_t(g)/40 · z) for each cell, z ~ N(0, 1); P_t is a polynomial of degree 4 with measured
    coefficients, P_t < 0 counts as 0

    Source: Wan et al., Nature 2022, by aihwkit `ReRamWan2022NoiseModel`
    """

    traits: ClassVar[Traits] = Traits("time since programming", "t", "s", tuple(_POLYNOMIALS))
    stage: ClassVar[Stage] = "programming"

    def check_level(self, level: float) -> None:
        if level not in _POLYNOMIALS:
            raise ValueError(f"time since programming: t = {level}: must be 1, 86400 or 172800 s, the times measured")

    def cells(self, g: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return (g + reram_deviation(g, level) * normal(g, generator)).clamp(min=0)


def reram_deviation(g: Tensor, t: float) -> Tensor:
    """The standard deviation after t seconds, as a share of 40 µS, for targets g."""
    micro = sum((c * g**i for i, c in enumerate(_POLYNOMIALS[t])), g.new_zeros(()))
    return micro.clamp(min=0) / 40
