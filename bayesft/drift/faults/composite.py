"""Several faults of one memory."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, get_args

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from bayesft.drift.faults.interface import CellFault, Stage, Traits, WeightFault, through_cells
from bayesft.drift.faults.registry import fault_model, register

_ORDER = get_args(Stage)


def _part(given: Any) -> Any:
    """A part as parameter files write it, {model, settings, level}, as a pair of a fault and its level."""
    if not isinstance(given, Mapping):
        return given
    unknown = given.keys() - {"model", "settings", "level"}
    if unknown or "model" not in given:
        raise ValueError(f"a part has the keys model, settings and level, and needs model; got {', '.join(given)}")
    return fault_model(given["model"], given.get("settings")), given.get("level")


Part = Annotated[tuple[CellFault, float | None], BeforeValidator(_part)]


@register("composite")
class Composite(WeightFault):
    """Several faults of the same pair of cells.

    Whatever the order of `parts`, they act in the order quantise, programming noise, device to device, retention, read
    noise, stuck: a stuck cell ignores all the others. Each part has a generator of its own, so that a part added at
    the end changes no draw of the others.

    Args:
        parts: pairs of a fault and its fixed level. Exactly one level is None: that part takes the level of `perturb`.

    Device: any memory with more than one fault.

    Formula: θ′ = M(g⁺′ − g⁻′), M = max|θ|; the parts change the cells one after the other, with the M of θ

    Source: decided for this project
    """

    parts: Annotated[tuple[Part, ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        if sum(level is None for _, level in self.parts) != 1:
            raise ValueError("parts: exactly one part must have the level None, to take the level of the axis")
        for fault, level in self.parts:
            if level is not None:
                fault.check_level(level)

    @property
    def traits(self) -> Traits:
        """The traits of the part that takes the level; the composite is the identity only where every part is."""
        axis = self._axis.traits
        return replace(
            axis,
            identity_at_zero=all(fault.traits.identity_at_zero and not level for fault, level in self.parts),
            differentiable=all(fault.traits.differentiable for fault, _ in self.parts),
        )

    @property
    def _axis(self) -> CellFault:
        return next(fault for fault, level in self.parts if level is None)

    def check_level(self, level: float) -> None:
        self._axis.check_level(level)

    def faulty(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        device = theta.device
        seeds = [int(torch.randint(2**62, (), generator=generator, device=device)) for _ in self.parts]
        parts = sorted(zip(self.parts, seeds, strict=True), key=lambda part: _ORDER.index(part[0][0].stage))

        def change(g: Tensor) -> Tensor:
            for (fault, fixed), seed in parts:
                at = level if fixed is None else fixed
                if at > 0 or not fault.traits.identity_at_zero:
                    g = fault.cells(g, at, torch.Generator(device).manual_seed(seed))
            return g

        return through_cells(theta, change)
