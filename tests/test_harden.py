"""Hardening networks that the study does not know: families, data, errors, and what must stay as it was."""

import inspect
import subprocess
import sys
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import VGG, MobileNetV3, ResNet, VisionTransformer
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import make_layers

from bayesft import harden as api
from bayesft.data import Split
from bayesft.drift import LogNormalDrift, drifted_parameters, monte_carlo
from bayesft.harden import Hardened, harden
from bayesft.methods import load
from bayesft.methods.drift_aware import drift_gradient
from bayesft.models import Site
from bayesft.settings import Recipe, SearchSettings
from bayesft.training import fit
from bayesft.training.loop import plain_gradient

SETTINGS = SearchSettings(trials=3, initial=2, epochs=1, draws=2, sigmas=(0.5,), bounds=(0.1, 0.6))
TINY = {
    "method": "bayesft",
    "recipe": Recipe(epochs=1, batch_size=8),
    "settings": SETTINGS,
    "evaluate_sigmas": (0.0, 0.6),
    "draws": 2,
}


class Shared(nn.Module):
    """One hidden layer, called twice, and one activation module."""

    def __init__(self):
        super().__init__()
        self.first, self.hidden, self.logits, self.relu = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), nn.ReLU()
        self.again = self.hidden

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.relu(self.again(self.relu(self.hidden(self.relu(self.first(x)))))))


class Tied(nn.Module):
    """One weight in two modules, and one module in two places."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.logits = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight, self.third = self.first.weight, self.second

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.third(self.second(self.first(x).relu()).relu()).relu())


class Functional(nn.Module):
    """Activations as functions, and a `view`, which needs contiguous maps."""

    def __init__(self):
        super().__init__()
        self.conv, self.hidden, self.logits = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(F.relu(self.hidden(F.relu(self.conv(x)).view(len(x), -1))))


class TwoInputs(nn.Module):
    """Features and a category."""

    def __init__(self):
        super().__init__()
        self.embed, self.first, self.logits = nn.Embedding(5, 4), nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, category: Tensor) -> Tensor:
        return self.logits(torch.tanh(self.first(torch.cat([x, self.embed(category)], 1))))


class Tagger(nn.Module):
    """A tag for each word; the sequences may be packed."""

    def __init__(self, packed: bool = False):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(7, 4), nn.LSTM(4, 6, batch_first=True)
        self.hidden, self.tags, self.packed = nn.Linear(6, 6), nn.Linear(6, 3), packed

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        if self.packed:
            lengths = [words.shape[1]] * len(words)
            x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        states, _ = self.lstm(x)
        if self.packed:
            states = nn.utils.rnn.pad_packed_sequence(states, batch_first=True)[0]
        return self.tags(F.relu(self.hidden(states)))


def tag_loss(outputs: Tensor, tags: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), tags.flatten())


def tag_accuracy(outputs: Tensor, tags: Tensor) -> Tensor:
    return (outputs.argmax(2) == tags).float().mean(1)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def regressor() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))


def mobilenet() -> nn.Module:
    blocks = [
        InvertedResidualConfig(8, 3, 8, 8, True, "RE", 2, 1, 1),
        InvertedResidualConfig(8, 3, 16, 8, False, "HS", 1, 1, 1),
    ]
    return MobileNetV3(blocks, 16, num_classes=3)


def vgg() -> nn.Module:
    """VGG-11 with narrow layers: the real one has 128 million parameters, most of them in its classifier."""
    with torch.device("meta"):
        network = VGG(make_layers([4, "M", 4, "M", 4, 4, "M", 4, 4, "M", 4, 4, "M"]), init_weights=False)
    network.features = make_layers([4, "M", 4, "M", 4, 4, "M", 4, 4, "M", 4, 4, "M"])
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    for number, shape in ((0, (4, 8)), (3, (8, 8)), (6, (8, 3))):
        network.classifier[number] = nn.Linear(*shape)
    return network


def vit() -> nn.Module:
    return VisionTransformer(8, 4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)


def rows(count: int = 24, part: int = 0, shape: tuple[int, ...] = (6,)) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(part))
    return x, x.flatten(1)[:, :3].argmax(1)


def images(count: int, part: int, size: int = 8) -> tuple[Tensor, Tensor]:
    return rows(count, part, (3, size, size))


def two_inputs(count: int, part: int) -> tuple[Tensor, ...]:
    x, y = rows(count, part)
    return x, torch.arange(count) % 5, y


def words(count: int, part: int) -> tuple[Tensor, Tensor]:
    found = torch.randint(0, 7, (count, 5), generator=torch.Generator().manual_seed(part))
    return found, found % 3


def regression(count: int, part: int) -> tuple[Tensor, Tensor]:
    x, _ = rows(count, part)
    return x, x[:, :1] * 2


TAGGING = {"loss": tag_loss, "metric": tag_accuracy}
FAMILIES = {  # network, data, what else to say, how many sites
    "resnet": (lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3), images, {}, 5),
    "vgg11": (vgg, lambda count, part: images(8, part, 32), {}, 10),
    "mobilenet": (mobilenet, images, {}, 10),
    "vit": (vit, images, {}, 5),
    "shared": (Shared, rows, {}, 1),
    "tied": (Tied, rows, {}, 2),
    "functional": (Functional, images, {}, 2),
    "sequential": (mlp, rows, {}, 2),
    "two inputs": (TwoInputs, two_inputs, {}, 1),
    "tagger": (Tagger, words, TAGGING, 2),
    "packed tagger": (lambda: Tagger(True), words, TAGGING, 2),
    "regression": (regressor, regression, {"loss": F.mse_loss}, 1),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families(family):
    make, data, options, count = FAMILIES[family]
    pairs = [data(24, 0), data(12, 1)]
    found = harden(make, *pairs, **options, **{**TINY, "settings": SETTINGS.model_copy(update={"trials": 2})})
    assert isinstance(found, Hardened) and len(found.sites) == len(found.rates) == count
    assert list(found.rates) == [site.name for site in found.sites]
    assert all(0.1 <= rate <= 0.6 for rate in found.rates.values())
    assert len(found.log) == 2 and len(found.table) == 2 * 3
    assert found.table.metric.notna().all() and found.measured_on == "validation"
    drifted = found.table[found.table.sigma > 0]
    assert (found.table[(found.table.network == "plain")].gain == 0).all() and len(drifted) == 3
    assert list(found.model.state_dict()) == list(make().state_dict())
    assert [name for name, _ in found.model.named_modules()] == [name for name, _ in make().named_modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in found.model.modules())
    assert not any(module.training for module in found.model.modules())
    assert found.model(*[tensor[:3] for tensor in pairs[1][:-1]]).isfinite().all()


@pytest.fixture(scope="module")
def found() -> Hardened:
    return harden(mlp, rows(40), rows(30, 1), **TINY)


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_the_log_has_every_trial_and_the_table_every_network(found):
    assert found.log.number.tolist() == [0, 1, 2]
    assert list(found.log)[:4] == ["number", "rate 1", "rate 3", "objective"]
    assert found.log[["rate 1", "rate 3"]].stack().between(0.1, 0.6).all()
    assert found.log.cumulative_epochs.tolist() == [1, 2, 3] and found.log.recheck.notna().all()
    chosen = found.log.loc[found.log.recheck.idxmax()]
    assert found.rates == {"1": chosen["rate 1"], "3": chosen["rate 3"]}
    epochs = found.table.groupby("network").epochs.first()
    assert epochs["plain"] == epochs["hardened"] == 1 and epochs["search end"] in (1, 2, 3)
    assert set(found.networks) == {"plain", "hardened", "search end"} and found.model is found.networks["hardened"]
    assert "dropout rates: 1 0." in str(found) and "hardened" in str(found)


def test_a_seed_determines_everything_and_no_other_random_number_does(found):
    torch.manual_seed(77)
    state = torch.random.get_rng_state()
    again = harden(mlp, rows(40), rows(30, 1), **TINY)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again.rates == found.rates and again.log.equals(found.log) and again.table.equals(found.table)
    assert all(same(again.networks[name], found.networks[name]) for name in found.networks)
    other = harden(mlp, rows(40), rows(30, 1), seed=1, **TINY)
    assert other.rates != found.rates and not same(other.model, found.model)


def test_the_recommended_recipe_tunes_one_rate_and_the_drift_of_training():
    own = {**TINY, "method": "drift_dropout"}
    found = harden(mlp, rows(40), rows(30, 1), uniform=0.2, **own)
    assert list(found.log)[:4] == ["number", "rate", "sigma_train", "objective"]
    chosen = found.log.loc[found.log.recheck.idxmax()]
    assert found.rates == {"1": chosen.rate, "3": chosen.rate} and found.sigma_train == chosen.sigma_train > 0
    assert "trained under drift up to σ = " in str(found)
    # The numbers found, given: the same network without a search.
    again = harden(mlp, rows(40), rows(30, 1), rates=found.rates, sigma_train=found.sigma_train, **own)
    assert same(again.model, found.model) and again.sigma_train == found.sigma_train and len(again.log) == 0
    control = harden(mlp, rows(40), rows(30, 1), rates=0.2, **own)
    assert same(found.networks["uniform"], control.model) and control.sigma_train is None


def test_many_sites_are_fine_where_they_share_their_rate():
    found = harden(deep(17), rows(40), rows(30, 1), **{**TINY, "method": "drift_dropout"})
    assert len(found.rates) == 17 and len(set(found.rates.values())) == 1


def test_the_defaults_search_the_recommended_recipe():
    found = harden(mlp, rows(40), rows(30, 1), recipe=Recipe(epochs=3, batch_size=8), draws=2, evaluate_sigmas=(0.6,))
    changed = harden(mlp, rows(40), rows(30, 1), settings={"trials": 5}, recipe=Recipe(epochs=2, batch_size=8), draws=2)
    assert changed.log.cumulative_epochs.tolist() == [2] * 5
    assert len(found.log) == 8 and set(found.log.cumulative_epochs) == {3} and found.sigma_train is not None


def test_trials_that_may_end_early_train_under_their_rates_to_the_end():
    """The look at a trial half-way must not leave the network in eval mode, without dropout."""
    settings = SearchSettings(**{**SETTINGS.model_dump(), "weights": "scratch", "epochs": 4, "trials": 2})
    whole, early = (
        harden(mlp, rows(40), rows(30, 1), **{**TINY, "settings": settings.model_copy(update={"stop_early": stop})})
        for stop in (False, True)
    )
    assert early.log.halfway.notna().all() and not early.log.stopped.any()
    assert same(early.networks["search end"], whole.networks["search end"])
    assert early.log.objective.equals(whole.log.objective)


def test_a_measurement_leaves_the_network_in_its_mode():
    data, model = api._split(two_inputs(20, 1), "validation", torch.device("cpu")), TwoInputs().train()
    model.first.eval()
    for sigma in (0.0, 0.5):
        api._under_drift(model, data, api.accuracy_score, LogNormalDrift(), sigma, 2, ("key",), "all")
        assert model.training and model.embed.training and not model.first.training


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Outputs(dict):
    """As libraries of language models give them."""

    extra = "kept"


def test_a_loss_gets_outputs_in_float32_and_of_their_own_kind(monkeypatch):
    bfloat16 = torch.ones(2, dtype=torch.bfloat16)
    given = Outputs(a=Pair(bfloat16, torch.ones(2)), b=torch.ones(2, dtype=torch.int64))
    seen = []
    api._in_float32(lambda outputs, _: seen.append(outputs), given, None)
    assert seen[0] is given  # outside of autocast nothing is touched
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda _: True)
    api._in_float32(lambda outputs, _: seen.append(outputs), given, None)
    assert [t.dtype for t in (*seen[1]["a"], seen[1]["b"])] == [torch.float32, torch.float32, torch.int64]
    assert (
        seen[1].extra == "kept" and seen[1]["a"].first is seen[1]["a"][0] and given["a"].first.dtype == torch.bfloat16
    )


def within(tolerance: float):
    return lambda outputs, targets: ((outputs - targets).abs() < tolerance).float().squeeze(1)


class Within:
    def __init__(self, tolerance: float):
        self.tolerance = tolerance

    def __call__(self, outputs, targets):
        return within(self.tolerance)(outputs, targets)


def test_functions_are_told_apart_by_what_they_close_over_and_objects_by_what_they_hold():
    def loose(outputs, targets, tolerance):
        return within(tolerance)(outputs, targets)

    def with_default(outputs, targets, tolerance=1.0):
        return 0

    import torch.nn.functional as functional

    def nested(outputs, targets):
        return [x < 0.1 for x in outputs]

    def other(outputs, targets):
        return [x < 0.2 for x in outputs]

    nested.__qualname__ = other.__qualname__ = "same"
    made = [within(1.0), within(2.0), Within(1.0), Within(2.0), partial(loose, tolerance=1.0), nested, other]
    made += [partial(loose, tolerance=2.0), with_default, F.mse_loss, F.l1_loss, None]
    made += [Within(1.0).__call__, Within(2.0).__call__, lambda o, t: functional.mse_loss(o, t)]
    made += [Within(torch.zeros(3)), Within(torch.ones(3)), Within({"a", "b"}), Within(nn.Linear(1, 1))]
    itself = Within(1.0)
    itself.me = [itself]  # no end, if it were followed
    told = [repr(api._told(function)) for function in [*made, itself]]
    assert sum(map(len, told)) < 50_000
    assert len(set(told)) == len(told) and not any(" at 0x" in text for text in told)
    assert repr(api._told(within(1.0))) == told[0] and repr(api._told(Within(1.0))) == told[2]


def test_forms_of_data_are_alike(found):
    train, validation = rows(40), rows(30, 1)
    batches = [tuple(tensor[i : i + 16] for tensor in train) for i in range(0, 40, 16)]
    for data in (TensorDataset(*train), DataLoader(TensorDataset(*train), 7), batches, iter(batches), list(train)):
        again = harden(mlp, data, TensorDataset(*validation), **TINY)
        assert same(again.model, found.model) and again.table.equals(found.table)


def test_a_shuffling_loader_repeats():
    loader = DataLoader(TensorDataset(*rows(40)), 8, shuffle=True)
    first, second = (harden(mlp, loader, rows(30, 1), rates=0.2, **TINY) for _ in range(2))
    assert same(first.model, second.model)


def test_the_random_control_and_own_parameters(found):
    random = TINY["settings"].model_copy(update={"strategy": "random"})
    control = harden(mlp, rows(40), rows(30, 1), **{**TINY, "settings": random})
    assert len(control.log) == 3 and control.log["rate 1"][0] == found.log["rate 1"][0]
    weights = harden(mlp, rows(40), rows(30, 1), parameters="weights", **TINY)
    assert not weights.table.equals(found.table)


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan")])
def test_a_training_drift_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="sigma_train"):
        harden(mlp, rows(40), rows(30, 1), rates=0.1, sigma_train=wrong, **TINY)


def test_training_under_drift_changes_all_but_the_plain_network():
    options = {"rates": 0.1, "uniform": 0.2, **TINY}
    without, under = (harden(mlp, rows(40), rows(30, 1), sigma_train=s, **options) for s in (None, 0.8))
    assert same(without.networks["plain"], under.networks["plain"])
    assert not same(without.model, under.model)
    assert not same(without.networks["uniform"], under.networks["uniform"])


def test_training_under_drift_is_that_of_the_study():
    start = mlp()
    found = harden(start, rows(40), rows(30, 1), rates=0.0, sigma_train=0.8, **TINY)
    data = Split(*rows(40))
    gradient = drift_gradient(LogNormalDrift(), 0.8, "all", load("drift_dropout").rise)
    fit(start, data, TINY["recipe"], seed=0, label="x", gradient=gradient)
    assert same(found.model, start)


@pytest.mark.parametrize("network", [Shared, Tied])
def test_parameters_in_two_places_stay_one_in_training_under_drift(network):
    model, (x, y) = network(), rows(8)
    before = {name: theta.clone() for name, theta in model.state_dict().items()}
    found = []
    for gradient in (plain_gradient, drift_gradient(LogNormalDrift(), 1e-6, "all")):
        model.zero_grad()
        gradient(model, F.cross_entropy, x, y)
        found.append([theta.grad.clone() for theta in model.parameters()])
    assert all(torch.equal(theta, before[name]) for name, theta in model.state_dict().items())
    # Under next to no drift, the gradient is next to that without: no place of a parameter is lost.
    for plain, drifted in zip(*found, strict=True):
        assert torch.allclose(plain, drifted, atol=1e-4)
    assert any(theta.any() for theta in found[1])


def test_a_metric_that_ignores_the_model_gains_nothing():
    found = harden(mlp, rows(40), rows(30, 1), metric=lambda outputs, targets: 0.25, uniform=0.5, **TINY)
    assert (found.table.metric == 0.25).all() and (found.table.gain == 0).all() and (found.log.objective == 0.25).all()
    assert set(found.networks) == {"plain", "search end", "hardened", "uniform"}


def test_given_rates_need_no_search_and_dropout_rates_of_zero_are_plain_training():
    found = harden(mlp, rows(40), rows(30, 1), rows(20, 2), rates=0.0, uniform=0.5, **TINY)
    assert len(found.log) == 0 and found.rates == {"1": 0.0, "3": 0.0} and found.measured_on == "test"
    assert same(found.model, found.networks["plain"]) and not same(found.model, found.networks["uniform"])
    assert (found.table[found.table.network == "hardened"].gain == 0).all()
    assert harden(mlp, rows(40), rows(30, 1), rates=[0.1, 0.5], **TINY).rates == {"1": 0.1, "3": 0.5}


def test_hardening_pays_where_one_weight_carries_everything():
    # Copies of one feature: the plain network may lean on any; under dropout it averages, and drift averages out.
    x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 6)
    y = (x[:, 0] > 0).long()
    recipe = Recipe(epochs=20, batch_size=40, lr=0.01)
    found = harden(
        lambda: nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 2)), (x[:200], y[:200]), (x[200:], y[200:]),
        recipe=recipe, rates=0.5, evaluate_sigmas=(0.0, 1.2), draws=40,
    )  # fmt: skip
    gain = found.table.set_index(["network", "sigma"]).loc[("hardened", 1.2)]
    assert gain.gain > gain.gain_half_width


def test_the_given_network_is_where_training_begins_and_stays_untouched():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.LSTM(8, 8), nn.Flatten(), nn.Linear(8, 3))
    model[3].register_forward_hook(lambda module, given, output: output[0])
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes, names = [m.training for m in model.modules()], [name for name, _ in model.named_modules()]
    hooks = [dict(m._forward_hooks) for m in model.modules()]
    pointers = [p.data_ptr() for p in model.parameters()]
    options = {**TINY, "recipe": Recipe(epochs=1, batch_size=8, lr=1e-9, weight_decay=0)}
    found = harden(model, rows(40), rows(30, 1), sites=["2", "3"], rates=0.3, **options)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes and [name for name, _ in model.named_modules()] == names
    assert [dict(m._forward_hooks) for m in model.modules()] == hooks and all(
        p.grad is None for p in model.parameters()
    )
    assert [p.data_ptr() for p in model.parameters()] == pointers
    torch.testing.assert_close(dict(found.model.named_parameters()), dict(model.named_parameters()), rtol=0, atol=1e-6)
    assert len(found.model[3]._forward_hooks) == 1 and found.model is not model


def test_a_factory_is_called_under_the_seed():
    options = {**TINY, "recipe": Recipe(epochs=1, batch_size=8, lr=1e-9)}

    def starts(seed):
        return harden(mlp, rows(40), rows(30, 1), rates=0.3, seed=seed, **options).model[0].weight

    torch.testing.assert_close(starts(0), starts(0), rtol=0, atol=0)
    assert (starts(0) - starts(1)).abs().max() > 0.01


@pytest.mark.parametrize("packed", [False, True])
def test_dropout_acts_on_the_output_of_an_lstm_in_training_alone(packed):
    model, sites = api._prepare(Tagger(packed), words(1, 0)[:1], None, "layer")
    assert [site.name for site in sites] == ["lstm", "hidden"]
    seen = []
    model.hidden.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad(), api.dropout(model.train(), sites, [0.5, 0]):
        model(words(200, 0)[0])
        model.eval()(words(200, 0)[0])
    share = (seen[0] == 0).float().mean()
    assert 0.45 < share < 0.55 and not (seen[1] == 0).any()
    kept = seen[0] != 0
    torch.testing.assert_close(seen[0][kept], 2 * seen[1][kept])


def test_a_recurrent_layer_that_gives_the_output_has_no_site():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.gru = nn.Linear(6, 4), nn.ReLU(), nn.GRU(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.gru(self.act(self.first(x)))[0]

    assert list(harden(Last, rows(40), rows(30, 1), **TINY).rates) == ["act"]


@pytest.mark.parametrize("family", ["sequential", "two inputs", "tagger", "functional", "shared", "tied"])
def test_drifted_copies_are_those_of_the_study(family):
    make, data, options, _ = FAMILIES[family]
    inputs = data(300, 1)  # more than one batch
    part = api._split(inputs, "validation", torch.device("cpu"))
    torch.manual_seed(0)
    model, metric = make().eval(), options.get("metric", api.accuracy_score)
    before = {name: (theta, theta.detach().clone()) for name, theta in model.named_parameters(remove_duplicate=False)}
    found = api._under_drift(model, part, metric, LogNormalDrift(), 0.8, 3, ("key",), "all")
    expected = []
    for draw in range(3):
        copy = make().eval()  # weights that really lie in the network, also in the flattened ones of an LSTM
        copy.load_state_dict(drifted_parameters(model, LogNormalDrift(), 0.8, ("key",), draw), strict=False)
        with torch.no_grad():
            expected.append(metric(copy(*inputs[:-1]), inputs[-1]).double().mean())
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=0.005)
    assert len(set(found.tolist())) > 1
    for name, theta in model.named_parameters(remove_duplicate=False):
        assert theta is before[name][0] and torch.equal(theta, before[name][1]), name


def test_a_metric_of_all_the_data_and_one_of_each_example_agree():
    data, model = api._split(rows(300), "training", torch.device("cpu")), mlp()
    score = api.accuracy_score
    kinds = (score, lambda out, y: score(out, y).mean(), lambda out, y: out.argmax(1) == y)
    scores = [api._under_drift(model, data, kind, LogNormalDrift(), 0.8, 4, ("key",), "all") for kind in kinds]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(scores[0], scores[2], rtol=0, atol=1e-6)
    direct = monte_carlo(model, *rows(300), score, LogNormalDrift(), 0.8, range(4), ("key",))
    assert torch.equal(scores[0], direct)


def test_outputs_may_be_tuples_or_dictionaries():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()

        def forward(self, x: Tensor) -> dict:
            return {"logits": self.body(x), "more": (x, x)}

    options = {"loss": lambda out, y: F.cross_entropy(out["logits"], y)}
    found = harden(Several, rows(300), rows(300, 1), **options, rates=0.2, **TINY)
    assert found.table.metric.notna().all()


def test_own_sites_and_shared_rates():
    sites = [Site("all", ("1", "3"))]
    found = harden(mlp, rows(40), rows(30, 1), sites=sites, **TINY)
    assert found.sites == sites and list(found.rates) == ["all"] and "rate all" in found.log


COPIES: list[int] = []


class Interrupted(LogNormalDrift):
    """A drift that someone interrupts with Ctrl-C at its copy number 30: in the second trial."""

    def apply(self, theta, sample, level):
        COPIES.append(1)
        if len(COPIES) == 30:
            raise KeyboardInterrupt
        return super().apply(theta, sample, level)


def test_a_checkpoint_continues_a_killed_call_and_belongs_to_one_call(found, tmp_path, capfd):
    arguments = {**TINY, "fault": Interrupted(), "checkpoint": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        harden(mlp, rows(40), rows(30, 1), **arguments)
    again = harden(mlp, rows(40), rows(30, 1), **arguments)
    assert "resuming after trial" in capfd.readouterr().out
    assert again.log.equals(found.log) and again.table.equals(found.table) and same(again.model, found.model)
    other = {**arguments, "settings": SETTINGS.model_copy(update={"bounds": (0.3, 0.4)})}
    assert harden(mlp, rows(40), rows(30, 1), **other).log["rate 1"].between(0.3, 0.4).all()
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_weights_load_into_a_plain_network_without_the_library(found, tmp_path):
    torch.save(found.model.state_dict(), tmp_path / "weights.pt")
    torch.save(found.model(rows(5)[0]).detach(), tmp_path / "outputs.pt")
    code = f"""
import sys, torch
from torch import nn
{inspect.getsource(mlp)}
model = mlp().eval()
model.load_state_dict(torch.load("weights.pt"))
x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
assert torch.allclose(model(x), torch.load("outputs.pt"))
assert not any(name.startswith("bayesft") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code.replace(" -> nn.Sequential", "")], cwd=tmp_path, check=True)


def deep(count: int) -> nn.Sequential:
    layers = [module for _ in range(count) for module in (nn.Linear(6, 6), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(6, 3))


ERRORS = {
    "no parameters": ({"model": nn.ReLU()}, "no parameters"),
    "all frozen": ({"model": lambda: mlp().requires_grad_(False)}, "no parameters to train"),
    "lazy": ({"model": nn.LazyLinear(3)}, "lazy"),
    "no network": ({"model": lambda: 3}, "gives a int"),
    "no sites": ({"model": nn.Linear(6, 3)}, "no dropout site"),
    "an unknown site": ({"sites": ["1", "9"]}, "'9' is no module"),
    "a site twice": ({"sites": ["1", "1"]}, "a name of its own"),
    "too many sites": ({"model": deep(17)}, 'granularity="stage"'),
    "nan": ({"metric": lambda outputs, targets: float("nan")}, "metric on the validation data is nan"),
    "no number": ({"metric": lambda outputs, targets: "good"}, "gives a str"),
    "a vector": ({"metric": lambda outputs, targets: outputs}, "of shape"),
    "a loss with no gradient": ({"loss": lambda outputs, targets: torch.tensor(1.0)}, "loss of the first batch"),
    "a loss for each": ({"loss": lambda outputs, targets: outputs.sum(1)}, "finite scalar"),
    "a loss of nan": ({"loss": lambda outputs, targets: outputs.sum() * float("nan")}, "finite scalar"),
    "no loss for such targets": ({"train": regression(20, 0)}, "give a `loss`"),
    "empty": ({"train": (torch.zeros(0, 6), torch.zeros(0))}, "training data are empty"),
    "no batch": ({"validation": []}, "validation data are empty"),
    "unequal lengths": ({"train": (torch.zeros(4, 6), torch.zeros(5))}, "of one length"),
    "no targets": ({"train": (torch.zeros(4, 6),)}, "of one length"),
    "ragged": ({"train": [(torch.zeros(2, i), torch.zeros(2)) for i in (3, 4)]}, "do not fit"),
    "dictionaries": ({"train": [{"x": 1}]}, "no tuple of tensors"),
    "inputs": ({"validation": two_inputs(9, 0)}, "1 for train, 2 for validation"),
    "a rate of 1": ({"rates": 1.0}, "one rate in"),
    "a negative rate": ({"uniform": -0.1}, "one rate in"),
    "rates": ({"rates": [0.1]}, "each of 2 sites"),
    "unknown parameters": ({"parameters": "biases"}, "must be one of all, weights"),
    "nothing drifts": ({"model": lambda: nn.Sequential(nn.PReLU()), "parameters": "weights"}, "no parameter of Sequential counts"),
    "another method": ({"method": "awp"}, "must be one of drift_dropout, bayesft"),
    "drift, searched and given": ({"method": "drift_dropout", "sigma_train": 0.5}, "give `rates` too"),
    "rates of other sites": ({"rates": {"1": 0.1, "2": 0.1}}, "need one for each of"),
    "too many trials": ({"sites": ["1"], "settings": SETTINGS.model_copy(update={"trials": 26})}, "room for 25"),
    "unknown settings": ({"settings": {"trails": 5}}, "trails"),
    "one draw": ({"draws": 1}, "two draws"),
    "sigma": ({"evaluate_sigmas": (0.1, -0.3)}, "at least 0"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_it_cannot_do_it_says(case):
    changes, message = ERRORS[case]
    arguments = {"model": mlp, "train": rows(40), "validation": rows(30, 1), **TINY, **changes}
    with pytest.raises(ValueError, match=message):
        harden(**arguments)


@pytest.mark.parametrize("bounds", [(0.5, 0.2), (-0.1, 0.5), (0.1, 1.0)])
def test_bounds_of_rates_are_checked_by_the_settings(bounds):
    with pytest.raises(ValueError, match="lower < upper < 1"):
        SearchSettings(bounds=bounds)


def test_too_many_sites_are_fine_in_stages_and_without_a_search():
    stage = {**TINY, "settings": SearchSettings(**{**SETTINGS.model_dump(), "granularity": "stage", "trials": 1})}
    assert list(harden(deep(17), rows(40), rows(30, 1), **stage).rates) == ["features"]
    assert len(harden(deep(17), rows(40), rows(30, 1), rates=0.1, **TINY).rates) == 17


def test_a_metric_that_drift_makes_nan_stops_the_search_and_says_so():
    def metric(outputs, targets):
        return float("nan") if len(seen) > 1 else seen.append(1) or 1.0

    seen = []
    with pytest.raises(ValueError, match="the score of a drifted copy is not finite"):
        harden(mlp, rows(40), rows(30, 1), metric=metric, **TINY)


def test_a_checkpoint_is_not_taken_for_that_of_another_metric_of_equal_value(tmp_path):
    """Both metrics are zero on any network that is not perfect, and their trials are not."""

    def shape_of(out, y):
        return (out.argmax(1) == y).float() * 0

    def sign_of(out, y):
        return (out.argmax(1) != y).float() * 0

    for metric in (shape_of, sign_of):
        harden(mlp, rows(40), rows(30, 1), metric=metric, loss=F.cross_entropy, checkpoint=tmp_path, **TINY)
    folders = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(folders) == 2
