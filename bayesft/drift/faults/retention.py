"""Conductances that decay with time."""

from typing import ClassVar

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor

from bayesft.drift.faults.interface import CellFault, Stage, Traits, normal
from bayesft.drift.faults.registry import register

TIMES = (0.0, 1.0, 60.0, 3600.0, 86400.0, 2.6e6)  # in seconds: up to a day and a month


@register("retention")
class Retention(CellFault):
    """Power-law decay of each cell, with an exponent ν of its own.

    Args:
        mean: the mean μ of the exponents.
        deviation: their standard deviation s.
        t0: the time t₀, in seconds, from programming to the reading that counts as without decay.
        by_conductance: whether μ and s follow from the conductance as in the phase-change memory of `pcm`; then `mean`
            and `deviation` are not used.

    Device: phase-change memory, whose conductance decays after programming.

    Formula: g′ = g·((t + t₀)/t₀)^(−ν), ν = |μ + s·z|, z ~ N(0, 1), for each cell of a pair

    Source: aihwkit; MemTorch `conductance_drift`
    """

    mean: NonNegativeFloat = 0.05
    deviation: NonNegativeFloat = 0.01
    t0: PositiveFloat = 20.0
    by_conductance: bool = False

    traits: ClassVar[Traits] = Traits("time since programming", "t", "s", TIMES, identity_at_zero=True)
    stage: ClassVar[Stage] = "retention"

    def cells(self, g: Tensor, level: float, generator: torch.Generator) -> Tensor:
        mean, deviation = pcm_exponent(g) if self.by_conductance else (self.mean, self.deviation)
        return decayed(g, (mean + deviation * normal(g, generator)).abs(), level, self.t0)


def decayed(g: Tensor, exponent: Tensor, t: float, t0: float) -> Tensor:
    """The conductances g after t seconds of decay with the exponents ν."""
    return g * ((t + t0) / t0) ** -exponent


def pcm_exponent(g: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of ν in phase-change memory, for conductances g as shares of 25 µS."""
    log = g.clamp(min=1e-7).log()
    return (-0.0155 * log + 0.0244).clamp(0.049, 0.1), (-0.0125 * log - 0.0059).clamp(0.008, 0.045)
