"""What holds for every method of the registry."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from bayesft.methods import load, names
from bayesft.training import Problem, accuracy
from tests.problems import SPECIFICATION, patterns, same, tiny, train

METHODS = names()
ALONE = [name for name in METHODS if not load(name).needs]  # the others begin with trained networks
TUNABLE = [name for name in METHODS if load(name).hyperparameters(tiny())]


@dataclass(frozen=True)
class Watched(Problem):
    """A problem that keeps the networks that it gives, and the labels of each batch that the loss sees."""

    networks: list[nn.Module] = field(default_factory=list)
    starts: list[dict] = field(default_factory=list)
    batches: list[list[int]] = field(default_factory=list)
    stop: int | None = None  # the loss is interrupted at this call

    def fresh(self, **changes: object) -> nn.Module:
        model = super().fresh(**changes)
        self.networks.append(model)
        self.starts.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return model

    @property
    def loss(self):
        def noting(outputs, labels):
            self.batches.append(labels.tolist())
            if len(self.batches) == self.stop:
                raise KeyboardInterrupt
            return F.cross_entropy(outputs, labels)

        return noting


def test_a_method_is_called_as_its_file_and_an_unknown_one_is_refused():
    assert {"erm", "bayesft", "awp"} <= set(METHODS)
    assert [load(name).name for name in METHODS] == METHODS
    with pytest.raises(ValueError, match=f"method = 'awpp': must be one of {', '.join(METHODS)}"):
        load("awpp")


def test_methods_can_be_told_apart_in_print_and_on_screen():
    looks = [load(name).look for name in METHODS]
    assert len({load(name).title for name in METHODS}) == len(METHODS)
    assert len({look.colour for look in looks}) == len(METHODS)
    assert len({(look.dashes, look.marker) for look in looks}) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_methods_that_there_are(name):
    method = load(name)
    assert set(method.needs) <= set(METHODS) - {name}
    if method.hyperparameters(tiny()):
        owner = load(method.searched_as)
        assert owner.hyperparameters(tiny()) == method.hyperparameters(tiny())
    else:
        assert method.searched_as not in METHODS


def test_methods_of_the_same_hyperparameters_share_a_search():
    assert load("random").searched_as == load("algorithm1").searched_as == load("bayesft").searched_as == "bayesft"
    assert load("drift_dropout").searched_as == "drift_dropout"


@pytest.mark.parametrize("name", METHODS)
def test_training_learns(name):
    trained = train(load(name), tiny(epochs=40))
    found = [accuracy(network, tiny().validation, trained.decode) for network in trained.networks()]
    assert sum(found) / len(found) >= 0.7  # chance is 0.25


@pytest.mark.parametrize("name", METHODS)
def test_the_seed_decides_every_byte(name, tmp_path):
    for file, noise, seed in (("a", 1, 3), ("b", 2, 3), ("c", 1, 4)):
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        train(load(name), tiny(seed=seed)).save(tmp_path / file)
        assert torch.equal(torch.get_rng_state(), state)
    a, b, c = ((tmp_path / file).read_bytes() for file in "abc")
    assert a == b != c


@pytest.mark.parametrize("name", METHODS)
def test_a_network_says_how_it_was_trained(name):
    method, problem = load(name), tiny()
    about = train(method, problem).about
    assert about["epochs"] == 4
    said = about | about.get("rates", {})
    for h in method.hyperparameters(problem):
        assert said[h.name] == pytest.approx(h.value(0.25)), h.name
    if "rates" in about:
        assert list(about["rates"]) == [site.name for site in problem.sites]


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("stop", [None, 5])
def test_no_dropout_is_left_on_a_network(name, stop):
    method, problem = load(name), tiny(Watched, stop=stop)
    if stop:
        with pytest.raises(KeyboardInterrupt):
            train(method, problem)
    else:
        train(method, problem)
    x = problem.validation.images
    for network in problem.networks:
        with torch.no_grad():
            assert torch.equal(network.train()(x), network.eval()(x))


def test_methods_start_from_the_same_weights_and_see_the_images_in_the_same_order():
    # One class an image, so that the labels of a batch name its images.
    data = {"train": patterns(24, classes=24), "classes": 24, "specification": {**SPECIFICATION, "outputs": 24}}
    plain = tiny(Watched, **data)
    train(load("erm"), plain)
    assert len(plain.batches) == 4 * 2
    for name in ALONE:
        problem = tiny(Watched, **data)
        train(load(name), problem)
        assert same(problem.starts[-1], plain.starts[-1]), name
        # Some look at a batch twice before a step.
        batches = [b for i, b in enumerate(problem.batches) if i == 0 or b != problem.batches[i - 1]]
        assert batches == plain.batches, name


@pytest.mark.parametrize("name", METHODS)
def test_settings_that_are_out_of_range_are_refused(name):
    kind = load(name).Settings
    with pytest.raises(ValidationError, match="no_such_setting"):
        kind(no_such_setting=1)
    for setting in kind.model_fields:
        for wrong in (-1, math.nan, math.inf, "much", None, [1]):
            with pytest.raises(ValidationError, match=setting):
                kind(**{setting: wrong})


@pytest.mark.parametrize("name", METHODS)
def test_what_a_search_can_choose_is_allowed_as_a_setting_and_the_default_is_among_it(name):
    method = load(name)
    kind, default = method.Settings, method.Settings()
    for h in method.hyperparameters(tiny()):
        assert h.low < h.high
        if h.name in kind.model_fields:
            assert kind(**{h.name: h.low}) != kind(**{h.name: h.high})
            assert h.low <= getattr(default, h.name) <= h.high
    allowed = kind.model_fields.keys() | {site.name for site in tiny().sites}
    assert {h.name for h in method.hyperparameters(tiny())} <= allowed


@pytest.mark.parametrize("name", TUNABLE)
def test_every_hyperparameter_changes_the_training(name):
    method, problem = load(name), tiny()
    before = train(method, problem).members[0]
    for h in method.hyperparameters(problem):
        assert not same(train(method, problem, **{h.name: h.value(0.8)}).members[0], before), h.name
