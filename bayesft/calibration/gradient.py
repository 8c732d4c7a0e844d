"""Training that expects calibration: every step's faulty copy is calibrated to the clean network, on the batch."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bayesft.calibration.layers import Dims, Layers, calibration_layers
from bayesft.calibration.moments import Batch, Moments, correcting, forward, moments_of, over_calls
from bayesft.drift.faults import FaultModel, check_trains
from bayesft.drift.passes import risen, under_fault
from bayesft.drift.scope import Where

Loss = Callable[[Tensor, Tensor], Tensor]
Gradient = Callable[[nn.Module, Loss, Batch, Tensor, float], Tensor]


def calibrated_gradient(
    fault: FaultModel, level: float, where: Where = "all", *, layers: Layers = "all", rise: float = 0.5
) -> Gradient:
    """A gradient for `fit`: that of the loss of a faulty copy, drawn anew at each step and calibrated on its batch.

    Args:
        fault: what the faulty copies suffer from. Their levels are uniform in [0, b], from the global generator.
        level: the largest b.
        where: which parameters are faulty, "all" or "weights".
        layers: which layers are calibrated, as `calibration_layers` takes them.
        rise: b rises to `level` over this share of the training, and stays there. 0: it is there from the start.

    Returns:
        The gradient, for batches of at least two examples. With dropout, the two passes have masks of their own.
        It raises ValueError for blocks that are computed again in the backward pass (gradient checkpointing).

    Raises:
        ValueError: the level is not allowed, or the fault has no gradient.
    """
    check_trains(fault, level)

    def gradient(model: nn.Module, loss: Loss, x: Batch, y: Tensor, progress: float = 1.0) -> Tensor:
        run = partial(forward, model, x)
        found = calibration_layers(model, layers)
        clean = clean_moments(model, found, run)
        faults = under_fault(model, fault, float(torch.rand(()) * risen(level, rise, progress)), where)
        return calibrated_backward(model, found, clean, lambda: loss(run(), y), faults)

    return gradient


def clean_moments(model: nn.Module, layers: Mapping[str, Dims], run: Callable[[], Any]) -> dict[str, list[Moments]]:
    """The moments of each layer while `run` runs the clean network, with their gradients."""
    return over_calls(moments_of(model, layers, run))


def calibrated_backward(
    model: nn.Module,
    layers: Mapping[str, Dims],
    clean: dict[str, list[Moments]],
    loss: Callable[[], Tensor],
    faults: AbstractContextManager[Any],
) -> Tensor:
    """Leave the gradient of the loss of a faulty copy that is calibrated to the clean network, on the same batch.

    The clean pass gave the mean and the deviation of each channel. The pass of the faulty copy is corrected to these,
    layer by layer, as `calibrate` does it. The gradient goes through both: with constant statistics the network would
    never learn its own scales. It goes through the faulty pass first, to the parameters and to the statistics, and,
    when the parameters are whole again, from the statistics through the clean pass.

    Args:
        model: the network.
        layers: which layers are calibrated, as `calibration_layers` finds them.
        clean: what `clean_moments` found on the batch.
        loss: runs the network and gives the loss, a scalar.
        faults: within it, the network is a faulty copy.

    Returns:
        The loss.
    """
    called = {name: dims for name, dims in layers.items() if name in clean}
    targets = {name: [moments.detached() for moments in calls] for name, calls in clean.items()}
    with faults, correcting(model, called, targets):
        value = loss()
        value.backward()
    found = [(tensor, constant.grad) for name, calls in clean.items()
             for one, other in zip(calls, targets[name], strict=True)
             for tensor, constant in zip(one[1:], other[1:], strict=True)]  # fmt: skip
    learning = [(tensor, grad) for tensor, grad in found if tensor.requires_grad and grad is not None]
    if learning:
        torch.autograd.backward([tensor for tensor, _ in learning], [grad for _, grad in learning])
    return value.detach()
