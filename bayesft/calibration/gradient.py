"""Training that expects calibration: every step's faulty copy is calibrated to the clean network, on the batch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesft.calibration.layers import Layers, calibration_layers
from bayesft.calibration.moments import Batch, arguments, correcting, measure
from bayesft.drift.faults import FaultModel
from bayesft.drift.montecarlo import drifting, in_every_place

Loss = Callable[[Tensor, Tensor], Tensor]
Gradient = Callable[[nn.Module, Loss, Batch, Tensor, float], Tensor]


def calibrated_gradient(
    fault: FaultModel, level: float, where: str = "all", *, layers: Layers = "all", rise: float = 0.5
) -> Gradient:
    """A gradient for `fit`: that of the loss of a faulty copy, drawn anew at each step and calibrated on its batch.

    Each step makes two passes of the batch. The clean pass gives the mean and the deviation of each channel. The pass
    of the faulty copy is corrected to these, layer by layer, as `calibrate` does it. The gradient goes through both:
    with constant statistics the network would never learn its own scales.

    Args:
        fault: what the faulty copies suffer from. Their levels are uniform in [0, b], from the global generator.
        level: the largest b.
        where: which parameters are faulty, "all" or "weights".
        layers: which layers are calibrated, as `calibration_layers` takes them.
        rise: b rises to `level` over this share of the training, and stays there. 0: it is there from the start.

    Returns:
        The gradient, for batches of at least two examples. With dropout, the two passes have masks of their own.
    """

    def gradient(model: nn.Module, loss: Loss, x: Batch, y: Tensor, progress: float = 1.0) -> Tensor:
        dims = calibration_layers(model, layers)
        clean = measure(model, dims, [x])
        bound = level * min(1.0, progress / rise) if rise else level
        copy = _faulty_copy(model, fault, float(torch.rand(()) * bound), where)
        with correcting(model, {name: dims[name] for name in clean}, clean):
            value = loss(functional_call(model, copy, *arguments(x), tie_weights=False), y)
        value.backward()
        return value.detach()

    return gradient


def _faulty_copy(model: nn.Module, fault: FaultModel, sigma: float, where: str) -> dict[str, Tensor]:
    """The parameters of a faulty copy, by name, through which gradients reach those of `model`."""
    thetas = drifting(model, where)
    device = next(iter(thetas.values())).device
    generator = torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))
    return in_every_place(model, {name: fault.perturb(theta, sigma, generator) for name, theta in thetas.items()})
