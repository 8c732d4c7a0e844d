"""The input projections of attention: against linear layers by hand, folded and kept, of all shapes that there are."""

import copy

import pytest
import torch
from torch import nn

from bayesft.calibration import calibrate, calibrated, calibration_reference, corrections, uncalibrate
from bayesft.calibration.moments import Moments

from .conftest import drifted

KINDS = {
    "self": {},
    "without bias": {"bias": False},
    "other keys and values": {"kdim": 6, "vdim": 5},
}


class Attends(nn.Module):
    """Attends to other inputs than its own, given by name, of another length."""

    def __init__(self, bias: bool = True, kdim: int | None = None, vdim: int | None = None):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, bias=bias, kdim=kdim, vdim=vdim, batch_first=True)

    def forward(self, query, key, value):
        return self.attention(query, key=key, value=value, need_weights=False)[0]


def made(kind: str) -> tuple[Attends, tuple]:
    given = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Attends(**given).eval()
        if given.get("bias", True):
            nn.init.normal_(model.attention.in_proj_bias)
        widths = (8, given.get("kdim", 8), given.get("vdim", 8))
        return model, tuple(torch.randn(30, 4 + (i > 0), width) for i, width in enumerate(widths))


def outputs(model: Attends, x: tuple) -> list[torch.Tensor]:
    """The three projections of the inputs."""
    a = model.attention
    own = a.in_proj_weight is None
    weights = (a.q_proj_weight, a.k_proj_weight, a.v_proj_weight) if own else a.in_proj_weight.chunk(3)
    biases = (0, 0, 0) if a.in_proj_bias is None else a.in_proj_bias.chunk(3)
    return [inputs @ w.T + b for inputs, w, b in zip(x, weights, biases, strict=True)]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_projections_have_the_moments_of_the_clean_ones(kind):
    clean, x = made(kind)
    faulty = drifted(clean)
    reference = calibration_reference(clean, x)
    found = calibrate(faulty, reference, x)
    for got, expected, name in zip(outputs(found, x), outputs(clean, x), ("q", "k", "v"), strict=True):
        torch.testing.assert_close(Moments.of(got, (-1,)), Moments.of(expected, (-1,)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(reference.moments[f"attention.{name}_proj"][0], Moments.of(expected, (-1,)))
    assert (found(*x) - clean(*x)).norm() < (faulty(*x) - clean(*x)).norm()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_folded_and_kept_agree_and_are_undone(kind):
    clean, x = made(kind)
    faulty, reference = drifted(clean), calibration_reference(clean, x)
    before, given = copy.deepcopy(faulty.state_dict()), dict(faulty.named_parameters())
    folded, kept = calibrate(faulty, reference, x), calibrate(faulty, reference, x, fold=False)
    torch.testing.assert_close(folded(*x), kept(*x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(kept)(*x), kept(*x))  # a copy has corrections of its own
    assert set(corrections(folded)) == set(reference.moments) == set(corrections(kept))
    for model in (folded, kept, copy.deepcopy(kept)):
        state = uncalibrate(model).state_dict()
        assert state.keys() == before.keys() and all(torch.equal(state[name], before[name]) for name in before)
        assert not model.attention._forward_hooks and not model.attention._forward_pre_hooks
    with calibrated(faulty, reference, x, fold=False):
        assert all(theta is given[name] for name, theta in faulty.named_parameters())


@torch.no_grad()
def test_rows_that_are_scaled_and_shifted_are_restored():
    clean, x = made("self")
    faulty = copy.deepcopy(clean)
    factors = torch.linspace(0.5, 2, 24)
    faulty.attention.in_proj_weight.mul_(factors.unsqueeze(1))
    faulty.attention.in_proj_bias.mul_(factors).add_(0.3)
    names = [f"attention.{part}_proj" for part in "qkv"]
    found = calibrate(faulty, calibration_reference(clean, x, layers=names), x)
    torch.testing.assert_close(found(*x), clean(*x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(corrections(found)["attention.q_proj"].scale, 1 / factors[:8], rtol=1e-4, atol=1e-5)
