"""The networks of the study by name. A network is named by a specification that a file can hold."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bayesft.memory_format import memory_format
from bayesft.models.cells import cell_network
from bayesft.models.feedforward import alexnet, lenet5, mlp, vgg
from bayesft.models.residual import preact_resnet, resnet18
from bayesft.models.resnet20 import mobilenet_v2, resnet20
from bayesft.models.spatial_transformer import spatial_transformer

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet5": lenet5,
    "alexnet": alexnet,
    "resnet18": resnet18,
    "vgg": vgg,
    "preact_resnet": preact_resnet,
    "spatial_transformer": spatial_transformer,
    "resnet20": resnet20,
    "mobilenet_v2": mobilenet_v2,
    "cell_network": cell_network,
}


BACKBONES = ("slim", "resnet18", "resnet50")  # of the detector, whose module is slow to import


def build(specification: dict[str, Any], seed: int | None = None) -> nn.Module:
    """The network that `specification` names: its "network", and that function's arguments.

    With a seed, the initialisation is drawn from it, without touching the global generator.
    """
    arguments = {k: _tuples(v) for k, v in specification.items() if k != "network"}
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        model = NETWORKS[specification["network"]](**arguments)
    return model.to(memory_format=memory_format(model))  # concerns the weights of convolutions alone


def _tuples(value: Any) -> Any:
    """Tuples for the lists that a file turned them into, inner ones too."""
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value
