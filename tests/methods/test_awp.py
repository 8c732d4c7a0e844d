"""Adversarial weight perturbation: where the gradient is taken, and that the weights come back."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesft.methods import load
from bayesft.methods.awp import awp_gradient
from bayesft.models import build
from bayesft.training import accuracy, plain_gradient
from tests.problems import patterns, tiny, train

DEEP = {"network": "mlp", "inputs": 16, "hidden": [12, 8], "outputs": 4}


def test_gradient_is_that_at_the_perturbed_weights_worked_out_by_hand():
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(3, 4).double()
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    y = torch.arange(6) % 4
    w, b = model.weight.detach().numpy().copy(), model.bias.detach().numpy().copy()
    gamma = 0.3

    def at(weights):  # softmax regression: loss and its gradients
        logits = x.numpy() @ weights.T + b
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        residual = (p - np.eye(4)[y.numpy()]) / len(y)
        return -np.log(p[range(6), y.numpy()]).mean(), residual.T @ x.numpy(), residual.sum(0)

    g = at(w)[1]
    loss, weight_gradient, bias_gradient = at(w + gamma * np.linalg.norm(w) * g / np.linalg.norm(g))
    value = awp_gradient(gamma)(model, F.cross_entropy, x, y)
    assert float(value) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(model.weight.grad.numpy(), weight_gradient, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(model.bias.grad.numpy(), bias_gradient, rtol=1e-10, atol=1e-14)
    assert not np.allclose(weight_gradient, g)  # or the test says nothing


@pytest.mark.parametrize("specification", [DEEP, {**DEEP, "normalization": "layer"}])
def test_weights_come_back_bit_for_bit(specification):
    model, data = build(specification, 0), patterns(40)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for _ in range(20):
        model.zero_grad()
        awp_gradient(0.37)(model, F.cross_entropy, *data)
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name
        assert p.requires_grad


def test_each_weight_tensor_moves_by_gamma_times_its_own_norm_and_biases_stay():
    model, data, seen = build({**DEEP, "normalization": "layer"}, 0), patterns(40), []
    model.register_forward_pre_hook(
        lambda module, _: seen.append({name: p.detach().clone() for name, p in module.named_parameters()})
    )
    awp_gradient(0.05)(model, F.cross_entropy, *data)
    clean, perturbed = seen
    dimensions = {p.dim() for p in clean.values()}
    assert dimensions == {1, 2}
    for name, w in clean.items():
        if w.dim() == 1:
            assert torch.equal(perturbed[name], w), name
        else:
            move = float((perturbed[name] - w).norm() / w.norm())
            assert move == pytest.approx(0.05, rel=1e-4), name


def test_perturbation_climbs():
    model, data = build(DEEP, 0), patterns(40)
    clean = F.cross_entropy(model(data.images), data.labels).item()
    assert float(awp_gradient(0.05)(model, F.cross_entropy, *data)) > clean + 0.01


def test_vanishing_perturbation_is_the_plain_gradient():
    data = patterns(40)
    plain, perturbed = build(DEEP, 0), build(DEEP, 0)
    plain_gradient(plain, F.cross_entropy, *data)
    awp_gradient(0.0)(perturbed, F.cross_entropy, *data)
    for a, b in zip(plain.parameters(), perturbed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_zero_gradient_perturbs_nothing():
    model, data = build(DEEP, 0), patterns(40)
    value = awp_gradient(0.1)(model, lambda out, y: 0 * out.sum() + 2, *data)
    assert float(value) == 2
    assert all(torch.isfinite(p).all() and torch.isfinite(p.grad).all() for p in model.parameters())


def test_training_learns():
    problem = tiny(epochs=20)
    trained = train(load("awp"), problem, gamma=0.02)
    assert trained.about == {"epochs": 20, "gamma": 0.02}
    assert accuracy(trained.networks()[0], problem.validation) >= 0.95
