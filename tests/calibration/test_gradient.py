"""Training that expects calibration: gradients with known answers."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bayesft.calibration import calibrated_gradient
from bayesft.data import Split
from bayesft.drift import LogNormalDrift
from bayesft.methods.drift_aware import drift_gradient
from bayesft.settings import Recipe
from bayesft.training.loop import fit, plain_gradient


@dataclass
class Rows:
    """A fault that multiplies all parameters of an output channel by one factor: what calibration undoes exactly."""

    levels: list = field(default_factory=list)

    def perturb(self, theta: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
        self.levels.append(sigma)
        factors = torch.linspace(0.5, 2, len(theta), dtype=theta.dtype)
        return theta * factors.view(-1, *[1] * (theta.dim() - 1))


def network() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 5), nn.Tanh(), nn.Linear(5, 3)
    )
    return model.double(), torch.randn(12, 2, 7, dtype=torch.float64), torch.arange(12) % 3


def gradients(gradient, model: nn.Module, x: Tensor, y: Tensor, **options) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(7)
    gradient(model, F.cross_entropy, x, y, **options)
    return {name: theta.grad.clone() for name, theta in model.named_parameters()}


@pytest.mark.parametrize("fault", [Rows(), LogNormalDrift()])
def test_the_plain_gradient_where_calibration_undoes_the_fault(fault):
    model, x, y = network()
    level = 1.0 if isinstance(fault, Rows) else 1e-9
    expected = gradients(plain_gradient, model, x, y)
    found = gradients(calibrated_gradient(fault, level), model, x, y)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    without = gradients(drift_gradient(Rows(), 1.0, "all"), model, x, y)
    assert not torch.allclose(without["0.weight"], expected["0.weight"], rtol=0.1)  # or the test says nothing


def test_the_gradient_by_finite_differences():
    model, x, y = network()
    gradient = calibrated_gradient(LogNormalDrift(), 1.0)
    found = gradients(gradient, model, x, y)

    def loss() -> float:
        torch.manual_seed(7)
        return float(gradient(model, F.cross_entropy, x, y))

    for name in ("0.weight", "1.bias", "4.weight", "6.bias"):
        theta = model.get_parameter(name).data.view(-1)
        for index in (0, len(theta) - 1):
            theta[index] += 1e-5
            above = loss()
            theta[index] -= 2e-5
            below = loss()
            theta[index] += 1e-5
            assert float(found[name].view(-1)[index]) == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-8), name


def test_the_loss_is_that_of_the_calibrated_copy():
    model, x, y = network()
    torch.manual_seed(7)
    value = calibrated_gradient(Rows(), 1.0)(model, F.cross_entropy, x, y)
    with torch.no_grad():
        torch.testing.assert_close(value, F.cross_entropy(model(x), y))
    assert not value.requires_grad


@pytest.mark.parametrize(
    ("progress", "rise", "bound"), [(0.1, 0.5, 0.4), (0.5, 0.5, 2.0), (0.9, 0.5, 2.0), (0.0, 0.0, 2.0), (0.2, 0.8, 0.5)]
)
def test_the_level_rises(progress, rise, bound):
    model, x, y = network()
    fault = Rows()
    gradient = calibrated_gradient(fault, 2.0, rise=rise)
    for _ in range(40):
        gradient(model, F.cross_entropy, x, y, progress)
    assert len(set(fault.levels)) == 40  # one for each step
    assert 0.8 * bound < max(fault.levels) <= bound and min(fault.levels) < 0.2 * bound


def test_chosen_parameters_and_layers():
    model, x, y = network()
    expected = gradients(drift_gradient(LogNormalDrift(), 1.0, "weights"), model, x, y)
    found = gradients(calibrated_gradient(LogNormalDrift(), 1.0, "weights", layers=["6"]), model, x, y)
    assert not torch.allclose(found["6.weight"], expected["6.weight"])
    with pytest.raises(ValueError, match="'9' is no module"):
        gradients(calibrated_gradient(LogNormalDrift(), 1.0, layers=["9"]), model, x, y)


def test_nothing_but_the_gradient_is_left():
    model, x, y = network()
    before = {name: value.clone() for name, value in model.named_parameters()}
    inputs = x.clone()
    gradients(calibrated_gradient(LogNormalDrift(), 1.5), model, x, y)
    assert all(torch.equal(theta, before[name]) for name, theta in model.named_parameters())
    assert not any(module._forward_hooks for module in model.modules()) and torch.equal(x, inputs)


def test_dead_channels_leave_the_gradient_finite():
    model, x, y = network()
    with torch.no_grad():
        model[4].weight[1] = 0
    found = gradients(calibrated_gradient(LogNormalDrift(), 1.0), model, x, y)
    assert all(value.isfinite().all() for value in found.values())


def test_it_trains():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator)
    y = (x[:, 0] * x[:, 1] > 0).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    gradient = calibrated_gradient(LogNormalDrift(), 0.5)
    fit(model, Split(x, y), Recipe(epochs=20, batch_size=50, lr=0.02), seed=0, label="xor", gradient=gradient)
    with torch.no_grad():
        assert (model(x).argmax(1) == y).float().mean() > 0.9


def test_blocks_that_are_computed_again_in_the_backward_pass_are_refused():
    model, x, y = network()
    with pytest.raises(ValueError, match="called more often"):
        gradients(calibrated_gradient(LogNormalDrift(), 0.5), Again(model), x, y)


class Again(nn.Module):
    """A network whose blocks keep no activations."""

    def __init__(self, blocks: nn.Sequential):
        super().__init__()
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.blocks[:3], self.blocks[3:]):
            x = checkpoint(block, x, use_reentrant=False)
        return x
