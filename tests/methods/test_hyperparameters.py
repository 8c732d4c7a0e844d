"""Hyperparameters as numbers of a range, and dropout rates by site."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bayesft.methods import Hyperparameter, load
from tests.problems import same, tiny, train

LINEAR, LOGARITHMIC = Hyperparameter("rate", 0.2, 0.8), Hyperparameter("gamma", 0.001, 0.1, log=True)


@pytest.mark.parametrize(
    "hyperparameter, unit, value",
    [(LINEAR, 0.0, 0.2), (LINEAR, 0.5, 0.5), (LINEAR, 1.0, 0.8)]
    + [(LOGARITHMIC, 0.0, 0.001), (LOGARITHMIC, 0.5, 0.01), (LOGARITHMIC, 1.0, 0.1)],
)
def test_a_place_in_the_range_is_a_value(hyperparameter, unit, value):
    assert hyperparameter.value(unit) == pytest.approx(value, rel=1e-12)


@given(st.sampled_from([LINEAR, LOGARITHMIC]), st.floats(0, 1))
def test_a_value_leads_back_to_its_place(hyperparameter, unit):
    assert hyperparameter.unit(hyperparameter.value(unit)) == pytest.approx(unit, abs=1e-9)


def test_bayesft_has_a_rate_for_each_site_and_uniform_one_for_all():
    problem = tiny(bounds=(0.1, 0.6))
    assert load("bayesft").hyperparameters(problem) == (Hyperparameter("2", 0.1, 0.6), Hyperparameter("4", 0.1, 0.6))
    assert load("uniform").hyperparameters(problem) == (Hyperparameter("rate", 0.1, 0.6),)
    assert [h.name for h in load("bayesft").hyperparameters(tiny(granularity="stage"))] == ["features"]


def test_uniform_is_training_under_equal_rates():
    equal = train(load("bayesft"), tiny(), **{"2": 0.3, "4": 0.3})
    uniform = train(load("uniform"), tiny(), rate=0.3)
    assert same(uniform.members[0], equal.members[0])
    assert uniform.about["rates"] == equal.about["rates"] == {"2": 0.3, "4": 0.3}


def test_a_rate_of_zero_is_erm_and_another_is_not():
    plain = train(load("erm"), tiny()).members[0]
    assert same(train(load("uniform"), tiny(), rate=0.0).members[0], plain)
    assert not same(train(load("uniform"), tiny(), rate=0.3).members[0], plain)


def test_each_site_has_its_own_rate():
    first, second = (train(load("bayesft"), tiny(), **rates) for rates in ({"2": 0.0, "4": 0.6}, {"2": 0.6, "4": 0.0}))
    assert not same(first.members[0], second.members[0])


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match="need one rate in"):
        train(load("bayesft"), tiny(), **{"2": rate})


def test_drift_dropout_without_dropout_is_drift_aware_but_for_the_rise_of_the_level():
    both, drift = load("drift_dropout"), load("drift_aware")
    gradients = [m.gradient(tiny(), {"sigma_train": 0.7, "rate": 0.0}) for m in (both, drift)]
    after = []
    for progress in (0.25, 0.5):
        for gradient in gradients:
            model, data = tiny().fresh(), tiny().train
            torch.manual_seed(0)
            gradient(model, torch.nn.functional.cross_entropy, *data, progress)
            after.append(model.get_parameter("1.weight").grad)
    assert not torch.equal(after[0], after[1]) and torch.equal(after[2], after[3])
