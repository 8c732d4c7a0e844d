"""Faults of activations: what goes wrong while a convolution is computed.

A feature fault strikes the output of each convolution, after the batch normalisation that follows it. `struck` puts
it there by forward hooks for the time of a `with` block. Faults of weights act at the same time.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from bayesft.drift.faults.interface import CheckedFault, FaultModel, Traits, largest, normal, straight_through, uniform
from bayesft.drift.faults.quantise import power_of_two, power_of_two_grid
from bayesft.drift.faults.registry import FAULT_MODELS, fault_model, register
from bayesft.seeds import derive_seed

FEATURE_FAULTS: dict[str, type["FeatureFault"]] = {}  # by name, as FAULT_MODELS


def any_fault(name: str, settings: Mapping[str, Any] | None = None) -> "FaultModel | FeatureFault":
    """The fault `name`, of weights or of activations, with `settings`.

    Raises:
        ValueError: as `fault_model`.
    """
    return fault_model(name, settings, {**FAULT_MODELS, **FEATURE_FAULTS})


class FeatureFault(CheckedFault):
    """A fault of activations to start from: it checks the arguments, then calls `faulty`, the formula."""

    def corrupt(self, y: Tensor, level: float, generator: torch.Generator, fan_in: int) -> Tensor:
        """The faulty copy of an activation.

        Args:
            y: the activation, (B, C, H, W) or (B, F); real floating-point numbers.
            level: the fault level, in the unit of `traits`.
            generator: the source of all randomness, on the device of `y`.
            fan_in: how many products are summed for one number of `y`.

        Returns:
            A new tensor with the shape, dtype, device and memory format of `y`.

        Raises:
            ValueError: the level is negative, not finite or above `traits.maximum`, or `y` is not floating-point.
        """
        faulty = self._checked(y, level, lambda wide: self.faulty(wide, level, generator, fan_in))
        return torch.empty_like(y).copy_(faulty) if faulty.stride() != y.stride() else faulty

    def faulty(self, y: Tensor, level: float, generator: torch.Generator, fan_in: int) -> Tensor:
        """The formula. `y` is float32 or float64 and not empty; the level is allowed; the result is new."""
        raise NotImplementedError(f"{type(self).__name__} needs a method faulty(y, level, generator, fan_in)")


@register("mibb", FEATURE_FAULTS)
class MiBB(FeatureFault):
    """Bit flips of a multiplier (MAC-i.i.d. bit-bias). At level 0 the activations are quantised.

    The gradient is 1, and 0 where the clamp cuts.

    Args:
        bits: the number of bits b of the activations.

    Device: a digital accelerator whose multiply-accumulate units make soft errors.

    Formula: y′ = clamp(q(y) ± m·2^j·s, −R, R), q as `quantise` by powers of two over the whole batch with range R and
    step s; m ~ Bernoulli(1 − (1 − p_m)^n), n the fan-in; both signs are equally likely; j is uniform in 0 … b − 1

    Source: Ning et al., arXiv 2003.10375
    """

    bits: Annotated[int, Field(ge=2, le=16)] = 8

    traits: ClassVar[Traits] = Traits(
        "share of faulty multiply-accumulates", "p_m", grid=(0.0, 1e-6, 1e-5, 3e-5, 1e-4, 3e-4), maximum=1.0
    )

    def faulty(self, y: Tensor, level: float, generator: torch.Generator, fan_in: int) -> Tensor:
        hit = uniform(y, generator) < strike_rate(level, fan_in)
        kind = torch.randint(2 * self.bits, y.shape, generator=generator, device=y.device)
        steps = (1 - 2 * (kind % 2)) * 2 ** (kind // 2)
        return with_biased_bits(y, steps * hit, self.bits)


def strike_rate(level: float, fan_in: int) -> float:
    """The probability that at least one of `fan_in` multiply-accumulates is faulty: 1 − (1 − p_m)^n."""
    return -math.expm1(fan_in * math.log1p(-level)) if level < 1 else 1.0


def with_biased_bits(y: Tensor, steps: Tensor, bits: int) -> Tensor:
    """`y` in fixed-point numbers of so many bits, with `steps` steps added to each, cut at the range."""
    peak = largest(y)
    end, step = power_of_two_grid(peak, bits)
    value = power_of_two(y.detach(), peak, bits) + steps * step
    return torch.where(value.abs() > end, value.clamp(-end, end), straight_through(value, y))


@register("gaussian_feature", FEATURE_FAULTS)
class GaussianFeature(FeatureFault):
    """Gaussian noise of one size for all numbers of a batch's activation.

    Device: analog computation with noisy sums.

    Formula: y′ = y + σ·max|y|·z, z ~ N(0, 1)

    Source: the mode `gaussian` of aw_nas, where σ is absolute
    """

    traits: ClassVar[Traits] = Traits(
        "standard deviation as a share of max|y|", "σ", grid=(0.0, 0.02, 0.05, 0.1, 0.15, 0.2), identity_at_zero=True
    )

    def faulty(self, y: Tensor, level: float, generator: torch.Generator, fan_in: int) -> Tensor:
        return y + level * largest(y) * normal(y, generator)


class Place(NamedTuple):
    """Where a feature fault strikes: the module, its name, and the fan-in of the convolution."""

    name: str
    module: nn.Module
    fan_in: int


def places(model: nn.Module) -> list[Place]:
    """Where feature faults strike: each `Conv2d`, or the batch normalisation after it.

    The latter is a `BatchNorm2d` that is the next child of the same module and has as many features.
    """
    names = {module: name for name, module in model.named_modules()}
    following = {
        child: after for parent in names for child, after in pairwise(parent._modules.values()) if child is not None
    }
    found = []
    for conv in names:
        if isinstance(conv, nn.Conv2d):
            module: nn.Module = conv
            norm = following.get(conv)
            if isinstance(norm, nn.BatchNorm2d) and norm.num_features == conv.out_channels:
                module = norm
            found.append(Place(names[module], module, conv.weight[0].numel()))
    return found


def check_places(model: nn.Module) -> None:
    """Raise ValueError where a feature fault would strike nothing."""
    if not places(model):
        raise ValueError(f"{type(model).__name__} has no Conv2d: a feature fault would strike nothing")


class NotStruck(ValueError):
    """No place of a feature fault was called, so the fault acted nowhere."""


@contextmanager
def struck(
    model: nn.Module, fault: FaultModel | FeatureFault, level: float, key: tuple[Any, ...], draw: int, batch: int = 0
) -> Iterator[nn.Module]:
    """`model` with a feature fault in each of its `places`, until the end of the `with` block.

    A fault of weights is in the weights already, so nothing is done for it.

    Each draw is keyed by (key, draw, module name, number of the batch, number of the call in it). A batch is a call of
    `model`, counted from the start of the block, so equal blocks over the same batches meet the same faults. Other
    hooks of a module see its faulty output.

    Args:
        model: the network. No hook is left in it afterwards, also after an error.
        fault: what happens to an activation, or to a parameter.
        level: the fault level.
        key: names the draws.
        draw: the number of the draw.
        batch: the number of the first batch.

    Raises:
        ValueError: the level is not allowed, or `model` has no `Conv2d`.
        NotStruck: on leaving without an error, where none of the places was called. A ValueError, too.
    """
    if not isinstance(fault, FeatureFault):
        yield model
        return
    fault.check_level(level)
    check_places(model)
    batch -= 1
    calls: dict[str, int] = {}
    acted = False

    def begin(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal batch
        batch += 1
        calls.clear()

    def hook(place: Place) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def corrupt(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            nonlocal acted
            acted = True
            call = calls[place.name] = calls.get(place.name, -1) + 1
            seed = derive_seed(*key, draw, place.name, batch, call)
            generator = torch.Generator(output.device).manual_seed(seed)
            return fault.corrupt(output, level, generator, place.fan_in)

        return corrupt

    handles = [model.register_forward_pre_hook(begin)]
    try:
        found = places(model)
        handles += [place.module.register_forward_hook(hook(place), prepend=True) for place in found]
        yield model
        if not acted:
            names = ", ".join(repr(place.name) for place in found[:5]) + (", ..." if len(found) > 5 else "")
            raise NotStruck(
                f"{fault} struck nothing: none of the modules {names} was called. A compiled network calls none, nor "
                "does one that computes with the weights of its convolutions alone"
            )
    finally:
        for handle in handles:
            handle.remove()
