"""What methods declare as tunable, and training under such values."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bayesft.drift import LogNormalDrift
from bayesft.models import find_sites
from bayesft.training import awp, drift_aware, drift_dropout, dropout_rates, uniform
from bayesft.training.drift_aware import drift_gradient
from bayesft.training.tunable import Dimension, train

LINEAR, LOGARITHMIC = Dimension("rate", 0.2, 0.8), Dimension("gamma", 0.001, 0.1, log=True)


@pytest.mark.parametrize(
    "dimension, unit, value",
    [(LINEAR, 0.0, 0.2), (LINEAR, 0.5, 0.5), (LINEAR, 1.0, 0.8)]
    + [(LOGARITHMIC, 0.0, 0.001), (LOGARITHMIC, 0.5, 0.01), (LOGARITHMIC, 1.0, 0.1)],
)
def test_a_place_in_the_range_is_a_value(dimension, unit, value):
    assert dimension.value(unit) == pytest.approx(value, rel=1e-12)


@given(st.sampled_from([LINEAR, LOGARITHMIC]), st.floats(0, 1))
def test_a_value_leads_back_to_its_place(dimension, unit):
    assert dimension.unit(dimension.value(unit)) == pytest.approx(unit, abs=1e-9)


def declared(problem) -> dict:
    """Each method: what it declares, values, the same training by its own function, and what that says of itself."""
    sites, fault = find_sites(problem.fresh(), problem.train.images[:1]), LogNormalDrift()
    return {
        "awp": (awp.tunable(), (0.02,), lambda: awp.train(problem, 0.02), {"gamma": 0.02}),
        "drift_aware": (
            drift_aware.tunable(fault, "all"),
            (0.7,),
            lambda: drift_aware.train(problem, fault, 0.7, "all"),
            {"sigma_train": 0.7},
        ),
        "drift_dropout": (
            drift_dropout.tunable(sites, (0.0, 0.8), lambda s: drift_gradient(fault, s, "all", drift_dropout.RISE)),
            (0.3, 0.7),
            lambda: drift_dropout.train(problem, fault, 0.3, 0.7, "all"),
            {"rates": {"2": 0.3, "4": 0.3}, "sigma_train": 0.7},
        ),
        "uniform": (
            uniform.tunable(sites, (0.0, 0.8)),
            (0.3,),
            lambda: uniform.train(problem, 0.3),
            {"rates": {"2": 0.3, "4": 0.3}},
        ),
        "bayesft": (
            dropout_rates.tunable(sites, (0.0, 0.8)),
            (0.1, 0.4),
            lambda: dropout_rates.train(problem, sites, (0.1, 0.4), "bayesft"),
            {"rates": {"2": 0.1, "4": 0.4}},
        ),
    }


@pytest.mark.parametrize("method", ["awp", "drift_aware", "drift_dropout", "uniform", "bayesft"])
def test_training_under_declared_values_is_the_method(make_problem, method):
    problem = make_problem()
    tunable, values, own, about = declared(problem)[method]
    assert len(tunable.dimensions) == len(values)
    assert all(d.low <= value <= d.high for d, value in zip(tunable.dimensions, values, strict=True))
    found, expected = train(problem, tunable, values, method, more=1), own()
    assert found.about == {"epochs": 4, **about, "more": 1} and expected.about == {"epochs": 4, **about}
    weights, others = found.members[0], expected.members[0]
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("method", ["awp", "drift_aware", "drift_dropout", "uniform", "bayesft"])
def test_every_declared_number_changes_the_training(make_problem, method):
    problem = make_problem()
    tunable, *_ = declared(problem)[method]

    def weights(units):
        values = [d.value(u) for d, u in zip(tunable.dimensions, units, strict=True)]
        return torch.cat([w.flatten() for w in train(problem, tunable, values, method).members[0].values()])

    count = len(tunable.dimensions)
    middle = weights([0.5] * count)
    for i in range(count):
        assert not torch.equal(weights([0.8 if i == j else 0.5 for j in range(count)]), middle)
