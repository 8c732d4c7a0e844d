"""How large a network is: parameters and multiply-accumulates."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bayesft.modes import eval_mode


@torch.no_grad()
def size(model: nn.Module, image: tuple[int, ...] = (3, 32, 32)) -> tuple[int, int]:
    """The parameters of a network, and its multiply-accumulates for one image.

    Args:
        model: The network. It is left as it was.
        image: The shape of an image.

    Returns:
        The number of parameters, and the number of multiply-accumulates of convolutions and linear layers alone.
    """
    count, kinds = 0, (nn.modules.conv._ConvNd, nn.Linear)

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal count
        assert isinstance(module, kinds)
        count += output.numel() * module.weight[0].numel()

    layers = [module for module in model.modules() if isinstance(module, kinds)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        with eval_mode(model):
            model(torch.zeros(1, *image, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return sum(theta.numel() for theta in model.parameters()), count


def matched(build: Callable[[int], nn.Module], target: float, image: tuple[int, ...] = (3, 32, 32)) -> int:
    """The width at which a network has most nearly `target` multiply-accumulates.

    Args:
        build: Makes the network of a width, from 1. It must grow with the width.
        target: The multiply-accumulates of one image.
        image: The shape of an image.

    Returns:
        The width.

    Raises:
        ValueError: `target` is not greater than 0.
    """
    if not target > 0:
        raise ValueError(f"target = {target}: must be greater than 0")

    def macs(width: int) -> int:
        return size(build(width), image)[1]

    low, high = 1, 2
    while macs(high) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if macs(middle) <= target else (low, middle)
    return min((low, high), key=lambda width: abs(macs(width) - target))
