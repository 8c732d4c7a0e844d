"""`evaluate` and `compare` with calibrated copies, against calibration by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesft
from bayesft import LogNormalDrift, compare, evaluate
from bayesft.calibration import calibrate, calibration_reference
from bayesft.drift.copies import faulty, swapped
from tests.hardening.conftest import Net, data, seeded

LEVELS, DRAWS = (0, 0.8, 1.5), 3


class Named(nn.Module):
    """Takes its inputs by name."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, left, right):
        return self.net(left * right)


def by_hand(model, examples, inputs, y, level, draw) -> float:
    reference = calibration_reference(model, examples)
    with swapped(model, faulty(model, LogNormalDrift(), ("evaluate", 0), draw)(level)):
        copy = calibrate(model, reference, examples)
    with torch.no_grad():
        outputs = copy(**inputs) if isinstance(inputs, dict) else copy(inputs)
    return (outputs.argmax(1) == y).double().mean().item()


@pytest.mark.parametrize("named", [False, True])
def test_each_copy_is_calibrated_with_the_same_examples(named):
    (x, y), model = data(200), seeded(Named if named else Net)
    inputs = {"left": x, "right": torch.full_like(x, 0.5)} if named else x
    examples = {key: value[:40] for key, value in inputs.items()} if named else x[:40]
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = evaluate(model, [{**inputs, "labels": y}] if named else (x, y), calibrate=examples, levels=LEVELS,
                     draws=DRAWS, progress=False)  # fmt: skip
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    expected = [[by_hand(model, examples, inputs, y, level, draw) for draw in range(DRAWS)] for level in LEVELS]
    assert np.allclose(found.scores, expected)
    assert "each copy calibrated with 40 examples" in str(found)


def test_calibrated_and_not_are_paired():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)), torch.randn(300, 8)
    y = model(x).argmax(1)
    plain = evaluate(model, (x, y), levels=LEVELS, draws=6, progress=False)
    better = evaluate(model, (x, y), calibrate=x[:64], levels=LEVELS, draws=6, progress=False)
    gain = better.minus(plain)
    assert gain.mean[0] == 0 and gain.mean[1] > 0.05 and plain.about["calibrated"] == ""
    both = compare({"a": model, "b": model}, (x, y), calibrate=x[:64], levels=LEVELS, draws=2, progress=False)
    assert np.array_equal(both.curves["b"].scores, better.scores[:, :2])


def test_a_copy_that_is_not_finite_is_measured_as_it_is():
    class Broken(LogNormalDrift):
        def perturb(self, theta, level, generator):
            return torch.full_like(theta, torch.nan) if level else theta.clone()

    x, y = data()
    found = evaluate(seeded(Net), (x, y), fault=Broken(), calibrate=x, levels=(0, 1), draws=2, progress=False)
    assert (found.scores[1] == 0).all() and (found.not_finite[1] == len(x)).all()


@pytest.mark.parametrize(
    "examples, message",
    [
        (torch.zeros(20, 7), "calibrate: .*shapes cannot be multiplied"),
        (torch.zeros(1, 8), "calibrate: .*at least two"),
        ([torch.zeros(20, 8)], "calibrate = list: must be examples"),
        (torch.full((20, 8), torch.inf), "calibrate: .*not finite"),
    ],
)
def test_what_is_refused_before_the_measurement(examples, message):
    model = seeded(Net)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        evaluate(model, data(), calibrate=examples, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_front_has_both_functions():
    assert bayesft.calibrate is calibrate and bayesft.calibration_reference is calibration_reference
