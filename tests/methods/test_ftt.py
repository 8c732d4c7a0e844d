"""Fault-tolerant training: two passes of a batch, with and without the fault."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesft.data import Split
from bayesft.drift import LogNormalDrift, monte_carlo
from bayesft.drift.faults import Float32BitFlips, Quantise, StuckCells, default_level
from bayesft.drift.features import GaussianFeature, MiBB
from bayesft.hardening.harden import harden
from bayesft.hardening.step import Hardening
from bayesft.methods import load
from bayesft.methods.ftt import ftt_gradient, quantise_, quantised_weights
from bayesft.settings import Recipe
from bayesft.training import fit, plain_gradient
from bayesft.training.trained import accuracy_score
from tests.problems import patterns, tiny

SIDE = 8
X, Y = patterns(24, side=SIDE)
FAULTS = [(StuckCells(), 0.1), (MiBB(), 1e-3), (LogNormalDrift(), 0.5), (GaussianFeature(), 0.1)]


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)]
        return nn.Sequential(*body, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4))


def step(gradient, model: nn.Module | None = None) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and gradients of one step, from a fixed state of the global generator."""
    model = model or network()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        value = gradient(model.train(), F.cross_entropy, X, Y)
    return float(value), {name: theta.grad for name, theta in model.named_parameters()}


def equal(first, second) -> bool:
    return first[0] == second[0] and all(torch.equal(g, second[1][name]) for name, g in first[1].items())


@pytest.mark.parametrize(("fault", "level"), FAULTS)
def test_without_the_fault_a_step_is_a_plain_one(fault, level):
    assert equal(step(ftt_gradient(fault, level, 0.0)), step(plain_gradient))


@pytest.mark.parametrize("fault", [StuckCells(), LogNormalDrift(), GaussianFeature()])
def test_at_level_0_the_faulty_pass_is_a_plain_one(fault):
    assert equal(step(ftt_gradient(fault, 0.0, 1.0)), step(plain_gradient))
    bits = step(ftt_gradient(fault, 0.0, 0.0, bits=8))
    assert equal(step(ftt_gradient(fault, 0.0, 1.0, bits=8)), bits)


def test_quantised_steps_are_plain_steps_of_the_quantised_network():
    quantised = quantise_(network(), 4)
    assert equal(step(ftt_gradient(StuckCells(), 0.1, 0.0, bits=4)), step(plain_gradient, quantised))
    assert not equal(step(ftt_gradient(StuckCells(), 0.1, 0.0)), step(plain_gradient, quantised))
    changed = {
        name for name, theta in network().named_parameters() if not torch.equal(theta, quantised.get_parameter(name))
    }
    assert changed == set(quantised_weights(network(), 4)) == {"0.weight", "3.weight", "8.weight"}
    assert torch.equal(Quantise(bits=4).perturb(quantised[0].weight, 0, None), quantised[0].weight)


@pytest.mark.parametrize(("alpha", "passes"), [(0.0, 1), (1.0, 1), (0.7, 2)])
def test_a_step_has_no_pass_that_counts_for_nothing(alpha, passes):
    model, calls = network(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    step(ftt_gradient(StuckCells(), 0.1, alpha, bits=8), model)
    assert len(calls) == passes == int(model[1].num_batches_tracked)


@pytest.mark.parametrize(("fault", "level"), FAULTS)
@pytest.mark.parametrize("bits", [0, 8])
def test_gradients_are_finite_and_the_parameters_stay(fault, level, bits):
    model, before = network(), network().state_dict()
    parameters = "convolutions" if fault == StuckCells() else "all"
    value, gradients = step(ftt_gradient(fault, level, 0.7, parameters, bits), model)
    assert value > 0 and all(g.isfinite().all() and g.any() for g in gradients.values())
    assert all(torch.equal(theta, before[name]) for name, theta in model.named_parameters())
    clean, faulty = (step(ftt_gradient(fault, level, alpha, parameters, bits))[0] for alpha in (0.0, 1.0))
    if fault != GaussianFeature() and fault != MiBB():  # these draw other numbers after the other pass's batch norm
        assert value == pytest.approx(0.3 * clean + 0.7 * faulty, rel=1e-5)
    assert faulty != clean


def test_only_convolutions_are_stuck_and_all_weights_are_quantised():
    model, seen = network(), {}

    class Spy(StuckCells):
        def faulty(self, theta, level, generator):
            seen[theta.shape] = theta.detach().clone()
            return super().faulty(theta, level, generator)

    step(ftt_gradient(Spy(), 0.1, 1.0, "convolutions", bits=4), model)
    stored = quantised_weights(model, 4)
    assert list(seen) == [model[0].weight.shape, model[3].weight.shape]
    assert torch.equal(seen[model[0].weight.shape], stored["0.weight"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha": 1.1}, "alpha = 1.1: must be from 0 to 1"),
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"level": 2.0}, "p = 2.0: must be from 0 to 1"),
        ({"level": -0.1}, "p = -0.1"),
        ({"fault": Float32BitFlips()}, "it has no gradient to train with"),
    ],
)
def test_what_can_not_be_trained_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        ftt_gradient(**{"fault": StuckCells(), "level": 0.1, "alpha": 0.5, **change})


def test_a_training_repeats_bit_for_bit_and_the_method_is_one_of_all():
    method, values = load("ftt"), {"alpha": 0.7, "level": 1.0, "bits": 8}
    problem = tiny(fault=StuckCells())
    first, second = (method.train(problem, values, {})["ftt"].members[0] for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    by_name = {h.name: h for h in method.hyperparameters(problem)}
    assert (by_name["alpha"].low, by_name["alpha"].high) == (0, 1)
    assert (by_name["level"].low, by_name["level"].high, by_name["level"].log) == (0.25, 2, True)
    assert default_level(StuckCells()) == 0.08 and default_level(MiBB()) == 1e-4


def test_it_helps_under_the_fault_that_it_is_trained_for():
    data, recipe = Split(*patterns(160, side=SIDE, noise=1.0)), Recipe(epochs=12, batch_size=32, lr=0.01)
    fault, level = StuckCells(), 0.15
    test = patterns(160, part=1, side=SIDE, noise=1.0)
    found = {}
    for alpha in (0.0, 0.7):
        model = fit(
            network(), data, recipe, seed=0, label="x", gradient=ftt_gradient(fault, level, alpha, "convolutions")
        )
        found[alpha] = monte_carlo(
            model, *test, accuracy_score, fault, level, range(30), ("test",), "convolutions"
        ).mean()
    assert found[0.7] > found[0.0] + 0.02


def test_anyone_can_harden_a_network_by_it():
    options = {"method": "ftt", "fault": MiBB(), "level": 1e-4, "recipe": Recipe(epochs=2, batch_size=8)}
    found = harden(network(), (X, Y), (X, Y), draws=2, progress=False, **options)
    assert found.settings["alpha"] == 0.7 and found.settings["rates"] == {}
    assert set(found.comparison.curves) == {"given", "hardened"}
    searched = harden(network(), (X, Y), (X, Y), search={"trials": 2, "draws": 2}, draws=2, progress=False, **options)
    assert set(searched.study.best.values) == {"alpha", "level"}
    assert 2.5e-5 <= searched.study.best.values["level"] <= 2e-4
    with pytest.raises(ValueError, match="method = 'fft': must be drift_dropout or ftt"):
        harden(network(), (X, Y), (X, Y), method="fft")


def test_both_passes_in_a_loop_of_ones_own():
    model, fault = network().eval(), LogNormalDrift()
    hardening = Hardening(model, level=0.4, fault=fault, sites=(), alpha=0.25, example=X)
    faulty = Hardening(model, level=0.4, fault=fault, sites=(), example=X)

    def loss() -> torch.Tensor:
        return F.cross_entropy(model(X), Y)

    value = hardening.backward(loss)
    total = [theta.grad.clone() for theta in model.parameters()]
    model.zero_grad()
    (0.75 * loss()).backward()
    with faulty.step():
        (0.25 * loss()).backward()
    for theta, gradient in zip(model.parameters(), total, strict=True):
        assert torch.allclose(theta.grad, gradient, atol=1e-7)
    assert value > 0
    with pytest.raises(ValueError, match="alpha = 2"):
        Hardening(model, fault=fault, sites=(), alpha=2)
