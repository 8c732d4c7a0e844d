"""Quantised weights."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from bayesft.drift.faults.interface import CellFault, Stage, Traits, largest, straight_through
from bayesft.drift.faults.registry import register

Bits = Annotated[int, Field(ge=2, le=16)]


@register("quantise")
class Quantise(CellFault):
    """Weights rounded to the nearest of a few levels. It has no level of its own: the level is not used.

    The gradient is 1 (straight-through). On the cells of a composite, the scale is that of conductances up to 1.

    Args:
        bits: the number of bits b.
        scale: "power_of_two" makes 2^b + 1 values, of which the largest is a power of two; "uniform" makes 2^b − 1.

    Device: weights, or cells, that can take few values.

    Formula: θ′ = clamp(round(θ/s)·s, −R, R); power of two: R = 2^⌈log₂ M⌉, s = 2R/2^b; uniform: R = M = max|θ|,
    s = M/(2^(b−1) − 1)

    Source: nics_fix_pytorch, as in Ning et al., arXiv 2003.10375; MemTorch `FiniteConductanceStates`
    """

    bits: Bits = 8
    scale: Literal["power_of_two", "uniform"] = "power_of_two"

    traits: ClassVar[Traits] = Traits("not used", "level", grid=(0.0,))
    stage: ClassVar[Stage] = "quantise"

    def faulty(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return self._rounded(theta, largest(theta))

    def cells(self, g: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return self._rounded(g, g.new_ones(()))

    def _rounded(self, x: Tensor, peak: Tensor) -> Tensor:
        if self.scale == "power_of_two":
            return straight_through(power_of_two(x, peak, self.bits), x)
        step = uniform_step(peak, self.bits)
        return straight_through((x / step).round() * step, x)


def power_of_two(x: Tensor, peak: Tensor, bits: int) -> Tensor:
    """`x` on the grid of 2^bits steps whose end is the power of two next above `peak`, or `peak` if it is one."""
    end, step = power_of_two_grid(peak, bits)
    return ((x / step).round() * step).clamp(-end, end)


def power_of_two_grid(peak: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """The end R = 2^⌈log₂ peak⌉ and the step 2R/2^bits of the grid; `peak` counts as 1e-5 at least."""
    peak = peak.clamp(min=1e-5)
    mantissa = torch.frexp(peak).mantissa  # in [1/2, 1): peak/mantissa is exactly a power of two, where log2 may round
    end = torch.where(mantissa == 0.5, peak, peak / mantissa)
    return end, 2 * end / 2**bits


def uniform_step(peak: Tensor, bits: int) -> Tensor:
    """The step of the grid of 2^bits − 1 values from −peak to peak; positive for a peak of zero too."""
    return (peak / (2 ** (bits - 1) - 1)).clamp(min=torch.finfo(peak.dtype).tiny)
