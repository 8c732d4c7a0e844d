"""Phase-change memory."""

import math
from typing import ClassVar

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from bayesft.drift.faults.interface import CellFault, Stage, Traits, normal
from bayesft.drift.faults.registry import register
from bayesft.drift.faults.retention import TIMES, decayed, pcm_exponent

_T0, _READ_TIME = 20.0, 250e-9  # in seconds


@register("pcm")
class PhaseChangeMemory(CellFault):
    """Programming noise, decay and read noise of phase-change memory. It is not ideal at t = 0 either.

    Args:
        programming: a factor of the programming noise; 0 switches it off.
        retention: a factor of the exponents of decay.
        read: a factor of the read noise.

    Device: phase-change memory with conductances up to 25 µS.

    Formula: for each cell, each z ~ N(0, 1) its own: g_p = max(0, g + (0.26348 + 1.965 g − 1.1731 g²)/25 · z); g_d =
    g_p·((t + 20 s)/20 s)^(−ν), ν = |μ + s·z|, μ = clamp(−0.0155 ln g + 0.0244, 0.049, 0.1), s = clamp(−0.0125 ln g −
    0.0059, 0.008, 0.045); g′ = max(0, g_d·(1 + Q·√ln((t + 20 s + t_r)/(2 t_r)) · z)), Q = min(0.2, 0.0088/g_p^0.65),
    t_r = 250 ns

    Source: aihwkit `PCMLikeNoiseModel`, after Nandakumar et al. 2019
    """

    programming: NonNegativeFloat = 1.0
    retention: NonNegativeFloat = 1.0
    read: NonNegativeFloat = 1.0

    traits: ClassVar[Traits] = Traits("time since programming", "t", "s", TIMES)
    stage: ClassVar[Stage] = "programming"

    def cells(self, g: Tensor, level: float, generator: torch.Generator) -> Tensor:
        programmed = (g + self.programming * programming_deviation(g) * normal(g, generator)).clamp(min=0)
        mean, deviation = pcm_exponent(g)
        exponent = self.retention * (mean + deviation * normal(g, generator)).abs()
        since = math.sqrt(math.log((level + _T0 + _READ_TIME) / (2 * _READ_TIME)))
        noise = self.read * read_deviation(programmed) * since * normal(g, generator)
        return (decayed(programmed, exponent, level, _T0) * (1 + noise)).clamp(min=0)


def programming_deviation(g: Tensor) -> Tensor:
    """The standard deviation of programming noise, as a share of 25 µS, for targets g."""
    return (0.26348 + 1.965 * g - 1.1731 * g.square()) / 25


def read_deviation(g: Tensor) -> Tensor:
    """Q, the size of read noise relative to the conductance, for programmed conductances g."""
    return (0.0088 / g.clamp(min=1e-3 ** (1 / 0.65)).pow(0.65)).clamp(max=0.2)
