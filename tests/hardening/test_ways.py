"""What is known of a network's structure spares work and changes no number."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesft import evaluate
from bayesft.hardening import measure
from tests.hardening.conftest import seeded


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4)
    )


def normalised() -> nn.Module:
    body = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
    return nn.Sequential(nn.Flatten(1, 2), nn.TransformerEncoder(layer, 1), nn.Flatten(), nn.Linear(144, 4))


def images(count: int = 301):
    x = torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    return x, torch.arange(count) % 4


def minus_loss(outputs, targets):
    return -F.cross_entropy(outputs, targets, reduction="none")


def not_the_first(name, module, parameter):
    return not name.startswith("0.")


@pytest.mark.parametrize("where", ["all", not_the_first])
@pytest.mark.parametrize("build", [lenet, normalised, attention])
def test_a_network_that_is_known_has_the_scores_of_one_that_is_not(build, where, monkeypatch):
    net, data = seeded(build), images()
    options = {"levels": (0.0, 0.4, 0.8), "draws": 3, "score": minus_loss, "where": where, "progress": False}
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    ways = []
    choose = measure._Work._choose_way
    monkeypatch.setattr(measure._Work, "_choose_way", lambda self, batch: (choose(self, batch), ways.append(self)))
    found = evaluate(net, data, **options)
    assert ways[0].steady and (ways[0].shared is not None) == (build is lenet)
    monkeypatch.setattr(measure, "is_known", lambda model: False)
    plain = evaluate(net, data, **options)
    assert not ways[1].steady
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.examples, plain.examples, rtol=1e-3, atol=1e-4)
    assert found.about == plain.about  # also the checksum of the data, however these are batched
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_hook_or_a_forward_of_ones_own_is_never_skipped():
    net, calls = seeded(lenet), []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    found = evaluate(net, images(40), levels=(0.5,), draws=2, progress=False)
    assert len(calls) >= 2
    own = evaluate(
        net, images(40), levels=(0.5,), draws=2, progress=False, forward=lambda m, batch: (m(batch[0]), batch[1])
    )
    np.testing.assert_allclose(own.scores, found.scores)
