"""What a fault model is: its protocol, what others need to know of it, and two classes to start from."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard

import torch
from torch import Tensor

Scope = Literal["all", "weights", "convolutions"]
Stage = Literal["quantise", "programming", "device", "retention", "read", "stuck"]


@dataclass(frozen=True)
class Traits:
    """What evaluation, training and figures need to know of a fault model.

    Args:
        name: what the level is, in words.
        symbol: what the level is called in formulas and on axes.
        unit: the unit of the level; empty for a pure number.
        grid: the levels at which to evaluate by default.
        maximum: the highest level that is allowed.
        identity_at_zero: whether level 0 gives back the parameter bit for bit, and draws nothing.
        differentiable: whether training under the fault makes sense. Where not, it is refused.
        scope: which parameters the fault meets in the pipeline's chapter on fault-tolerant training, as in
            `bayesft.drift.scope.scoped`. The library asks its caller (`where`).
    """

    name: str = "fault level"
    symbol: str = "level"
    unit: str = ""
    grid: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    maximum: float = math.inf
    identity_at_zero: bool = False
    differentiable: bool = True
    scope: Scope = "all"


class FaultModel(Protocol):
    """What a device does to a parameter tensor, at a fault level.

    `perturb` is all that a fault model must have. It may have an attribute `traits: Traits`, which says what its level
    is and how to use it. `traits_of` gives the defaults of `Traits` for a fault model without one.
    """

    def perturb(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        """The faulty copy of `theta`, in its shape, dtype and device; `theta` itself is left alone.

        All randomness comes from `generator`, in an order that does not depend on the level: equal generators at two
        levels then give the same fault, stronger or weaker (common random numbers).
        """
        ...


def traits_of(fault: "FaultModel | CheckedFault") -> Traits:
    """The traits of `fault`; the defaults where it has none."""
    return getattr(fault, "traits", Traits())


def default_level(fault: "FaultModel | CheckedFault") -> float:
    """The level that a network is meant for where none is given: the last but one of the fault's default grid."""
    grid = traits_of(fault).grid
    above = [level for level in grid if level > 0] or list(grid)
    return above[-2] if len(above) > 1 else above[-1]


class DrawnOnce(FaultModel, Protocol):
    """A fault whose random numbers serve every level: `perturb` is `apply` of a `sample`."""

    def sample(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """What is random about the copy of `theta`. The generator may be another device's."""
        ...

    def apply(self, theta: Tensor, sample: Tensor, level: float) -> Tensor:
        """The faulty copy of `theta` by its `sample`, at a level."""
        ...


def draws_once(fault: FaultModel) -> TypeGuard[DrawnOnce]:
    """Whether `sample` and `apply` define a fault. One with a `perturb` of its own beside inherited ones is another."""
    line = type(fault).__mro__
    depth = {
        name: next((i for i, kind in enumerate(line) if name in vars(kind)), len(line))
        for name in ("sample", "apply", "faulty", "perturb")
    }
    has_both = max(depth["sample"], depth["apply"]) < len(line)
    return has_both and min(depth["faulty"], depth["perturb"]) >= min(depth["sample"], depth["apply"])


def drawn(
    fault: FaultModel, theta: Tensor, generator: Callable[[torch.device | str], torch.Generator], **about: Any
) -> Callable[[float], Tensor]:
    """One draw for a parameter: a function from the level to the faulty copy.

    A fault that draws once for all levels (`draws_once`) does so on the CPU, so every device meets the same draws. Any
    other fault draws the same numbers again at each level, on the device of the parameter.

    Args:
        fault: the fault.
        theta: the parameter.
        generator: a new generator on a device. Each call gives the same numbers.
        about: what else `perturb` of this fault is given.
    """
    if not draws_once(fault):
        return lambda level: fault.perturb(theta, level, generator(theta.device), **about)
    wide = theta if theta.dtype in (torch.float32, torch.float64) else theta.float()
    sample, exact = fault.sample(wide, generator("cpu")), traits_of(fault).identity_at_zero
    return lambda level: theta.clone() if exact and level == 0 else fault.apply(wide, sample, level).to(theta.dtype)


def check_fault_level(fault: object, level: float) -> None:
    """Raise ValueError where a fault that says which levels it allows does not allow `level`."""
    if hasattr(fault, "check_level"):
        fault.check_level(level)


def check_trains(fault: "FaultModel | CheckedFault", level: float) -> None:
    """Raise ValueError where one can't train under a fault of up to `level`: not allowed, or no gradient."""
    if not traits_of(fault).differentiable:
        raise ValueError(f"fault = {fault}: it has no gradient to train with")
    check_fault_level(fault, level)


class CheckedFault:
    """What all faults share: the checks of the level and the tensor, half precision, and level 0."""

    if TYPE_CHECKING:  # a class gives it as a class attribute, a field or a property

        @property
        def traits(self) -> Traits: ...

    def check_level(self, level: float) -> None:
        """Raise ValueError unless `level` is allowed."""
        highest = self.traits.maximum
        if not 0 <= level <= highest or math.isinf(level):
            allowed = "finite and at least 0" if math.isinf(highest) else f"from 0 to {highest:g}"
            raise ValueError(f"{self.traits.name}: {self.traits.symbol} = {level}: must be {allowed}")

    def _checked(self, x: Tensor, level: float, formula: Callable[[Tensor], Tensor]) -> Tensor:
        """The faulty copy of `x` by `formula`, which gets float32 or float64, not empty."""
        self.check_level(level)
        if not x.is_floating_point():
            raise ValueError(f"a tensor has dtype {x.dtype}: must be floating-point; leave it out of the faults")
        if x.numel() == 0 or (level == 0 and self.traits.identity_at_zero):
            return x.clone()
        return formula(x if x.dtype in (torch.float32, torch.float64) else x.float()).to(x.dtype)


class WeightFault(CheckedFault):
    """A fault model to start from: it checks the arguments, then calls `faulty`, the formula.

    Level 0 gives a copy bit for bit where `traits.identity_at_zero`. Half precision is computed in float32.
    """

    def perturb(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        """The faulty copy of a parameter.

        Args:
            theta: the parameter, of any shape; real floating-point numbers.
            level: the fault level, in the unit of `traits`.
            generator: the source of all randomness, on the device of `theta`.

        Returns:
            A new tensor with the shape, dtype and device of `theta`.

        Raises:
            ValueError: the level is negative, not finite or above `traits.maximum`, or `theta` is not floating-point.
        """
        return self._checked(theta, level, lambda wide: self.faulty(wide, level, generator))

    def faulty(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        """The formula. `theta` is float32 or float64 and not empty; the level is allowed; the result is new."""
        raise NotImplementedError(f"{type(self).__name__} needs a method faulty(theta, level, generator)")


class CellFault(WeightFault):
    """A fault of the two memory cells that hold a weight: write `cells`, and say in `stage` where it acts.

    M = max|θ|; the cells hold g⁺ = max(θ, 0)/M and g⁻ = max(−θ, 0)/M, both in [0, 1]; θ′ = M(g⁺′ − g⁻′). M counts as a
    constant for gradients. A tensor of zeros is given back as it is.
    """

    if TYPE_CHECKING:  # a class gives it as a class attribute, a field or a property

        @property
        def stage(self) -> Stage: ...

    def cells(self, g: Tensor, level: float, generator: torch.Generator) -> Tensor:
        """The faulty conductances of g: (2, *shape of θ), the positive cells first, as shares of the largest one."""
        raise NotImplementedError(f"{type(self).__name__} needs a method cells(g, level, generator)")

    def faulty(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return through_cells(theta, lambda g: self.cells(g, level, generator))


def largest(theta: Tensor) -> Tensor:
    """M = max|θ|, a constant for gradients."""
    return theta.detach().abs().max()


def pair(theta: Tensor) -> Tensor:
    """max(θ, 0) and max(−θ, 0), the two parts of `theta`: (2, *shape)."""
    positive = theta.clamp(min=0)
    return torch.stack([positive, positive - theta])


def through_cells(theta: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The weights that the cells of `theta` make after `change`, a map from conductances to conductances."""
    peak = largest(theta)
    if peak == 0:
        return theta.clone()
    g = change(pair(theta) / peak)
    return peak * (g[0] - g[1])


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """A standard normal number for each scalar of `like`."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


def uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """A number in [0, 1) for each scalar of `like`, in float64: float32 has no numbers between 0 and 6e-8."""
    return torch.rand(like.shape, generator=generator, dtype=torch.float64, device=like.device)


def straight_through(value: Tensor, theta: Tensor) -> Tensor:
    """`value` with the gradient of `theta` (the straight-through estimator of Bengio et al., arXiv 1308.3432)."""
    return value.detach() + (theta - theta.detach())
