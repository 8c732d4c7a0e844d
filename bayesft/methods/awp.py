"""Adversarial weight perturbation (Wu, Xia and Wang, NeurIPS 2020), on the weights only.

Each step climbs from w to w + γ‖w‖ · g/‖g‖, tensor by tensor, where g is the gradient of the loss; takes the loss
gradient there; restores w exactly; and steps. As published, the method also attacks the inputs; here inputs are
clean, so a gain can be put down to the weights. (The code published with BayesFT never removes the perturbation.)
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.func import functional_call

from bayesft.methods.method import Hyperparameter, Look, Method
from bayesft.training import Gradient, Loss, Problem, plain_gradient


def awp_gradient(gamma: float) -> Gradient:
    """The gradient of the loss at the perturbed weights. Tensors of fewer than two dimensions are not perturbed.

    Args:
        gamma: The size of the perturbation of a tensor, relative to its norm.

    Returns:
        A gradient for `fit`.
    """

    def gradient(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, progress: float = 0.0) -> Tensor:
        weights = [w for w in model.parameters() if w.dim() >= 2]
        # The climb's forward pass is no step of training: it moves the running statistics of copies.
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        ascent = torch.autograd.grad(loss(functional_call(model, buffers, x), y), weights)
        kept = [w.detach().clone() for w in weights]
        with torch.no_grad():
            for w, g in zip(weights, ascent, strict=True):
                w.add_(g * (gamma * w.norm() / g.norm().clamp_min(1e-12)))
        value = plain_gradient(model, loss, x, y)
        with torch.no_grad():
            for w, original in zip(weights, kept, strict=True):
                w.copy_(original)  # not a subtraction, which would leave a rounding error at every step
        return value

    return gradient


class Awp(Method):
    """Training at adversarially perturbed weights."""

    title = "AWP (weights only)"
    look = Look("#029e73", "-.", "^")
    passes = 2

    class Settings(Method.Settings):
        """gamma: the relative size of the perturbation; 0.01 is the published value."""

        gamma: PositiveFloat = 0.01

    def hyperparameters(self, problem: Problem) -> tuple[Hyperparameter, ...]:
        """γ, from a tenth of the published value to thirty times it."""
        return (Hyperparameter("gamma", 0.001, 0.3, log=True),)

    def gradient(self, problem: Problem, values: Mapping[str, Any]) -> Gradient:
        """The gradient at the perturbed weights."""
        return awp_gradient(values["gamma"])


METHOD = Awp()
