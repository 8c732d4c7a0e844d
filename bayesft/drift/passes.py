"""One pass of a network under a fault of any kind, through which gradients reach the network's own parameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesft.drift.copies import learning_through, select
from bayesft.drift.faults import FaultModel
from bayesft.drift.features import FeatureFault, struck
from bayesft.drift.montecarlo import Copy, in_every_place
from bayesft.drift.scope import Where


@contextmanager
def under_fault(
    model: nn.Module, fault: FaultModel | FeatureFault, level: float, parameters: Where = "all"
) -> Iterator[None]:
    """`model` under a fault that is drawn anew, from the global generator, for a forward and a backward pass.

    Args:
        model: The network. It is as before on leaving, but for gradients: they are those of its own parameters.
        fault: What happens to a parameter or an activation.
        level: The fault level.
        parameters: Which parameters a fault of weights meets, as in `scoped`.
    """
    seed = int(torch.randint(2**62, ()))
    if isinstance(fault, FeatureFault):
        with struck(model, fault, level, (seed,), 0):
            yield
        return
    thetas = select(model, parameters)
    generator = torch.Generator(next(iter(thetas.values())).device).manual_seed(seed)
    with learning_through(thetas, lambda _, theta: fault.perturb(theta, level, generator)):
        yield


def risen(level: float, rise: float, progress: float) -> float:
    """The bound of the level in training: it grows from 0 to `level` over the first share `rise` of the training."""
    return level * (min(1.0, progress / rise) if rise else 1.0)


def faulty_outputs(
    model: nn.Module,
    x: Any,
    fault: FaultModel | FeatureFault,
    level: float,
    parameters: Where = "all",
    stored: Copy | None = None,
) -> Tensor:
    """The outputs of `model` under a fault that is drawn anew, from the global generator.

    Args:
        model: The network. It is left alone.
        x: A batch, or a tuple of several inputs.
        fault: What happens to a parameter or an activation.
        level: The fault level.
        parameters: Which parameters a fault of weights meets, as in `scoped`.
        stored: What the device stores for some parameters, by name: their quantised values, say. The fault meets
            these. All others are stored as they are.

    Returns:
        The outputs. Gradients go through `perturb`, or `corrupt`, and through `stored`.
    """
    stored = dict(stored or {})
    if isinstance(fault, FeatureFault):
        with under_fault(model, fault, level):
            return outputs_of(model, x, stored)
    thetas = select(model, parameters)
    device = next(iter(thetas.values())).device
    generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
    for name, theta in thetas.items():
        stored[name] = fault.perturb(stored.get(name, theta), level, generator)
    return outputs_of(model, x, stored)


def outputs_of(model: nn.Module, x: Any, values: Copy) -> Tensor:
    """The outputs of `model` with `values` in place of the parameters of those names."""
    if not values:
        return model(*x) if isinstance(x, tuple) else model(x)
    return functional_call(model, in_every_place(model, values), x, tie_weights=False)
