"""The parts: widths, normalisations, the initialisation."""

import math

import pytest
import torch
from torch import nn

from bayesft.models.parts import MAP_NORMALIZATIONS, NORMALIZATIONS, convolution, he_normal, normalize, scaled


@pytest.mark.parametrize(
    ("base", "width", "channels"), [(64, 1.0, 64), (64, 1 / 16, 4), (6, 0.25, 2), (6, 1 / 16, 1), (100, 0.125, 12)]
)
def test_a_width_multiplies_and_leaves_at_least_one(base, width, channels):
    assert scaled(base, width) == channels


def test_no_normalisation_is_no_module():
    assert normalize(None, 8) == normalize(None, 8, maps=False) == []


@pytest.mark.parametrize("maps", [True, False])
def test_unknown_normalisations_are_refused(maps):
    with pytest.raises(KeyError, match="bacth"):
        normalize("bacth", 8, maps)
    with pytest.raises(KeyError, match="instance"):  # undefined for features, where there is no map to average over
        normalize("instance", 8, maps=False)


@pytest.mark.parametrize(
    ("name", "over"), [("batch", (0, 2, 3)), ("layer", (1, 2, 3)), ("instance", (2, 3)), ("group", None)]
)
def test_what_each_normalisation_of_maps_averages_over(name, over):
    x = torch.randn(6, 16, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    output = MAP_NORMALIZATIONS[name](16).train()(x)
    if name == "group":  # 8 groups of two channels
        output, over = output.view(6, 8, 2, 5, 5), (2, 3, 4)
    mean = output.mean(over)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.var(over, correction=0), torch.ones_like(mean), atol=1e-3, rtol=0)


@pytest.mark.parametrize("normalizations", [NORMALIZATIONS, MAP_NORMALIZATIONS])
@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (8, 8), (12, 4), (3, 1)])
def test_a_narrow_network_has_as_many_groups_as_divide_its_channels(normalizations, channels, groups):
    assert normalizations["group"](channels).num_groups == groups


@pytest.mark.parametrize("name", MAP_NORMALIZATIONS)
def test_every_normalisation_of_maps_has_a_scale_and_a_shift(name):
    norm = MAP_NORMALIZATIONS[name](16)
    assert norm.weight.shape == norm.bias.shape == (16,)


@pytest.mark.parametrize("size", [1, 3])
def test_a_convolution_has_a_bias_only_without_normalisation(size):
    assert convolution(3, 4, size, "batch").bias is None
    assert convolution(3, 4, size, None).bias is not None
    assert convolution(3, 4, size, None)(torch.zeros(1, 3, 8, 8)).shape == (1, 4, 8, 8)


def test_he_normal_draws_hidden_layers_and_leaves_the_logits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 10))
    logits = model[-1].weight.clone()
    he_normal(model)
    for layer, fan in ((model[0], 64 * 9), (model[2], 400)):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan), rel=0.03)
        assert not layer.bias.any()
    assert torch.equal(model[-1].weight, logits)
