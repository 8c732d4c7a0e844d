"""The networks: their sizes, their initialisation, the order of their modules."""

import pytest
import torch
from torch import nn

from bayesft.models import NETWORKS, build
from bayesft.tasks import ABLATION, TASKS


def count(model: nn.Module) -> int:
    return sum(theta.numel() for theta in model.parameters())


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model]


@pytest.mark.parametrize(("network", "parameters"), [("mlp", 157_226), ("lenet5", 44_426)])
def test_parameter_counts(network, parameters):
    assert count(build({"network": network})) == parameters


@pytest.mark.parametrize("network", NETWORKS)
def test_ten_logits_for_each_image(network):
    model = build({"network": network}).eval()
    images = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(images)
        assert outputs.shape == (3, 10)
        # An image's logits are its own: they do not depend on the batch.
        torch.testing.assert_close(model(images[1:2]), outputs[1:2])
    assert not torch.allclose(outputs[0], outputs[1])
    assert build({"network": network, "outputs": 15})(images).shape == (3, 15)


def test_lenet_takes_colour_images():
    model = build({"network": "lenet5", "channels": 3})
    assert model(torch.zeros(2, 3, 28, 28)).shape == (2, 10)
    assert count(model) == 44_426 + 2 * 6 * 25


def test_every_task_and_every_variant_of_the_ablation_can_be_built():
    specifications = [task.specification for task in TASKS.values()]
    specifications += [variant for factor in ABLATION.values() for variant in factor.variants.values()]
    for specification in specifications:
        assert build(specification, 0)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_seed_fixes_the_weights(network):
    first, again, other = (build({"network": network}, seed) for seed in (3, 3, 4))
    for name, theta in first.named_parameters():
        assert torch.equal(again.get_parameter(name), theta), name
        assert not torch.equal(other.get_parameter(name), theta), name


def test_the_initialisation_is_the_default_one():
    torch.manual_seed(3)
    expected = nn.Linear(784, 192)
    assert torch.equal(build({"network": "mlp"}, 3)[1].weight, expected.weight)


@pytest.mark.parametrize("seed", [None, 3])
def test_building_leaves_the_global_generator_alone(seed):
    torch.manual_seed(8)
    state = torch.random.get_rng_state()
    build({"network": "lenet5"}, seed)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("seed", [0, 3, 2**63 - 1])
def test_the_weights_do_not_depend_on_the_global_generator(seed):
    torch.manual_seed(1)
    first = build({"network": "mlp"}, seed)[1].weight
    torch.manual_seed(2)
    assert torch.equal(build({"network": "mlp"}, seed)[1].weight, first)


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
    linear = [module for module in model if isinstance(module, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(784, 16), (16, 8), (8, 24), (24, 10)]


def test_normalisations_and_dropouts_get_the_width_and_the_rate():
    def second(**changes) -> nn.Module:
        return build({"network": "mlp", "hidden": (16,), **changes})[2]

    assert second(normalization="batch").num_features == 16
    assert second(normalization="layer").normalized_shape == (16,)
    group = second(normalization="group")
    assert (group.num_groups, group.num_channels) == (8, 16)
    for kind in ("dropout", "alpha"):
        assert build({"network": "mlp", "hidden": (16,), "dropout": (kind, 0.3)})[3].p == 0.3


def test_a_specification_from_a_json_file_builds_the_same_network():
    given = {"network": "mlp", "hidden": (16, 8), "dropout": ("dropout", 0.2)}
    from_json = {"network": "mlp", "hidden": [16, 8], "dropout": ["dropout", 0.2]}
    first, second = build(given, 1), build(from_json, 1)
    assert str(first) == str(second)
    assert torch.equal(first[-1].weight, second[-1].weight)


def test_an_mlp_without_hidden_layers_is_linear():
    assert kinds(build({"network": "mlp", "hidden": ()})) == ["Flatten", "Linear"]


@pytest.mark.parametrize("specification", [{"network": "mpl"}, {"network": "mlp", "activation": "rleu"}, {}])
def test_unknown_names_are_refused(specification):
    with pytest.raises(KeyError):
        build(specification)


def test_unknown_arguments_are_refused():
    with pytest.raises(TypeError, match="hiden"):
        build({"network": "mlp", "hiden": (16,)})
