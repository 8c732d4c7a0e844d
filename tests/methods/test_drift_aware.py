"""Drift-aware training: which drift each step meets, and how the gradient goes through it."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bayesft.drift import LogNormalDrift
from bayesft.methods import load
from bayesft.methods.drift_aware import drift_gradient
from bayesft.models import build
from bayesft.training import accuracy, plain_gradient
from tests.problems import patterns, same, tiny, train

DEEP = {"network": "mlp", "inputs": 16, "hidden": [12, 8], "outputs": 4}


@dataclass
class Recorder:
    """A fault that multiplies by a known factor and notes what it is asked for."""

    factor: float = 1.0
    calls: list = field(default_factory=list)

    def perturb(self, theta: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
        self.calls.append((theta, sigma, generator.initial_seed()))
        return theta * self.factor


def test_tiny_drift_leaves_the_plain_gradient():
    data, plain, drifted = patterns(40), build(DEEP, 0), build(DEEP, 0)
    expected = plain_gradient(plain, F.cross_entropy, *data)
    torch.manual_seed(0)
    value = drift_gradient(LogNormalDrift(), 1e-9, "all")(drifted, F.cross_entropy, *data)
    torch.testing.assert_close(value, expected)
    for a, b in zip(plain.parameters(), drifted.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_gradient_reaches_the_weights_through_the_drift():
    model = nn.Linear(5, 3).double()
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(7, 5, generator=generator, dtype=torch.float64), torch.arange(7) % 3
    torch.manual_seed(11)
    value = drift_gradient(LogNormalDrift(), 1.5, "all")(model, F.cross_entropy, x, y)

    torch.manual_seed(11)
    sigma = float(torch.rand(()) * 1.5)
    draws = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    factors = [
        (sigma * torch.randn(p.shape, generator=draws, dtype=torch.float64)).exp() for p in (model.weight, model.bias)
    ]
    w, b = ((p.detach() * e).requires_grad_() for p, e in zip((model.weight, model.bias), factors, strict=True))
    loss = F.cross_entropy(x @ w.T + b, y)
    at_drifted = torch.autograd.grad(loss, (w, b))
    torch.testing.assert_close(value, loss.detach())
    # dℓ/dθ = dℓ/dθ′ · e^λ
    torch.testing.assert_close(model.weight.grad, at_drifted[0] * factors[0])
    torch.testing.assert_close(model.bias.grad, at_drifted[1] * factors[1])
    assert not torch.allclose(factors[0], torch.ones_like(factors[0]), atol=0.05)  # or the test says nothing


def test_gradient_through_a_known_factor():
    model = nn.Linear(5, 3, bias=False).double()
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    square = lambda out, _: out.square().sum()  # noqa: E731
    drift_gradient(Recorder(3.0), 1.0, "all")(model, square, x, torch.zeros(7))
    # d/dW ‖x (3W)ᵀ‖² = 2 · 3² · W xᵀx
    torch.testing.assert_close(model.weight.grad, 18 * model.weight.detach() @ x.T @ x)


def test_weights_themselves_stay():
    model = build(DEEP, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    drift_gradient(LogNormalDrift(), 1.5, "all")(model, F.cross_entropy, *patterns(40))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("parameters, dimensions", [("all", {1, 2}), ("weights", {2})])
def test_only_the_chosen_parameters_drift(parameters, dimensions):
    # With a factor of 0 on its weights, a network's logits are its last bias: alike for all images.
    model, fault, outputs = build({**DEEP, "normalization": "layer"}, 0), Recorder(0.0), []

    def loss(out, y):
        outputs.append(out.detach())
        return F.cross_entropy(out, y)

    drift_gradient(fault, 1.0, parameters)(model, loss, *patterns(40))
    assert {theta.dim() for theta, _, _ in fault.calls} == dimensions
    drifting = [p for p in model.parameters() if p.dim() in dimensions]
    assert len(fault.calls) == len(drifting)
    last_bias = list(model.parameters())[-1].detach()
    torch.testing.assert_close(outputs[0], (0 * last_bias if parameters == "all" else last_bias).expand(40, 4))


def test_unknown_choice_of_parameters_is_refused():
    with pytest.raises(ValueError, match="must be one of all, weights"):
        drift_gradient(LogNormalDrift(), 1.0, "biases")(build(DEEP, 0), F.cross_entropy, *patterns(8))


def test_each_step_meets_a_fresh_drift_of_a_level_that_is_uniform():
    model, fault, data = build(DEEP, 0), Recorder(), patterns(8)
    gradient = drift_gradient(fault, 1.5, "all")
    torch.manual_seed(0)
    for _ in range(400):
        gradient(model, F.cross_entropy, *data)
    count = len(list(model.parameters()))
    levels = torch.tensor([sigma for _, sigma, _ in fault.calls]).view(400, count)
    assert (levels == levels[:, :1]).all()  # one level a step
    level = levels[:, 0].sort().values
    assert level[0] >= 0 and level[-1] <= 1.5
    # Kolmogorov-Smirnov distance from the uniform law; 1.63 / √n is its 1 % point
    assert (level / 1.5 - (torch.arange(400) + 0.5) / 400).abs().max() < 1.63 / 400**0.5
    assert len({seed for _, _, seed in fault.calls}) == 400


def test_the_level_of_drift_rises_over_the_first_share_of_the_training():
    model, data = build(DEEP, 0), patterns(8)
    levels = {}
    for progress in (0.0, 0.1, 0.3, 0.5, 0.9):
        fault = Recorder()
        gradient = drift_gradient(fault, 1.5, "all", rise=0.5)
        torch.manual_seed(3)
        gradient(model, F.cross_entropy, *data, progress)
        levels[progress] = fault.calls[0][1]
    assert levels[0.0] == 0 and levels[0.1] == pytest.approx(levels[0.9] / 5)
    assert levels[0.3] == pytest.approx(levels[0.9] * 0.6) and levels[0.5] == levels[0.9] > 0


def test_training_learns_and_repeats():
    problem = tiny(epochs=30)
    trained = train(load("drift_aware"), problem, sigma_train=0.8)
    assert trained.about == {"epochs": 30, "sigma_train": 0.8}
    assert accuracy(trained.networks()[0], problem.validation) >= 0.95
    torch.manual_seed(5)
    assert same(train(load("drift_aware"), problem, sigma_train=0.8).members[0], trained.members[0])
