"""Fault-tolerant training (Ning et al., FTT-NAS, arXiv 2003.10375): each step's loss is that of two passes of a batch.

    L = (1 − α) · ℓ(without faults) + α · ℓ(under the fault, drawn anew)

It takes any fault, of weights or of activations. Weights may be quantised in both passes, with a straight-through
gradient: then the network that is trained is the one of whole steps that a device stores.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from bayesft.drift import FaultModel, FeatureFault, faulty_outputs
from bayesft.drift.faults import Quantise, check_trains, default_level, traits_of
from bayesft.drift.montecarlo import Copy
from bayesft.drift.passes import outputs_of
from bayesft.drift.scope import Where, scoped
from bayesft.methods.method import Hyperparameter, Look, Method
from bayesft.training import Gradient, Loss, Problem

LEVELS = (0.25, 2.0)  # of training, relative to the level that is tested: the range of a search

Share = Annotated[float, Field(ge=0, le=1)]
Bits = Annotated[int, Field(ge=0, le=16)]


def ftt_gradient(
    fault: FaultModel | FeatureFault, level: float, alpha: float, parameters: Where = "all", bits: int = 0
) -> Gradient:
    """The gradient of (1 − α) · ℓ(without faults) + α · ℓ(under the fault).

    Where α is 0 or 1 a step has one pass alone. Both passes move the running statistics of normalisations.

    Args:
        fault: The fault, of weights or of activations. It must have a gradient.
        level: The fault level.
        alpha: α, in [0, 1].
        parameters: Which parameters a fault of weights meets, as `scoped` takes them.
        bits: Quantise the weights to so many bits in both passes; 0 does not.

    Returns:
        A gradient for `fit`. The fault is drawn from the global generator.

    Raises:
        ValueError: α or the level is not allowed, or the fault has no gradient.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha = {alpha}: must be from 0 to 1")
    check_trains(fault, level)

    def gradient(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, progress: float = 1.0) -> Tensor:
        stored = quantised_weights(model, bits) if bits else {}
        parts = []
        if alpha < 1:
            clean = loss(outputs_of(model, x, stored), y)
            parts.append(clean if alpha == 0 else (1 - alpha) * clean)
        if alpha > 0:
            faulty = loss(faulty_outputs(model, x, fault, level, parameters, stored), y)
            parts.append(faulty if alpha == 1 else alpha * faulty)
        value = sum(parts[1:], parts[0])
        value.backward()
        return value.detach()

    return gradient


def quantised_weights(model: nn.Module, bits: int) -> Copy:
    """The weights of `model` (`scoped`: "weights") on a grid of powers of two, by name, with gradient 1."""
    quantise, unused = Quantise(bits=bits), torch.Generator()
    return {name: quantise.perturb(theta, 0.0, unused) for name, theta in scoped(model, "weights").items()}


@torch.no_grad()
def quantise_(model: nn.Module, bits: int) -> nn.Module:
    """Quantise the weights of `model` in place, as a device that stores them does, and return it."""
    for name, value in quantised_weights(model, bits).items():
        model.get_parameter(name).copy_(value)
    return model


class Ftt(Method):
    """Training on the loss without faults and that under the fault of the problem."""

    title = "fault-tolerant training"
    look = Look("#332288", "-", "d")
    passes = 2

    class Settings(Method.Settings):
        """Settings of fault-tolerant training. α and the level can be searched.

        Args:
            alpha: The share α of the loss under the fault.
            level: That of the fault in training, as a multiple of the level that networks are meant for.
            bits: Those of the weights in training, in both passes; 0 for no quantisation. They are given, never
                searched.
        """

        alpha: Share = 0.7
        level: PositiveFloat = 1.0
        bits: Bits = 0

    def hyperparameters(self, problem: Problem) -> tuple[Hyperparameter, ...]:
        """α, and the level from a quarter to twice the one that is tested."""
        return (Hyperparameter("alpha", 0.0, 1.0), Hyperparameter("level", *LEVELS, log=True))

    def gradient(self, problem: Problem, values: Mapping[str, Any]) -> Gradient:
        """The gradient of both passes."""
        meant = default_level(problem.fault) if problem.level is None else problem.level
        level = min(values["level"] * meant, traits_of(problem.fault).maximum)
        return ftt_gradient(problem.fault, level, values["alpha"], problem.parameters, values["bits"])


METHOD = Ftt()
