"""Faults of activations through the front door: measured, calibrated, and in a training loop."""

import pytest
import torch
from torch import nn

from bayesft.calibration import reestimate_batch_norm
from bayesft.drift.features import GaussianFeature, MiBB
from bayesft.hardening.measure import evaluate
from bayesft.hardening.step import Hardening


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3)
        )


X = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(60) % 3


def outputs(out, _):
    return out[:, 0]


def test_any_network_is_measured_under_faults_of_activations():
    model = network()
    options = {"score": outputs, "fault": GaussianFeature(), "levels": (0, 0.1, 0.3), "draws": 4, "progress": False}
    found = evaluate(model, (X, Y), **options)
    assert len(set(found.scores[0])) == 1 and len(set(found.scores[1])) == 4
    assert (found.scores == evaluate(model, (X, Y), **options).scores).all()
    halves = [(X[:30], Y[:30]), (X[30:], Y[30:])]
    spread = abs(found.scores - found.scores[0]).mean(1)
    assert spread[0] == 0 < spread[1] < spread[2]
    assert evaluate(model, halves, **options).scores[0] == pytest.approx(found.scores[0])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_network_can_be_calibrated_on_a_device_whose_activations_fail():
    model, seen = network(), []

    def calibrate(faulty: nn.Module) -> None:
        seen.append(len(faulty[1]._forward_hooks))
        faulty.load_state_dict(reestimate_batch_norm(faulty, X).state_dict())

    options = {"score": outputs, "fault": MiBB(), "levels": (1e-3,), "draws": 2, "progress": False}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = evaluate(model, (X, Y), **options)
    assert (evaluate(model, (X, Y), calibrate=calibrate, **options).scores != plain.scores).all()
    assert seen == [1, 1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_activations_are_not_chosen_by_where():
    for where in ("weights", lambda name, module, parameter: True):
        with pytest.raises(ValueError, match="where = .* strikes activations"):
            evaluate(network(), (X, Y), fault=MiBB(), where=where, progress=False)


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(ValueError, match="Linear has no Conv2d"):
        evaluate(nn.Linear(4, 3), (torch.randn(5, 4), torch.arange(5) % 3), fault=MiBB(), progress=False)


def test_a_loop_of_ones_own_trains_under_faults_of_activations():
    model = network()
    hardening = Hardening(model, level=1e-3, fault=MiBB(), sites=(), example=X[:4])
    with hardening.step():
        nn.functional.cross_entropy(model(X), Y).backward()
    assert all(theta.grad.isfinite().all() and theta.grad.any() for theta in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


class Functional(nn.Module):
    """It computes with the weights of its convolution, which is never called."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(216, 3)

    def forward(self, x):
        return self.head(nn.functional.conv2d(x, self.conv.weight).relu().flatten(1))


def test_where_no_convolution_is_called_faults_of_activations_are_refused():
    model, options = Functional(), {"fault": GaussianFeature(), "levels": (0, 1.0), "draws": 2, "progress": False}
    with pytest.raises(ValueError, match="none of the modules 'conv' was called"):
        evaluate(model, (X, Y), **options)
    hardening = Hardening(model, sites=(), fault=GaussianFeature())
    with pytest.raises(ValueError, match="none of the modules 'conv' was called"), hardening.step():
        nn.functional.cross_entropy(model(X), Y).backward()


def test_a_compiled_network_is_measured_as_the_network_itself_where_hooks_are_needed():
    model, options = network().eval(), {"levels": (0, 0.5), "draws": 2, "progress": False, "score": outputs}
    compiled = torch.compile(model, backend="eager")
    for more in ({"fault": GaussianFeature()}, {"calibrate": X[:30]}):
        expected = evaluate(model, (X, Y), **options, **more).scores
        assert (evaluate(compiled, (X, Y), **options, **more).scores == expected).all()
    for part in (compiled, nn.Sequential(compiled)):
        with pytest.raises(ValueError, match="compiled network"):
            Hardening(part, sites=(), fault=GaussianFeature())


def test_a_function_that_calibrates_needs_no_pass():
    options = {"fault": GaussianFeature(), "levels": (0.1,), "draws": 2, "progress": False, "score": outputs}
    plain = evaluate(network(), (X, Y), **options)
    assert (evaluate(network(), (X, Y), calibrate=lambda faulty: None, **options).scores == plain.scores).all()
