"""Layers faulty one at a time: known costs, the order, the trade, the choice that `where` takes."""

import matplotlib
import numpy as np
import pytest
import torch
from torch import nn

from bayesft.drift.faults import ReramWan2022
from bayesft.drift.features import MiBB
from bayesft.hardening import sensitivity as module
from bayesft.hardening.measure import evaluate
from bayesft.hardening.sensitivity import sensitivity
from tests.hardening.conftest import Net, data, seeded

matplotlib.use("Agg")


class Shifts(nn.Module):
    """Moves its input by three numbers, which a fault moves on."""

    def __init__(self):
        super().__init__()
        self.small, self.large = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.small.weight.fill_(1)
            self.large.weight.fill_(1)

    def forward(self, x):
        return self.small(x) + 10 * self.large(x)


class Plus:
    """θ′ = θ + level."""

    def perturb(self, theta, level, generator):
        return theta + level


def score(outputs, targets):
    return -(outputs - targets).abs().squeeze(1)


def test_known_costs():
    x = torch.ones(5, 1)
    found = sensitivity(Shifts(), (x, 11 * x), level=0.5, fault=Plus(), score=score, draws=3, progress=False)
    table = found.table().set_index("layer")
    assert list(table.index) == ["large", "small"]
    assert np.allclose(table.cost, [5, 0.5]) and np.allclose(table.gain, [5, 0.5])
    assert (table.parameters == 1).all() and (table.cost_half_width == 0).all()
    trade = found.trade_table()
    assert list(trade.layer) == ["none", "large", "small"] and np.allclose(trade.digital, [0, 0.5, 1])
    assert np.allclose(trade.score, [-5.5, -0.5, 0])


def test_numbers_are_those_of_evaluate_and_where_takes_the_choice():
    model, given = seeded(Net), data()
    found = sensitivity(model, given, level=0.8, draws=3, progress=False)
    same = dict(levels=(0.8,), draws=3, progress=False)
    a = lambda name, *_: name.startswith("a.")  # noqa: E731
    assert np.array_equal(found.alone["a"].scores, evaluate(model, given, where=a, **same).scores)
    assert np.array_equal(found.without["b"].scores, found.alone["a"].scores)
    assert np.array_equal(evaluate(model, given, where=found.where(["b"]), **same).scores, found.alone["a"].scores)
    assert found.sizes == {"a": 8 * 16 + 16, "b": 16 * 3 + 3}
    assert found.trade[-1][1] == 1 and found.trade[-1][2] is found.clean
    weights = sensitivity(model, given, where="weights", draws=2, trade=False, progress=False)
    assert weights.sizes == {"a": 8 * 16, "b": 16 * 3} and weights.trade == ()
    for bad in (["c"], "a"):
        with pytest.raises(ValueError, match="digital"):
            found.where(bad)


def test_what_is_printed_and_drawn():
    found = sensitivity(seeded(Net), data(), draws=3, progress=False)
    assert "with all layers faulty" in str(found) and "kept digital" in str(found)
    assert [tick.get_text() for tick in found.plot().get_yticklabels()][::-1] == list(found.table().layer)
    assert np.allclose(found.plot_trade().lines[0].get_xdata(), found.trade_table().digital)


def test_what_is_refused_and_an_interruption(monkeypatch):
    model, (x, y) = seeded(Net), data()
    for changes in (dict(level=0), dict(level=float("nan")), dict(levels=(1,)), dict(draws=2.5)):
        with pytest.raises(ValueError, match=next(iter(changes))):
            sensitivity(model, (x, y), progress=False, **changes)
    with pytest.raises(ValueError, match="needs a fault of parameters"):
        sensitivity(model, (x, y), fault=MiBB(), progress=False)
    with pytest.raises(ValueError, match="iterator"):
        sensitivity(model, iter([(x, y)]))
    calls, real = [], module.evaluate

    def evaluate(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(module, "evaluate", evaluate)
    part = sensitivity(model, (x, y), draws=2, progress=False)
    assert list(part.alone) == list(part.without) == ["a"] and len(part.table()) == 1 and len(part.trade) == 1


def test_a_fault_that_is_there_at_level_0_costs_what_the_network_loses():
    x = torch.ones(5, 1)
    same = dict(score=score, draws=2, progress=False)
    found = sensitivity(Shifts(), (x, 11 * x), level=0.0, fault=Always(), **same)
    assert np.allclose(found.table().cost, [10, 1]) and found.clean.mean == 0


class Always(Plus):
    """θ′ = θ + 1 + level."""

    def perturb(self, theta, level, generator):
        return theta + 1 + level


def test_a_fault_with_few_levels_is_measured_at_one_of_them():
    model, given = seeded(Net), data()
    found = sensitivity(model, given, fault=ReramWan2022(), draws=2, trade=False, progress=False)
    assert found.every.levels == [86400]
    with pytest.raises(ValueError, match="level = 2.0: .* must be 1, 86400 or 172800"):
        sensitivity(model, given, fault=ReramWan2022(), level=2.0, progress=False)
