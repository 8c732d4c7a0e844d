"""Adversarial weight perturbation (Wu, Xia and Wang, NeurIPS 2020), on the weights only.

Each step climbs from w to w + γ‖w‖ · g/‖g‖, tensor by tensor, where g is the gradient of the loss; takes the loss
gradient there; restores w exactly; and steps. As published, the method also attacks the inputs; here inputs are
clean, so a gain can be put down to the weights. (The code published with BayesFT never removes the perturbation.)
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesft.training.loop import Loss
from bayesft.training.trained import Problem, Trained
from bayesft.training.tunable import Dimension, Tunable
from bayesft.training.tunable import train as train_under


def awp_gradient(gamma: float):
    """A gradient for `fit`: that of the loss at the perturbed weights. Tensors of fewer than two dimensions stay."""

    def gradient(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, progress: float = 0.0) -> Tensor:
        weights = [w for w in model.parameters() if w.dim() >= 2]
        # The climb's forward pass is no step of training: it moves the running statistics of copies.
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        ascent = torch.autograd.grad(loss(functional_call(model, buffers, (x,)), y), weights)
        kept = [w.detach().clone() for w in weights]
        with torch.no_grad():
            for w, g in zip(weights, ascent, strict=True):
                w.add_(g * (gamma * w.norm() / g.norm().clamp_min(1e-12)))
        value = loss(model(x), y)
        value.backward()
        with torch.no_grad():
            for w, original in zip(weights, kept, strict=True):
                w.copy_(original)  # not a subtraction, which would leave a rounding error at every step
        return value.detach()

    return gradient


def tunable() -> Tunable:
    """γ, from a tenth of the published 0.01 to thirty times it."""
    return Tunable(
        (Dimension("gamma", 0.001, 0.3, log=True),),
        lambda _, values: nullcontext(awp_gradient(*values)),
        lambda values: {"gamma": values[0]},
    )


def train(problem: Problem, gamma: float) -> Trained:
    """Train with the recipe under perturbations of relative size `gamma`."""
    return train_under(problem, tunable(), (gamma,), "awp")
