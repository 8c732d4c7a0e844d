"""The plain sequences of layers: the order of their modules, their sizes."""

import math

import pytest
import torch
from torch import nn

from bayesft.models import build
from bayesft.models.parts import MAP_NORMALIZATIONS
from bayesft.tasks import ABLATIONS


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model]


def layers(model: nn.Module) -> list[tuple[int, int]]:
    """Outputs and inputs of each layer with weights."""
    return [tuple(module.weight.shape[:2]) for module in model if isinstance(module, (nn.Conv2d, nn.Linear))]


def test_lenet_takes_colour_images():
    model = build({"network": "lenet5", "channels": 3})
    assert model(torch.zeros(2, 3, 28, 28)).shape == (2, 10)
    assert sum(theta.numel() for theta in model.parameters()) == 44_426 + 2 * 6 * 25


@pytest.mark.parametrize(
    ("changes", "hidden"),
    [
        ({}, ["Linear", "ReLU"]),
        ({"activation": "elu"}, ["Linear", "ELU"]),
        ({"activation": "gelu"}, ["Linear", "GELU"]),
        ({"activation": "leaky_relu"}, ["Linear", "LeakyReLU"]),
        ({"normalization": "batch"}, ["Linear", "BatchNorm1d", "ReLU"]),
        ({"normalization": "layer"}, ["Linear", "LayerNorm", "ReLU"]),
        ({"normalization": "group"}, ["Linear", "GroupNorm", "ReLU"]),
        ({"dropout": ("dropout", 0.2)}, ["Linear", "ReLU", "Dropout"]),
        ({"dropout": ("alpha", 0.2)}, ["Linear", "ReLU", "AlphaDropout"]),
        (
            {"normalization": "batch", "activation": "elu", "dropout": ("alpha", 0.2)},
            ["Linear", "BatchNorm1d", "ELU", "AlphaDropout"],
        ),
    ],
    ids=str,
)
def test_each_hidden_layer_of_an_mlp_has_its_modules_in_order_and_the_logits_none(changes, hidden):
    model = build({"network": "mlp", "hidden": (16, 8, 24), **changes})
    assert kinds(model) == ["Flatten", *hidden * 3, "Linear"]
    assert layers(model) == [(16, 784), (8, 16), (24, 8), (10, 24)]


def test_normalisations_and_dropouts_get_the_width_and_the_rate():
    def second(**changes) -> nn.Module:
        return build({"network": "mlp", "hidden": (16,), **changes})[2]

    assert second(normalization="batch").num_features == 16
    assert second(normalization="layer").normalized_shape == (16,)
    group = second(normalization="group")
    assert (group.num_groups, group.num_channels) == (8, 16)
    for kind in ("dropout", "alpha"):
        assert build({"network": "mlp", "hidden": (16,), "dropout": (kind, 0.3)})[3].p == 0.3


def test_an_mlp_without_hidden_layers_is_linear():
    assert kinds(build({"network": "mlp", "hidden": ()})) == ["Flatten", "Linear"]


def test_a_width_scales_hidden_layers_alone():
    assert layers(build({"network": "mlp", "width": 0.25})) == [(48, 784), (8, 48), (10, 8)]
    assert layers(build({"network": "lenet5", "width": 0.5})) == [(3, 1), (8, 3), (60, 8), (42, 60), (10, 42)]


def test_the_layers_of_alexnet():
    with torch.device("meta"):
        model = build({"network": "alexnet"})
    convolutions = [(64, 3), (192, 64), (384, 192), (256, 384), (256, 256)]
    assert layers(model) == [*convolutions, (4096, 1024), (4096, 4096), (10, 4096)]
    assert {module.kernel_size for module in model if isinstance(module, nn.Conv2d)} == {(3, 3)}
    assert not any("Dropout" in kind for kind in kinds(model))


def test_vgg_is_vgg_11_with_batch_norm():
    from torchvision.models import vgg11_bn

    with torch.device("meta"):
        expected = vgg11_bn(init_weights=False).features
        assert str(build({"network": "vgg"})[: len(expected)]) == str(expected).replace("inplace=True", "")


VGG = {"network": "vgg", "stages": ((16,), (8, 24)), "hidden": (12, 8)}


@pytest.mark.parametrize(
    ("changes", "convolution", "hidden"),
    [
        ({"normalization": None}, ["ReLU"], ["ReLU"]),
        ({"normalization": "batch"}, ["BatchNorm2d", "ReLU"], ["ReLU"]),
        ({"normalization": "layer"}, ["GroupNorm", "ReLU"], ["ReLU"]),
        ({"normalization": "group"}, ["GroupNorm", "ReLU"], ["ReLU"]),
        ({"normalization": "instance"}, ["InstanceNorm2d", "ReLU"], ["ReLU"]),
        ({"dropout": ("dropout", 0.2)}, ["BatchNorm2d", "ReLU", "Dropout"], ["ReLU", "Dropout"]),
        (
            {"normalization": None, "dropout": ("alpha", 0.2), "activation": "elu"},
            ["ELU", "AlphaDropout"],
            ["ELU", "AlphaDropout"],
        ),
    ],
    ids=str,
)
def test_the_modules_of_a_vgg_in_order(changes, convolution, hidden):
    model = build({**VGG, **changes})
    stages = ["Conv2d", *convolution, "MaxPool2d", *["Conv2d", *convolution] * 2, "MaxPool2d"]
    assert kinds(model) == [*stages, "AdaptiveAvgPool2d", "Flatten", *["Linear", *hidden] * 2, "Linear"]
    assert layers(model) == [(16, 3), (8, 16), (24, 8), (12, 24), (8, 12), (10, 8)]


def test_the_ablation_networks_have_the_layers_that_their_names_say():
    for name, specification in ABLATIONS["cifar10"].factors["depth"].variants.items():
        assert len(layers(build({**specification, "width": 1 / 16}))) == int(name.split()[0])


def test_hidden_layers_start_as_he_et_al_and_the_logits_as_the_default():
    for network in ("alexnet", "vgg"):
        model = build({"network": network, "width": 0.25}, 0)
        *hidden, logits = [module for module in model if isinstance(module, (nn.Conv2d, nn.Linear))]
        for layer in hidden[1:]:
            fan = layer.out_channels * 9 if isinstance(layer, nn.Conv2d) else layer.in_features
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.05)
            assert not layer.bias.any()
        assert logits.weight.abs().max() <= logits.in_features**-0.5


@pytest.mark.parametrize("normalization", MAP_NORMALIZATIONS)
def test_every_normalisation_trains_on_the_smallest_maps(normalization):
    model = build({"network": "vgg", "normalization": normalization, "width": 1 / 16}, 0).train()
    loss = model(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).square().sum()
    loss.backward()
    assert all(theta.grad.isfinite().all() for theta in model.parameters())
