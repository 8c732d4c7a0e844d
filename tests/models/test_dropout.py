"""Dropout sites of many networks, what dropout does there, and that nothing of it stays behind."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesft.models import Site, build, dropout, find_sites
from bayesft.models.residual import DEPTHS
from bayesft.tasks import CLASSIFICATION, TASKS


class Functional(nn.Module):
    """A network that calls its activations as functions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.hidden = nn.Linear(4 * 6 * 6, 5)
        self.logits = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(F.relu(self.hidden(F.relu(self.conv(x)).flatten(1))))


def names(model: nn.Module, shape: tuple[int, ...], granularity: str = "layer") -> list[str]:
    return [site.name for site in find_sites(model, torch.zeros(2, *shape), granularity)]


def constant(layer: nn.Module) -> nn.Module:
    """The layer with an output of ones for any input."""
    nn.init.zeros_(layer.weight)
    nn.init.ones_(layer.bias)
    return layer


def seen(model: nn.Sequential, x: Tensor, at: str) -> Tensor:
    """What the module `at` gets in a forward pass of `x`."""
    inputs = []
    handle = model.get_submodule(at).register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    try:
        with torch.no_grad():
            model(x)
    finally:
        handle.remove()
    return inputs[0]


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_sites_of_the_studied_networks():
    mlp, lenet = (build(TASKS[task].specification) for task in ("mlp-mnist", "lenet-mnist"))
    assert find_sites(mlp, torch.zeros(1, 1, 28, 28)) == [Site("2", ("2",)), Site("4", ("4",))]
    assert names(lenet, (1, 28, 28)) == ["2", "5", "7", "10"]
    stages = find_sites(lenet, torch.zeros(1, 1, 28, 28), "stage")
    assert [site.name for site in stages] == ["12×12 maps", "4×4 maps", "1×1 maps", "features"]
    assert find_sites(mlp, torch.zeros(1, 1, 28, 28), "stage") == [Site("features", ("2", "4"))]


@pytest.mark.parametrize("normalization", [None, "batch", "layer", "group"])
@pytest.mark.parametrize("dropped", [None, ("dropout", 0.2), ("alpha", 0.2)])
def test_sites_of_an_mlp_are_its_activations_whatever_else_it_has(normalization, dropped):
    model = build({"network": "mlp", "hidden": (16, 8), "normalization": normalization, "dropout": dropped})
    activations = [name for name, module in model.named_children() if isinstance(module, nn.ReLU)]
    assert len(activations) == 2
    assert names(model, (1, 28, 28)) == activations


SMALL = {name: {**TASKS[name].specification, "width": 1 / 16} for name in CLASSIFICATION}
SITES = {  # the sites of each stage; a normalisation shifts the numbers of the modules after it
    "mlp-mnist": {"features": ["2", "4"]},
    "lenet-mnist": {"12×12 maps": ["2"], "4×4 maps": ["5"], "1×1 maps": ["7"], "features": ["10"]},
    "alexnet-cifar10": {"16×16 maps": ["1"], "8×8 maps": ["4"], "4×4 maps": ["7", "9", "11"], "features": ["15", "17"]},
    "resnet18-cifar10": {
        "32×32 maps": ["relu", "layer1.0.relu", "layer1.1.relu"],
        "16×16 maps": ["layer2.0.relu", "layer2.1.relu"],
        "8×8 maps": ["layer3.0.relu", "layer3.1.relu"],
        "4×4 maps": ["layer4.0.relu", "layer4.1.relu"],
    },
    "vgg11-cifar10": {
        "32×32 maps": ["2"],
        "16×16 maps": ["6"],
        "8×8 maps": ["10", "13"],
        "4×4 maps": ["17", "20"],
        "2×2 maps": ["24", "27"],
    },
    "stn-gtsrb": {
        "13×13 maps": ["0.localization.2"],
        "4×4 maps": ["0.localization.5"],
        "features (1)": ["0.localization.8"],  # none on the six numbers of the affine map
        "14×14 maps": ["3"],
        "6×6 maps": ["7"],
        "3×3 maps": ["11"],
        "features (2)": ["15"],
    },
}


def image(task: str) -> Tensor:
    return torch.zeros(1, *((1, 28, 28) if TASKS[task].data == "mnist" else (3, 32, 32)))


@pytest.mark.parametrize("task", SITES)
def test_sites_of_every_network_and_their_stages(task):
    model = build(SMALL[task])
    stages = find_sites(model, image(task), "stage")
    assert {site.name: list(site.modules) for site in stages} == SITES[task]
    layers = find_sites(model, image(task))
    assert [site.name for site in layers] == [name for names in SITES[task].values() for name in names]


@pytest.mark.parametrize(("depth", "blocks"), DEPTHS.items())
@pytest.mark.parametrize("normalization", ["batch", None])
def test_sites_of_a_pre_activation_network_are_its_activations_by_size(depth, blocks, normalization):
    task = f"preact{depth}-cifar10"
    model = build({**SMALL[task], "normalization": normalization})
    relus = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]
    convolutions = 2 if depth == 18 else 3
    assert len(relus) == sum(blocks) * convolutions + 1
    assert {site.name for site in find_sites(model, image(task))} == set(relus)
    stages = find_sites(model, image(task), "stage")
    assert [site.name for site in stages] == [f"{size}×{size} maps" for size in (32, 16, 8, 4)]
    # A block that halves the maps starts at the size before; the last stage has the activation before the logits too.
    before = convolutions - 1
    sizes = [count * convolutions for count in blocks]
    expected = [sizes[0] + before, sizes[1], sizes[2], sizes[3] - before + 1]
    assert [len(site.modules) for site in stages] == expected
    assert stages[-1].modules[-1] == "relu"


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.normalized])
def test_without_normalisation_the_sites_follow_the_same_layers(task):
    found = [find_sites(build({**SMALL[task], "normalization": n}), image(task), "stage") for n in ("batch", None)]
    assert [(s.name, len(s.modules)) for s in found[0]] == [(s.name, len(s.modules)) for s in found[1]]


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_every_network_trains_under_dropout(task):
    model = build(SMALL[task], 0).train()
    sites = find_sites(model, image(task), "stage")
    torch.manual_seed(0)
    x = torch.randn(4, *image(task).shape[1:])
    with torch.no_grad():
        without = model(x)
    with dropout(model, sites, [0.5] * len(sites)):
        outputs = model(x)
        assert not torch.allclose(outputs, without)
        outputs.square().sum().backward()
    assert all(theta.grad is not None and theta.grad.isfinite().all() for theta in model.parameters())


def test_sites_of_a_residual_network():
    models = pytest.importorskip("torchvision.models")
    model, example = models.resnet18(weights=None, num_classes=10), torch.zeros(1, 3, 64, 64)
    blocks = [f"layer{stage}.{block}.relu" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [site.modules for site in find_sites(model, example)] == [("relu",), *((block,) for block in blocks)]
    stages = find_sites(model, example, "stage")
    assert [site.name for site in stages] == [f"{size}×{size} maps" for size in (32, 16, 8, 4, 2)]
    assert [site.modules for site in stages] == [("relu",), *(tuple(blocks[i : i + 2]) for i in (0, 2, 4, 6))]


def test_what_is_squeezed_between_larger_maps_belongs_to_the_stage_around_it():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        model = models.mobilenet_v3_small(weights=None)
        model.eval()
        layers, stages = (find_sites(model, torch.zeros(1, 3, 224, 224), g) for g in ("layer", "stage"))
    assert [site.name for site in stages] == [f"{size}×{size} maps" for size in (112, 56, 28, 14, 7)] + ["features"]
    assert [name for site in stages for name in site.modules] == [site.name for site in layers]
    assert "features.1.block.1.activation" in stages[1].modules  # a squeeze's


def test_a_bottleneck_that_the_network_widens_again_is_a_stage_of_its_own():
    def layer(*sizes, **options):
        return nn.Conv2d(1, 1, *sizes, **options), nn.ReLU()

    model = nn.Sequential(*layer(3), *layer(3, stride=2), nn.Upsample(scale_factor=4), *layer(3), nn.Conv2d(1, 1, 1))
    assert names(model, (1, 8, 8), "stage") == ["6×6 maps (1)", "2×2 maps", "6×6 maps (2)"]


def test_sites_of_a_plain_deep_network():
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):  # shapes alone: the network has 130 million parameters
        model = models.vgg11(weights=None, init_weights=False)
        found = [site.name for site in find_sites(model, torch.zeros(1, 3, 64, 64))]
    convolutions = [f"features.{i}" for i in (1, 4, 7, 9, 12, 14, 17, 19)]
    assert found == [*convolutions, "classifier.1", "classifier.4"]


def test_without_activation_modules_the_layers_but_the_last_are_the_sites():
    assert names(Functional(), (1, 8, 8)) == ["conv", "hidden"]
    assert names(Functional(), (1, 8, 8), "stage") == ["6×6 maps", "features"]


def test_sites_are_in_the_order_of_the_forward_pass():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.second, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b, self.a = nn.Tanh(), nn.PReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.b(self.second(self.a(self.first(x)))))

    assert names(Backwards(), (4,)) == ["a", "b"]


def test_an_activation_before_any_layer_or_after_another_activation_is_no_site():
    model = nn.Sequential(nn.Tanh(), nn.Linear(4, 4), nn.ReLU(), nn.Sigmoid(), nn.Linear(4, 2), nn.Sigmoid())
    assert names(model, (4,)) == ["2"]


def test_a_module_that_is_called_twice_counts_once():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2))
    assert names(model, (4,)) == ["1"]


def test_a_last_layer_that_is_called_twice_has_no_site():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.logits = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.logits(self.logits(self.first(x).relu()).relu())

    assert names(Recurrent(), (4,)) == ["first"]


@pytest.mark.parametrize("model", [nn.Linear(4, 2), nn.Sequential(nn.ReLU(), nn.Linear(4, 2), nn.ReLU()), nn.Tanh()])
def test_a_network_without_sites_is_refused(model):
    with pytest.raises(ValueError, match="no dropout site"):
        find_sites(model, torch.zeros(1, 4))


def test_an_unknown_granularity_is_refused_and_the_known_named():
    with pytest.raises(ValueError, match="'block': must be one of layer, stage"):
        find_sites(build({"network": "mlp"}), torch.zeros(1, 784), "block")


@pytest.mark.parametrize("mixed", [True, False])
def test_finding_sites_leaves_the_network_as_it_was(mixed):
    model = build({"network": "mlp", "hidden": (16, 8), "normalization": "batch", "dropout": ("dropout", 0.5)}).train()
    if mixed:
        model[2].eval()
        model[-1].eval()
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 1 + mixed
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    find_sites(model, torch.randn(5, 784, generator=torch.Generator().manual_seed(0)))
    assert [module.training for module in model.modules()] == modes
    assert hooks(model) == 0
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_failing_forward_pass_leaves_the_network_as_it_was():
    model = build({"network": "mlp"}).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError):
        find_sites(model, torch.zeros(1, 5))
    assert [module.training for module in model.modules()] == modes
    assert hooks(model) == 0


def features() -> nn.Sequential:
    return nn.Sequential(constant(nn.Linear(3, 50)), nn.ReLU(), nn.Linear(50, 2))


def maps() -> nn.Sequential:
    return nn.Sequential(constant(nn.Conv2d(1, 30, 3)), nn.ReLU(), nn.Conv2d(30, 2, 1))


def sequences() -> nn.Sequential:
    return nn.Sequential(constant(nn.Conv1d(1, 30, 3)), nn.ReLU(), nn.Conv1d(30, 2, 1))


SITE = [Site("1", ("1",))]


def assert_dropped(kept: Tensor, survivor: Tensor, rate: float):
    """About `rate` of the ones is gone, and each survivor is scaled up by 1 / (1 − rate)."""
    expected = torch.where(kept, torch.tensor(1 / (1 - rate)), torch.tensor(0.0))
    torch.testing.assert_close(survivor, expected)
    standard_error = (rate * (1 - rate) / kept.numel()) ** 0.5
    assert abs((~kept).double().mean() - rate) < 4 * standard_error


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.8])
def test_single_features_are_dropped_and_the_others_scaled(rate):
    model = features().train()
    torch.manual_seed(0)
    with dropout(model, SITE, [rate]):
        output = seen(model, torch.zeros(4000, 3), "2")
    assert_dropped(output > 0, output, rate)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_whole_channels_of_feature_maps_are_dropped(rate):
    model = maps().train()
    torch.manual_seed(0)
    with dropout(model, SITE, [rate]):
        output = seen(model, torch.zeros(400, 1, 6, 6), "2")
    assert output.shape == (400, 30, 4, 4)
    first = output[:, :, 0, 0]
    assert torch.equal(output, first[:, :, None, None].expand_as(output))
    assert_dropped(first > 0, first, rate)


def test_single_features_of_sequences_are_dropped():
    model = sequences().train()
    torch.manual_seed(0)
    with dropout(model, SITE, [0.5]):
        output = seen(model, torch.zeros(100, 1, 12), "2")
    assert output.shape == (100, 30, 10)
    share = (output > 0).float().mean(2)
    assert ((share > 0) & (share < 1)).float().mean() > 0.9  # not whole channels
    assert_dropped(output > 0, output, 0.5)


@pytest.mark.parametrize(("make", "shape"), [(features, (3,)), (maps, (1, 6, 6))])
def test_nothing_is_dropped_in_eval_mode_or_at_rate_0(make, shape):
    model, x = make(), torch.zeros(50, *shape)
    clean, outputs = seen(model, x, "2"), model(x)
    for mode, rate in ((False, 0.5), (True, 0.0)):
        with dropout(model.train(mode), SITE, [rate]):
            assert torch.equal(seen(model, x, "2"), clean)
            assert torch.equal(model(x), outputs)


def test_each_site_has_its_own_rate_and_its_modules_share_it():
    model = nn.Sequential(
        constant(nn.Linear(3, 40)), nn.ReLU(), constant(nn.Linear(40, 40)), nn.ReLU(),
        constant(nn.Linear(40, 40)), nn.ReLU(), nn.Linear(40, 2),
    )  # fmt: skip
    sites = [Site("first two", ("1", "3")), Site("5", ("5",))]
    torch.manual_seed(0)
    with dropout(model, sites, [0.2, 0.6]) as same:
        assert same is model
        for at, rate in (("2", 0.2), ("4", 0.2), ("6", 0.6)):
            output = seen(model, torch.zeros(2000, 3), at)
            assert_dropped(output > 0, output, rate)


def test_the_gradient_passes_through_the_survivors_alone():
    model = features().train()
    torch.manual_seed(0)
    with dropout(model, SITE, [0.5]):
        model(torch.zeros(1, 3)).sum().backward()
    gradient = model[2].weight.grad[0]  # the output of the site itself
    assert set(gradient.tolist()) == {0.0, 2.0}
    assert torch.equal(model[0].bias.grad == 0, gradient == 0)


def test_dropout_is_drawn_anew_at_each_pass_and_repeats_with_the_seed():
    model, x = features().train(), torch.zeros(20, 3)
    with dropout(model, SITE, [0.5]):
        torch.manual_seed(0)
        first, second = seen(model, x, "2"), seen(model, x, "2")
        torch.manual_seed(0)
        assert torch.equal(seen(model, x, "2"), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_behind(fails):
    model = build(TASKS["lenet-mnist"].specification).train()
    sites = find_sites(model, torch.zeros(1, 1, 28, 28))
    keys = list(model.state_dict())
    try:
        with dropout(model, sites, [0.5] * len(sites)):
            assert hooks(model) == len(sites)
            assert list(model.state_dict()) == keys
            assert [name for name, _ in model.named_modules()] == ["", *map(str, range(12))]
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert hooks(model) == 0
    assert all(module._forward_hooks == {} for module in model.modules())
    assert list(model.state_dict()) == keys
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("rates", [[], [0.1], [0.1, 0.2, 0.3], [0.1, 1.0], [-0.1, 0.1], [0.1, float("nan")]], ids=str)
def test_wrong_rates_are_refused(rates):
    model = build({"network": "mlp"})
    sites = find_sites(model, torch.zeros(1, 784))
    with pytest.raises(ValueError, match="2 sites"), dropout(model, sites, rates):
        pass
    assert hooks(model) == 0


def test_sites_of_another_network_leave_nothing_behind():
    model = features()
    with pytest.raises(AttributeError), dropout(model, [*SITE, Site("9", ("9",))], [0.1, 0.1]):
        pass
    assert hooks(model) == 0
