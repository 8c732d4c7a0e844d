"""Variation from one output channel to the next."""

from typing import ClassVar

import torch
from torch import Tensor

from bayesft.drift.faults.interface import CellFault, Stage, Traits, normal
from bayesft.drift.faults.registry import register


@register("device")
class DeviceToDevice(CellFault):
    """One random factor for each entry of the first dimension: the output channels of linear layers and convolutions.

    For transposed convolutions these are the input channels.

    Device: columns of a crossbar whose converters or cells differ in gain.

    Formula: θ′_c = θ_c · e^{σ z_c}, z_c ~ N(0, 1), one number for each entry c of the first dimension (output channels
    of linear layers and convolutions)

    Source: decided for this project; MemTorch varies R_on and R_off of each device
    """

    traits: ClassVar[Traits] = Traits(
        "standard deviation of ln θ′/θ over output channels", "σ",
        grid=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5), identity_at_zero=True,
    )  # fmt: skip
    stage: ClassVar[Stage] = "device"

    def faulty(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return self.cells(theta.unsqueeze(0), level, generator)[0]

    def cells(self, g: Tensor, level: float, generator: torch.Generator) -> Tensor:
        channels = g.new_empty(g.shape[1:2] + (1,) * (g.dim() - 2))
        return g * (level * normal(channels, generator)).exp()
