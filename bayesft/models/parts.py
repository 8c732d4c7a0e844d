"""What the networks are made of: activations, normalisations and dropouts by name, widths, an initialisation."""

import math
from collections.abc import Callable
from typing import Literal, TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
}
DROPOUTS: dict[str, Callable[[float], nn.Module]] = {"dropout": nn.Dropout, "alpha": nn.AlphaDropout}


def _group_norm(channels: int) -> nn.GroupNorm:
    """8 groups, or as many of them as divide the channels of a network that was made narrow."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


# For features (B, C), and for feature maps (B, C, H, W).
NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "group": _group_norm,
}
MAP_NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "group": _group_norm,
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
}


def scaled(base: int, width: float) -> int:
    """`base` units or channels in a network of relative width `width`, at least one."""
    return max(1, round(base * width))


def normalize(name: str | None, channels: int, maps: bool = True) -> list[nn.Module]:
    """A normalisation by name, as a list of one module; the list is empty for None.

    Args:
        name: One of MAP_NORMALIZATIONS or NORMALIZATIONS, or None.
        channels: The number of channels or features.
        maps: Whether it is of feature maps (B, C, H, W), or else of features (B, C).

    Returns:
        The list.
    """
    return [] if name is None else [(MAP_NORMALIZATIONS if maps else NORMALIZATIONS)[name](channels)]


def convolution(inputs: int, outputs: int, size: int, normalization: str | None, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size of the maps at stride 1.

    Args:
        inputs: The channels of the input.
        outputs: The channels of the output.
        size: The side of the kernel, odd, in pixels.
        normalization: The name of the normalisation that follows. The convolution has a bias where none does.
        stride: The stride.

    Returns:
        The convolution.
    """
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=normalization is None)


def he_normal(model: Network) -> Network:
    """Draw the weights of convolutions (fan out) and hidden linear layers (fan in) as He et al. (2015); biases are 0.

    The last layer, which gives the logits, keeps PyTorch's default.
    """
    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for layer in layers[:-1]:
        mode: Literal["fan_out", "fan_in"] = "fan_out" if isinstance(layer, nn.Conv2d) else "fan_in"
        nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model
