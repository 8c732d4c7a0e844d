"""The operations of an architecture search: what may stand on an edge of a cell.

To add one, register a function that takes the arguments of `none` and gives a module from maps to maps:

    @operation("conv7")
    def conv7(channels, stride, norm):
        return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 7, stride, 3, bias=False), norm(channels))
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]
Operation = Callable[[int, int, Norm], nn.Module]
OPERATIONS: dict[str, Operation] = {}


def operation(name: str) -> Callable[[Operation], Operation]:
    """A decorator that enters a function into `OPERATIONS`.

    Raises:
        ValueError: The name is taken, or has more than letters, digits and _.
    """

    def enter(function: Operation) -> Operation:
        if not name.replace("_", "").isalnum():
            raise ValueError(f"operation {name!r}: a name has letters, digits and _ alone")
        known = OPERATIONS.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            raise ValueError(f"operation {name!r}: the name is taken")
        OPERATIONS[name] = function
        return function

    return enter


def conv_norm(inputs: int, outputs: int, size: int, norm: Norm, stride: int = 1) -> nn.Sequential:
    """ReLU, a convolution that keeps the size at stride 1, and a normalisation.

    Args:
        inputs: The channels of the input.
        outputs: The channels of the output.
        size: The side of the kernel, odd, in pixels.
        norm: Makes the normalisation of so many channels.
        stride: The stride of the convolution.

    Returns:
        The three modules in a row.
    """
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, norm(outputs))


def _separable(channels: int, size: int, stride: int, dilation: int, norm: Norm) -> list[nn.Module]:
    padding = dilation * (size // 2)
    depthwise = nn.Conv2d(channels, channels, size, stride, padding, dilation, groups=channels, bias=False)
    return [nn.ReLU(), depthwise, nn.Conv2d(channels, channels, 1, bias=False), norm(channels)]


class Zero(nn.Module):
    """Zeros, of the size that a stride leaves."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., :: self.stride, :: self.stride])


class Halved(nn.Module):
    """Maps of half the size: two strided 1 × 1 convolutions, the second on maps that are shifted by one pixel."""

    def __init__(self, channels: int, norm: Norm):
        super().__init__()
        self.even = nn.Conv2d(channels, channels // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(channels, channels - channels // 2, 1, 2, bias=False)
        self.norm = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        return self.norm(torch.cat([self.even(x), self.odd(x[..., 1:, 1:])], 1))


@operation("none")
def none(channels: int, stride: int, norm: Norm) -> nn.Module:
    """Zeros.

    Args:
        channels: The channels of the input (B, channels, H, W), and of the output.
        stride: 1, or 2 to halve the size.
        norm: Makes the normalisation of so many channels.

    Returns:
        A module from maps to maps.
    """
    return Zero(stride)


@operation("skip")
def skip(channels: int, stride: int, norm: Norm) -> nn.Module:
    """The identity; at stride 2, `Halved`.

    Args:
        channels, stride, norm: As for `none`.

    Returns:
        A module from maps to maps.
    """
    return nn.Identity() if stride == 1 else Halved(channels, norm)


def _pool(pool: nn.Module, channels: int, norm: Norm) -> nn.Module:
    """A pool. In a shared network, whose normalisations have no parameters, one follows it."""
    after = norm(channels)
    return pool if getattr(after, "affine", True) else nn.Sequential(pool, after)


@operation("max3")
def max3(channels: int, stride: int, norm: Norm) -> nn.Module:
    """The maximum of 3 × 3 pixels.

    Args:
        channels, stride, norm: As for `none`.

    Returns:
        A module from maps to maps.
    """
    return _pool(nn.MaxPool2d(3, stride, 1), channels, norm)


@operation("avg3")
def avg3(channels: int, stride: int, norm: Norm) -> nn.Module:
    """The mean of 3 × 3 pixels, of those inside alone.

    Args:
        channels, stride, norm: As for `none`.

    Returns:
        A module from maps to maps.
    """
    return _pool(nn.AvgPool2d(3, stride, 1, count_include_pad=False), channels, norm)


def separable(channels: int, stride: int, norm: Norm, size: int) -> nn.Module:
    """Twice: ReLU, a depthwise convolution, a 1 × 1 convolution, a normalisation.

    Args:
        channels, stride, norm: As for `none`.
        size: The side of the kernel, odd, in pixels.

    Returns:
        A module from maps to maps.
    """
    first = _separable(channels, size, stride, 1, norm)
    return nn.Sequential(*first, *_separable(channels, size, 1, 1, norm))


def dilated(channels: int, stride: int, norm: Norm, size: int) -> nn.Module:
    """ReLU, a depthwise convolution of dilation 2, a 1 × 1 convolution, a normalisation.

    Args:
        channels, stride, norm: As for `none`.
        size: As for `separable`.

    Returns:
        A module from maps to maps.
    """
    return nn.Sequential(*_separable(channels, size, stride, 2, norm))


def plain(channels: int, stride: int, norm: Norm, size: int) -> nn.Module:
    """ReLU, a convolution, a normalisation.

    Args:
        channels, stride, norm: As for `none`.
        size: As for `separable`.

    Returns:
        A module from maps to maps.
    """
    return conv_norm(channels, channels, size, norm, stride)


@operation("conv1")
def conv1(channels: int, stride: int, norm: Norm) -> nn.Module:
    """A 1 × 1 convolution with bias, and nothing else.

    Args:
        channels, stride, norm: As for `none`.

    Returns:
        A module from maps to maps.
    """
    return nn.Conv2d(channels, channels, 1, stride)


for _size in (3, 5):
    OPERATIONS[f"sep{_size}"] = partial(separable, size=_size)
    OPERATIONS[f"dil{_size}"] = partial(dilated, size=_size)
    OPERATIONS[f"rcb{_size}"] = partial(plain, size=_size)

FEATURE_OPERATIONS = ("none", "max3", "avg3", "skip", "sep3", "sep5", "dil3", "dil5")  # searched under feature faults
WEIGHT_OPERATIONS = (*FEATURE_OPERATIONS, "rcb3", "rcb5", "conv1")  # searched under weight faults
