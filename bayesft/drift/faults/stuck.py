"""Cells that are stuck."""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from bayesft.drift.faults.interface import CellFault, Stage, Traits, largest, pair, uniform
from bayesft.drift.faults.registry import register


@register("stuck")
class StuckCells(CellFault):
    """Stuck-at faults of a pair of cells (adSAF): a weight is held by a positive and a negative cell.

    A weight that no fault changes is given back bit for bit. The gradient is 1 for such a weight, and 0 for one
    that a fault hits: either cell stuck at one, or the cell in use stuck at zero.

    Args:
        share_at_one: the share of the stuck cells that hold the largest conductance; the others hold none.

    Device: ReRAM with cells that can no longer be programmed.

    Formula: each cell of the pair g⁺ = max(θ, 0)/M, g⁻ = max(−θ, 0)/M, M = max|θ|, is stuck with probability p, then
    at 1 with probability r₁ (`share_at_one`), else at 0; θ′ = M(g⁺′ − g⁻′)

    Source: Ning et al., arXiv 2003.10375 (adSAF); MemTorch `DeviceFaults`
    """

    share_at_one: Annotated[float, Field(ge=0, le=1)] = 0.163

    traits: ClassVar[Traits] = Traits(
        "share of stuck cells", "p", grid=(0.0, 0.01, 0.02, 0.04, 0.06, 0.08, 0.12), maximum=1.0,
        identity_at_zero=True, scope="convolutions",
    )  # fmt: skip
    stage: ClassVar[Stage] = "stuck"

    def faulty(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return with_stuck_cells(theta, *self._masks(theta.expand(2, *theta.shape), level, generator))

    def cells(self, g: Tensor, level: float, generator: torch.Generator) -> Tensor:
        at_one, at_zero = self._masks(g, level, generator)
        return g.masked_fill(at_one, 1).masked_fill(at_zero, 0)

    def _masks(self, g: Tensor, level: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which cells are stuck at one, and which at zero: the shape of g. A higher level adds cells."""
        stuck = uniform(g, generator) < level
        at_one = uniform(g, generator) < self.share_at_one
        return stuck & at_one, stuck & ~at_one


def with_stuck_cells(theta: Tensor, at_one: Tensor, at_zero: Tensor) -> Tensor:
    """The weights whose cells are stuck as the masks say, each (2, *shape of θ), positive cells first."""
    held = torch.where(at_one, largest(theta), pair(theta.detach()).masked_fill(at_zero, 0))
    hit = at_one.any(0) | torch.where(theta > 0, at_zero[0], at_zero[1] & (theta < 0))
    return torch.where(hit, held[0] - held[1], theta)
