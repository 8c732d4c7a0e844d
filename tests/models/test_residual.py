"""The residual networks: their sizes, their blocks, that they start as shallow networks."""

import pytest
import torch
from torch import nn

from bayesft.models import build
from bayesft.models.residual import DEPTHS, PreActivationBlock

NETWORKS = [{"network": "resnet18"}, *({"network": "preact_resnet", "depth": depth} for depth in DEPTHS)]
SMALL = [{**specification, "width": 1 / 16} for specification in NETWORKS]


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("specification", "parameters"),
    list(zip(NETWORKS, [11_173_962, 11_172_170, 23_513_162, 58_148_938], strict=True)),
    ids=str,
)
def test_parameter_counts(specification, parameters):
    with torch.device("meta"):
        assert sum(theta.numel() for theta in build(specification).parameters()) == parameters


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_depth_counts_the_layers_of_the_longest_path(depth):
    model = build({"network": "preact_resnet", "depth": depth, "width": 1 / 64})
    shortcuts = sum(block.shortcut is not None for block in model.modules() if isinstance(block, PreActivationBlock))
    assert sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules()) == depth + shortcuts


def test_an_unknown_depth_is_refused_and_the_known_named():
    with pytest.raises(ValueError, match="depth = 34: must be one of 18, 50, 152"):
        build({"network": "preact_resnet", "depth": 34})


def test_resnet18_is_that_of_torchvision_with_another_stem():
    from torchvision.models import resnet18

    expected, model = resnet18(num_classes=10).eval(), build({"network": "resnet18"}, 0).eval()
    expected.conv1, expected.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    expected.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(images()), expected(images()))


@pytest.mark.parametrize("specification", SMALL, ids=str)
def test_the_stages_halve_the_maps_from_32_to_4(specification):
    model, sizes = build(specification).eval(), []
    for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
        model.get_submodule(name).register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[2:])))
    model(images())
    assert sizes == [(32, 32), (32, 32), (16, 16), (8, 8), (4, 4)]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("normalization", ["batch", None])
def test_pre_activation_leaves_the_identity_alone(depth, normalization):
    """With the branches at zero, a stage is the shortcut of its first block, whatever the sign of its input."""
    model = build({"network": "preact_resnet", "depth": depth, "width": 1 / 16, "normalization": normalization}, 0)
    first, *others = model.eval().layer2
    x = torch.randn(2, first.branch[0].in_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        given = first.shortcut(first.activation(x.clone()))
        assert torch.equal(first(x), given)
        assert (given < 0).any()
        for block in others:
            assert block.shortcut is None
            assert torch.equal(block(given.clone()), given)


@pytest.mark.parametrize("normalization", ["batch", None])
def test_the_branches_of_resnet18_start_at_zero(normalization):
    model = build({"network": "resnet18", "width": 1 / 16, "normalization": normalization}, 0).eval()
    x = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for block in model.layer1:
            assert torch.equal(block(x), x)


@pytest.mark.parametrize("specification", SMALL, ids=str)
@pytest.mark.parametrize("normalization", ["batch", "group", None])
def test_convolutions_have_a_bias_only_without_normalisation(specification, normalization):
    model = build({**specification, "normalization": normalization}, 0)
    biases = [module.bias for module in model.modules() if isinstance(module, nn.Conv2d)]
    if normalization:
        assert biases == [None] * len(biases)
    else:
        assert all(isinstance(bias, nn.Parameter) and not bias.any() for bias in biases)


@pytest.mark.parametrize("specification", SMALL, ids=str)
@pytest.mark.parametrize("normalization", ["batch", None])
def test_a_step_moves_the_zero_layers_and_a_second_moves_all(specification, normalization):
    model = build({**specification, "normalization": normalization}, 0).train()
    before = {name: theta.detach().clone() for name, theta in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images(8)), torch.arange(8)).backward()
        optimizer.step()
    for name, theta in model.named_parameters():
        assert not torch.equal(theta, before[name]), name
