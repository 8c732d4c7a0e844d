"""Training that expects calibration: it is better with calibration than plain training, and its gradient is used."""

import torch

from bayesft.calibration import calibrated_gradient
from bayesft.drift import LogNormalDrift
from bayesft.methods import load
from bayesft.training import fit
from tests.problems import same, tiny


def test_without_dropout_it_is_a_training_by_the_calibrated_gradient():
    problem, method = tiny(), load("calibration_aware")
    found = method.train(problem, {"rate": 0.0, "sigma_train": 1.2}, {})["calibration_aware"]
    model = problem.fresh()
    gradient = calibrated_gradient(LogNormalDrift(), 1.2)
    fit(model, problem.train, problem.recipe, seed=problem.seed, label="by hand", gradient=gradient)
    assert same(found.members[0], {name: value.detach() for name, value in model.state_dict().items()})


def test_what_it_tells_and_what_a_search_is_refused():
    problem, method = tiny(), load("calibration_aware")
    about = method.about(problem, {"rate": 0.2, "sigma_train": 0.7})
    assert about["sigma_train"] == 0.7 and set(about["rates"].values()) == {0.2}
    assert method.searched_as == "method" and method.hyperparameters(problem) == ()
    assert isinstance(method.gradient(problem, {"sigma_train": 0.7}), type(lambda: 0)) and torch.is_grad_enabled()
