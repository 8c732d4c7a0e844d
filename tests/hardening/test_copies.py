"""Faulty copies in place: the draws of the rest of the library, every alias, every bit given back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

from bayesft.drift import LogNormalDrift, drifted_parameters
from bayesft.drift.copies import faulty, select, swapped

FAULT, KEY = LogNormalDrift(), ("evaluate", 3)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("where", ["all", "weights"])
def test_draws_are_those_of_drifted_parameters(where):
    model = network()
    mine, theirs = faulty(model, FAULT, KEY, 2, where)(0.7), drifted_parameters(model, FAULT, 0.7, KEY, 2, where)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_compiled_network_has_the_draws_of_the_network():
    model = network()
    copies = faulty(torch.compile(model, backend="eager"), FAULT, KEY, 0)(0.7)
    assert all(torch.equal(copies[name], copy) for name, copy in faulty(model, FAULT, KEY, 0)(0.7).items())


@given(st.floats(0, 3), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_swapped_gives_every_bit_back(level, draw):
    model = network()
    with torch.no_grad():
        model[4].bias[0] = float("nan")
    before = {name: theta.detach().clone() for name, theta in model.named_parameters()}
    copies = faulty(model, FAULT, KEY, draw)(level)
    with pytest.raises(RuntimeError, match="mine"), swapped(model, copies):
        for name, theta in model.named_parameters():
            assert torch.equal(theta.view(torch.int32), copies[name].view(torch.int32))
        raise RuntimeError("mine")
    for name, theta in model.named_parameters():
        assert torch.equal(theta.view(torch.int32), before[name].view(torch.int32))


class Aliases(nn.Module):
    """A network that reads its parameters through a tied layer, a list, a closure and a view."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.listed = [self.a.bias]
        self.closure = lambda x: x + self.b.bias
        self.row = self.a.weight.detach()[0]

    def forward(self, x):
        return self.closure(x @ self.b.weight.T + self.listed[0]) * self.row


def test_every_alias_sees_the_fault():
    torch.manual_seed(0)
    model, x = Aliases(), torch.randn(5, 4)
    assert set(select(model)) == {"a.weight", "a.bias", "b.bias"}
    copies = faulty(model, FAULT, KEY, 0)(0.8)
    w, c, d = copies["a.weight"], copies["a.bias"], copies["b.bias"]
    with swapped(model, copies), torch.no_grad():
        assert torch.allclose(model(x), (x @ w.T + c + d) * w[0])


def test_weights_are_matrices_of_products_whatever_holds_them():
    def names(model):
        return set(select(model, "weights"))

    assert names(nn.MultiheadAttention(8, 2)) == {"in_proj_weight", "out_proj.weight"}
    assert names(nn.GRU(3, 4)) == {"weight_ih_l0", "weight_hh_l0"}
    assert names(nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm((3, 4)), nn.Linear(4, 2))) == {"2.weight"}
    tied = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    tied[1].weight = tied[0].weight
    assert names(tied) == {"0.weight"}
    spectral = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    assert names(spectral) == {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"}

    class OfItsOwn(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3))
            self.position = nn.Parameter(torch.ones(1, 3, 4))

    assert names(OfItsOwn()) == {"weight"}


def test_where_as_a_function_and_what_is_refused():
    model = network()
    assert set(select(model, lambda name, module, theta: isinstance(module, nn.BatchNorm2d))) == {"1.weight", "1.bias"}
    with pytest.raises(ValueError, match="where = 'biases'"):
        select(model, "biases")
    with pytest.raises(ValueError, match="counts"):
        select(model, lambda *_: False)


def test_integers_never_drift_and_complex_parts_drift_apart():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.ids = nn.Parameter(torch.arange(3), requires_grad=False)
            self.wave = nn.Parameter(torch.ones(2000, dtype=torch.complex64) * (1 + 1j))

    copies = faulty(Mixed(), FAULT, KEY, 0)(0.5)
    assert set(copies) == {"wave"}
    parts = torch.view_as_real(copies["wave"]).log()
    assert parts.std(0).sub(0.5).abs().max() < 0.04 and torch.corrcoef(parts.T)[0, 1].abs() < 0.1


def test_a_fault_gets_name_and_module_where_it_asks_for_them():
    class Protected:
        def perturb(self, theta, level, generator, *, name, module):
            return theta if isinstance(module, nn.Linear) else theta + level

    model = network()
    copies = faulty(model, Protected(), KEY, 0)(2.0)
    assert torch.equal(copies["4.weight"], model[4].weight) and torch.equal(copies["0.bias"], model[0].bias + 2)

    class Short:
        def perturb(self, theta, level, generator):
            return theta[:1]

    with pytest.raises(ValueError, match="0.weight"):
        faulty(model, Short(), KEY, 0)(1.0)
