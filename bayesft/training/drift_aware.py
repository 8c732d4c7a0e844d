"""Drift-aware training: each step's loss is taken under a fresh drift, its level uniform in [0, σ_train].

Noise-injection training is what the analog-hardware community does (Joshi et al., Nature Communications 2020, for
phase-change memory); the paper does not compare with it, and a reader will ask for it. The gradient reaches θ
through θ′ = θ · e^λ.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesft.drift.faults import FaultModel
from bayesft.drift.montecarlo import drifting, in_every_place
from bayesft.training.loop import Gradient, Loss
from bayesft.training.trained import Problem, Trained
from bayesft.training.tunable import Dimension, Tunable
from bayesft.training.tunable import train as train_under


def drifted_copy(model: nn.Module, fault: FaultModel, sigma_train: float, parameters: str) -> dict[str, Tensor]:
    """The parameters of a drifted copy for `functional_call` without tying: level and drift are new at each call.

    Both come from the global generator. Gradients reach the parameters of `model` through the copy.
    """
    sigma = float(torch.rand(()) * sigma_train)
    thetas = drifting(model, parameters)
    device = next(iter(thetas.values())).device
    generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
    return in_every_place(model, {name: fault.perturb(theta, sigma, generator) for name, theta in thetas.items()})


def drift_gradient(fault: FaultModel, sigma_train: float, parameters: str, rise: float = 0.0) -> Gradient:
    """A gradient for `fit`: that of the loss of one drifted copy, drawn anew at each step.

    Its level is uniform up to σ_train; over the first share `rise` of the training, up to a bound that grows to it.
    A network of several inputs gets them as a tuple.
    """

    def gradient(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, progress: float = 1.0) -> Tensor:
        copy = drifted_copy(model, fault, sigma_train * min(1.0, progress / rise) if rise else sigma_train, parameters)
        value = loss(functional_call(model, copy, x, tie_weights=False), y)
        value.backward()
        return value.detach()

    return gradient


SIGMA_TRAIN = Dimension("sigma_train", 0.05, 2.0)  # up to where the mean factor of a weight is seven


def tunable(fault: FaultModel, parameters: str) -> Tunable:
    """σ_train."""
    return Tunable(
        (SIGMA_TRAIN,),
        lambda _, values: nullcontext(drift_gradient(fault, *values, parameters)),
        lambda values: {"sigma_train": values[0]},
    )


def train(problem: Problem, fault: FaultModel, sigma_train: float, parameters: str) -> Trained:
    """Train with the recipe under drift up to `sigma_train`."""
    return train_under(problem, tunable(fault, parameters), (sigma_train,), "drift_aware")
