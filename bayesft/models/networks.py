"""The networks, as the literature defines them. A network is named by a specification that a file can hold."""

from collections.abc import Callable

import torch
from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
}
NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
    "group": lambda width: nn.GroupNorm(8, width),
}
DROPOUTS: dict[str, Callable[[float], nn.Module]] = {"dropout": nn.Dropout, "alpha": nn.AlphaDropout}


def mlp(
    outputs: int = 10,
    inputs: int = 784,
    hidden: tuple[int, ...] = (192, 32),
    activation: str = "relu",
    normalization: str | None = None,
    dropout: tuple[str, float] | None = None,
) -> nn.Sequential:
    """A multi-layer perceptron: each hidden layer is linear, normalisation, activation, dropout, of which the last
    two of the three may be missing. The logits carry none. The defaults are the paper's MLP, 784-192-32-10."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in hidden:
        layers.append(nn.Linear(inputs, width))
        if normalization:
            layers.append(NORMALIZATIONS[normalization](width))
        layers.append(ACTIVATIONS[activation]())
        if dropout:
            layers.append(DROPOUTS[dropout[0]](dropout[1]))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def lenet5(outputs: int = 10, channels: int = 1) -> nn.Sequential:
    """LeNet-5 for 28 × 28 images (LeCun et al., 1998): 6@5, pool, 16@5, pool, 120@4, 84, outputs; ReLU, max-pool.

    ReLU follows the pool, where it has a quarter of the work: the maximum of rectified values is the rectified
    maximum.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(6, 16, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(16, 120, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, outputs),
    )


NETWORKS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "lenet5": lenet5}


def build(specification: dict, seed: int | None = None) -> nn.Module:
    """The network that `specification` names: its "network", and that function's arguments.

    With a seed, PyTorch's default initialisation is drawn from it, without touching the global generator.
    """
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in specification.items() if k != "network"}
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        model = NETWORKS[specification["network"]](**arguments)
    return model.to(memory_format=torch.channels_last)  # faster convolutions; other weights are not affected
