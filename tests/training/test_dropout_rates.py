"""Training under given dropout rates, and its control with one rate everywhere."""

import pytest
import torch

from bayesft.models import find_sites
from bayesft.training import Problem, accuracy, dropout_rates, erm, tunable, uniform


@pytest.fixture
def networks(monkeypatch):
    """Every network that is made from here on."""
    made, fresh = [], Problem.fresh

    def spy(self, **changes):
        made.append(fresh(self, **changes))
        return made[-1]

    monkeypatch.setattr(Problem, "fresh", spy)
    return made


def hooks_left(networks) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for network in networks for m in network.modules())


def sites_of(problem):
    return find_sites(problem.fresh(), problem.train.images[:1])


def same(first, second) -> bool:
    return all(torch.equal(first.members[0][name], second.members[0][name]) for name in first.members[0])


def test_rates_are_told_by_site_and_the_rest_is_passed_on(make_problem):
    problem = make_problem()
    trained = dropout_rates.train(problem, sites_of(problem), (0.25, 0.5), "bayesft", epochs_search=12, trials=[])
    assert trained.about == {"epochs": 4, "rates": {"2": 0.25, "4": 0.5}, "epochs_search": 12, "trials": []}
    assert trained.specification == problem.specification


def test_uniform_has_its_rate_at_every_site(make_problem):
    assert uniform.train(make_problem(), 0.3).about == {"epochs": 4, "rates": {"2": 0.3, "4": 0.3}}


def test_uniform_is_training_under_equal_rates(make_problem):
    problem = make_problem()
    assert same(uniform.train(problem, 0.3), dropout_rates.train(problem, sites_of(problem), [0.3, 0.3], "x"))


def test_no_hook_is_left(make_problem, networks, monkeypatch):
    problem = make_problem()
    uniform.train(problem, 0.3)
    dropout_rates.train(problem, sites_of(problem), (0.25, 0.5), "bayesft")
    assert networks and hooks_left(networks) == 0

    def fails(model, *_, **__):
        assert hooks_left([model]) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(tunable, "fit", fails)
    with pytest.raises(KeyboardInterrupt):
        uniform.train(problem, 0.3)
    assert hooks_left(networks) == 0


def test_rates_of_zero_are_erm_and_others_are_not(make_problem):
    problem = make_problem()
    plain = erm.train(problem)
    assert same(uniform.train(problem, 0.0), plain)
    assert not same(uniform.train(problem, 0.3), plain)


def test_each_site_has_its_own_rate(make_problem):
    problem = make_problem()
    sites = sites_of(problem)
    first, second = (dropout_rates.train(problem, sites, rates, "x") for rates in ((0.0, 0.6), (0.6, 0.0)))
    assert not same(first, second)


@pytest.mark.parametrize("rates", [[0.5], [0.5, 0.5, 0.5], [0.5, 1.0], [-0.1, 0.5], [float("nan"), 0.5]])
def test_rates_that_fit_no_site_are_refused(make_problem, rates):
    problem = make_problem()
    with pytest.raises(ValueError, match="need one rate in"):
        dropout_rates.train(problem, sites_of(problem), rates, "x")


def test_training_under_dropout_learns(make_problem, recipe):
    problem = make_problem(recipe=recipe.model_copy(update={"epochs": 60}))
    trained = uniform.train(problem, 0.2)
    assert accuracy(trained.networks()[0], problem.validation) >= 0.95
