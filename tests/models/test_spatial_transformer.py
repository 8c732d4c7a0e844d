"""The spatial transformer: its layers, its start at the identity, the warp."""

import pytest
import torch
from torch import nn

from bayesft.models import build


def network(**changes) -> nn.Module:
    return build({"network": "spatial_transformer", "outputs": 43, "width": 1 / 8, **changes}, 0).eval()


def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_its_layers_are_the_authors():
    with torch.device("meta"):
        model = build({"network": "spatial_transformer", "outputs": 43})
        layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    shapes = [tuple(layer.weight.shape) for layer in layers]
    assert shapes == [
        (50, 3, 7, 7), (100, 50, 5, 5), (100, 1600), (6, 100),
        (100, 3, 5, 5), (150, 100, 3, 3), (250, 150, 1, 1), (350, 2250), (43, 350),
    ]  # fmt: skip
    norms = [module.num_features for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms == [100, 150, 250, 350]


def test_it_starts_at_the_identity():
    with torch.no_grad():
        torch.testing.assert_close(network()[0](images()), images())


def test_it_warps_as_its_localisation_says():
    transformer = network()[0]
    with torch.no_grad():
        transformer.localization[-1].bias.copy_(torch.tensor([-1.0, 0, 0, 0, 1, 0]))
        torch.testing.assert_close(transformer(images()), images().flip(3))  # x mirrored


@pytest.mark.parametrize("normalization", ["batch", None])
def test_the_localisation_learns(normalization):
    model = network(normalization=normalization).train()
    nn.functional.cross_entropy(model(images()), torch.arange(3)).backward()
    assert model[0].localization[-1].weight.grad.any()
    assert model[0].localization[-1].bias.grad.any()
