"""Networks and data that many tests of the front door share."""

import pytest
import torch
from torch import Tensor, nn

from bayesft.drift import LogNormalDrift
from bayesft.drift.copies import faulty, swapped


class Net(nn.Module):
    """Two layers, 8 inputs, 3 classes."""

    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


class Centres(Net):
    """It learns a mean that is no part of its state_dict."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mu", torch.zeros(8), persistent=False)

    def forward(self, x):
        if self.training:
            self.mu.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return super().forward(x - self.mu)


def seeded(build, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def data(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :3].argmax(1)


def equal(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def by_hand(model, x, y, level, draw, seed=0, where="all", fault=LogNormalDrift()) -> float:
    """The accuracy of one faulty copy, as one would write it for oneself."""
    modes = [(m, m.training) for m in model.modules()]
    with swapped(model, faulty(model, fault, ("evaluate", seed), draw, where)(level)), torch.no_grad():
        right = (model.eval()(x.clone()).argmax(1) == y).double().mean().item()
    for module, mode in modes:
        module.training = mode
    return right


@pytest.fixture
def net() -> nn.Module:
    return seeded(Net)
