"""The objective, eqs. (3) and (4), worked out by hand."""

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from bayesft.drift import LogNormalDrift, drifted_parameters
from bayesft.search.objective import Objective
from bayesft.training import Diverged
from tests.search.searches import make_problem

SIGMAS = (0.4, 1.0)


def objective(problem, kind="accuracy", draws=4, sigmas=SIGMAS):
    def scores(model, levels, numbers, key):
        return problem.scores(model, levels, numbers, key, kind)

    return Objective(scores, sigmas, draws, (problem.task, problem.seed, "search"))


@pytest.mark.parametrize("kind", ["accuracy", "neg_loss"])
def test_it_is_the_mean_over_draws_and_levels(kind):
    problem = make_problem()
    model, data = problem.fresh(), problem.validation
    per_draw = []
    for draw in range(5):
        scores = []
        for sigma in SIGMAS:
            copy = drifted_parameters(model, LogNormalDrift(), sigma, ("tiny", 0, "search", "trial", 2), draw)
            outputs = functional_call(model, copy, (data.images,)).detach()
            right = (outputs.argmax(1) == data.labels).float().mean()
            scores.append(float(right if kind == "accuracy" else -F.cross_entropy(outputs, data.labels)))
        per_draw.append(sum(scores) / len(scores))
    per_draw = torch.tensor(per_draw, dtype=torch.float64)
    mean, error = objective(problem, kind)(model, ("trial", 2), 5)
    assert mean == pytest.approx(float(per_draw.mean()), rel=1e-5)
    assert error == pytest.approx(float(per_draw.std(correction=1)) / 5**0.5, rel=1e-4)
    assert error > 0


def test_a_draw_that_all_levels_share_counts_once():
    # Two levels of the same scores: the error is that of three numbers, not of six.
    scores = torch.tensor([[0.2, 0.4, 0.9]], dtype=torch.float64).expand(2, 3)
    mean, error = Objective(lambda *_: scores, SIGMAS, 3, ())(torch.nn.Identity(), ("trial", 0))
    assert mean == pytest.approx(0.5)
    assert error == pytest.approx(float(torch.tensor([0.2, 0.4, 0.9]).std()) / 3**0.5)


def test_each_purpose_has_fresh_draws_that_repeat():
    problem = make_problem()
    model, u = problem.fresh(), objective(problem, "neg_loss")
    purposes = [("trial", 0), ("trial", 1), ("trial", 10), ("recheck", 0), ("recheck", 1), ("halfway", 0)]
    values = [u(model, purpose) for purpose in purposes]
    assert len(set(values)) == len(purposes)
    torch.manual_seed(99)
    assert [u(model, purpose) for purpose in purposes] == values


def test_the_chosen_parameters_alone_drift():
    # A network whose only parameters are biases that decide: "weights" leaves its answers alone.
    network = {"network": "mlp", "inputs": 16, "hidden": [], "outputs": 4}
    measured = {}
    for parameters in ("weights", "all"):
        problem = make_problem(specification=network, parameters=parameters)
        model = problem.fresh()
        with torch.no_grad():
            model[1].weight.zero_()
            model[1].bias.copy_(torch.tensor([1.0, 1.001, 1.002, 1.003]))
        measured[parameters] = objective(problem, "neg_loss")(model, ("trial", 0)).mean
        clean = -float(F.cross_entropy(model(problem.validation.images), problem.validation.labels).detach())
    assert measured["weights"] == pytest.approx(clean, rel=1e-6)
    assert measured["all"] < clean - 0.01


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_refused(value):
    u = Objective(lambda *_: torch.tensor([[0.5, value]]), (0.3,), 2, ())
    with pytest.raises(Diverged, match="not finite"):
        u(torch.nn.Identity(), ("trial", 0))
