"""Faults of activations: rates and values, where they strike, and hooks that leave no trace."""

import math

import pytest
import torch
from torch import nn

from bayesft.drift import LogNormalDrift, monte_carlo, monte_carlo_grid
from bayesft.drift.faults import fault_model
from bayesft.drift.features import (
    FEATURE_FAULTS,
    GaussianFeature,
    MiBB,
    NotStruck,
    places,
    strike_rate,
    struck,
    with_biased_bits,
)
from bayesft.methods.drift_aware import drift_gradient
from bayesft.models import build

KEY = ("a test", 0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def activation(*shape: int) -> torch.Tensor:
    return torch.randn(*shape or (4, 3, 6, 6), generator=seeded(9))


class Small(nn.Module):
    """Three convolutions: one before a norm, one called twice, one with a norm that is not its own."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1, groups=2)
        self.last = nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 2))

    def forward(self, x):
        return self.last(self.twice(self.twice(self.norm(self.first(x)).relu())))


def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small().eval()


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize(
    ("fan_in", "expected"),
    [(16 * 9, 0.0142975), (64 * 9, 0.0559752), (9, 0.00089964), (320, 0.0314950), (160 * 9, 0.1341185)],
)
def test_strike_rates(fan_in, expected):
    assert strike_rate(1e-4, fan_in) == pytest.approx(expected, abs=6e-8)
    assert strike_rate(0.0, fan_in) == 0 and strike_rate(1.0, fan_in) == 1


def test_values_of_biased_bits_and_their_gradient():
    y = torch.tensor([1.0, -0.5, 0.25, 0.0], requires_grad=True)
    faulty = with_biased_bits(y, torch.tensor([2**3, -(2**6), 2**7, 2**0]), 8)
    assert faulty.tolist() == [1.0, -1.0, 1.0, 0.0078125]
    (gradient,) = torch.autograd.grad(faulty.sum(), y)
    assert gradient.tolist() == [0.0, 1.0, 0.0, 1.0]  # 0 where the clamp cuts


def test_mibb_strikes_at_its_rate_with_all_bits_and_both_signs():
    y = 0.25 * torch.ones(200_000)
    y[0] = 64.0  # R = 64, s = 1/2: 0.25 is quantised to 0, and ±2^j·s shows as it is
    faulty = MiBB().corrupt(y, 1e-3, seeded(), 100)[1:]
    rate = strike_rate(1e-3, 100)
    assert abs((faulty != 0).double().mean() - rate) < 4 * math.sqrt(rate / 200_000)
    values, counts = faulty[faulty != 0].unique(return_counts=True)
    assert values.tolist() == sorted(sign * 2.0**j for sign in (-1, 1) for j in range(-1, 7))
    expected = counts.sum() / 16
    assert (((counts - expected).abs()) < 4 * expected.sqrt()).all()


def test_without_faults_mibb_rounds_and_gaussian_does_nothing():
    y = activation()
    quantised = MiBB().corrupt(y, 0.0, seeded(), 18)
    assert 0 < (quantised - y).abs().max() <= 2 ** math.ceil(math.log2(y.abs().max())) / 256
    assert torch.equal(GaussianFeature().corrupt(y, 0.0, seeded(), 18), y)
    noise = GaussianFeature().corrupt(activation(100_000), 0.1, seeded(), 18) - activation(100_000)
    assert noise.std() / activation(100_000).abs().max() == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("fault", [MiBB(), GaussianFeature()])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_copy_keeps_shape_dtype_and_memory_format(fault, dtype, memory_format):
    y = activation().to(dtype).contiguous(memory_format=memory_format)
    before = y.clone()
    for level in fault.traits.grid:
        copy = fault.corrupt(y, level, seeded(), 50)
        assert (copy.shape, copy.dtype, copy.stride()) == (y.shape, y.dtype, y.stride())
        assert torch.equal(y, before) and copy.data_ptr() != y.data_ptr() and copy.isfinite().all()
        assert torch.equal(copy, fault.corrupt(y.contiguous(), level, seeded(), 50))


def test_feature_faults_are_made_by_name_and_refuse_what_weight_faults_refuse():
    assert fault_model("mibb", {"bits": 6}, FEATURE_FAULTS) == MiBB(bits=6)
    with pytest.raises(ValueError, match="fault model 'stuck': must be one of gaussian_feature, mibb"):
        fault_model("stuck", {}, FEATURE_FAULTS)
    with pytest.raises(ValueError, match="p_m = 1.5: must be from 0 to 1"):
        MiBB().corrupt(activation(), 1.5, seeded(), 9)
    with pytest.raises(ValueError, match="dtype torch.int64: must be floating-point"):
        MiBB().corrupt(torch.ones(3, dtype=torch.int64), 0.1, seeded(), 9)


def test_places_are_convolutions_or_the_norms_right_behind_them():
    assert [(place.name, place.fan_in) for place in places(small())] == [("norm", 18), ("twice", 2), ("last.0", 36)]
    assert [(place.name, place.fan_in) for place in places(nn.Conv2d(2, 1, (3, 2)))] == [("", 12)]
    assert len(places(build({"network": "resnet18"}, 0))) == 1 + 16 + 3
    preact = places(build({"network": "preact_resnet", "depth": 18}, 0))
    assert any(isinstance(place.module, nn.Conv2d) for place in preact)


def test_every_place_is_struck_and_every_call_anew():
    model, x = small(), activation(5, 2, 6, 6)
    seen = []

    class Spy(GaussianFeature):
        def faulty(self, y, level, generator, fan_in):
            seen.append((generator.initial_seed(), fan_in))
            return super().faulty(y, level, generator, fan_in)

    with struck(model, Spy(), 0.1, KEY, 0):
        first, second = model(x), model(x)
    assert [fan_in for _, fan_in in seen] == 2 * [18, 2, 2, 36]
    assert len({seed for seed, _ in seen}) == 8
    assert not torch.equal(first, second) and not torch.equal(first, model(x))


def test_a_draw_depends_on_its_key_its_number_and_the_batch_alone():
    model, x = small(), activation(5, 2, 6, 6)

    def outputs(key: tuple = KEY, draw: int = 0, count: int = 2) -> torch.Tensor:
        with struck(model, GaussianFeature(), 0.1, key, draw):
            return torch.stack([model(x) for _ in range(count)])

    state = torch.random.get_rng_state()
    assert torch.equal(outputs(), outputs()) and torch.equal(outputs(count=3)[:2], outputs())
    assert not torch.equal(outputs(), outputs(draw=1)) and not torch.equal(outputs(), outputs(("a test", 1)))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_hook_is_left_after_the_block_or_an_error():
    model, x = small(), activation(5, 2, 6, 6)
    clean = model(x)
    with pytest.raises(RuntimeError, match="inside"), struck(model, MiBB(), 1e-4, KEY, 0):
        assert hooks(model) == 4
        raise RuntimeError("inside")
    with pytest.raises(RuntimeError), struck(model, MiBB(), 1e-4, KEY, 0):
        model(activation(5, 7, 6, 6))
    assert hooks(model) == 0 and torch.equal(model(x), clean)


def test_what_would_strike_nothing_or_is_no_level_is_refused_before_any_hook():
    with pytest.raises(ValueError, match="Linear has no Conv2d"), struck(nn.Linear(1, 1), MiBB(), 0.1, KEY, 0):
        pass
    model = small()
    with pytest.raises(ValueError, match="p_m = nan"), struck(model, MiBB(), math.nan, KEY, 0):
        pass
    assert hooks(model) == 0


def test_a_network_that_calls_none_of_its_convolutions_is_refused():
    class Functional(nn.Sequential):
        def forward(self, x):
            return nn.functional.conv2d(x, self[0].weight)

    model = Functional(nn.Conv2d(2, 3, 3, bias=False))
    with pytest.raises(NotStruck, match="none of the modules '0' was called"):
        with struck(model, GaussianFeature(), 0.1, KEY, 0):
            model(activation(5, 2, 6, 6))
    assert hooks(model) == 0
    two = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ModuleDict({"auxiliary": nn.Conv2d(3, 3, 3)}))
    with struck(two, GaussianFeature(), 0.1, KEY, 0):  # one that is called is enough
        two[0](activation(5, 2, 6, 6))


def test_weight_and_feature_faults_combine_whatever_the_memory():
    model = build({"network": "lenet5"}, 0)
    x, y = activation(150, 1, 28, 28), torch.zeros(150, dtype=torch.int64)

    def estimate(sigma: float, level: float, memory_mib: int) -> float:
        with struck(model, GaussianFeature(), level, KEY, 0):
            return monte_carlo(
                model, x, y, lambda out, _: out[:, 0], LogNormalDrift(), sigma, [0], KEY, memory_mib=memory_mib
            ).item()

    both = estimate(0.5, 0.2, 28)
    assert both == estimate(0.5, 0.2, 1)
    assert len({both, estimate(0.5, 0.0, 28), estimate(0.0, 0.2, 28), estimate(0.0, 0.0, 28)}) == 4


def test_gradients_pass_through_the_faults():
    model, x = small(), activation(5, 2, 6, 6)
    with struck(model, MiBB(), 1e-3, KEY, 0):
        model(x).sum().backward()
    assert all(theta.grad.isfinite().all() and theta.grad.any() for theta in model.parameters())


def test_a_grid_of_levels_is_measured_one_device_at_a_time_whatever_the_memory():
    model = build({"network": "lenet5"}, 0)
    x, y = activation(300, 1, 28, 28), torch.zeros(300, dtype=torch.int64)

    def grid(levels: list[float], draws: range, memory_mib: int = 28, fault=GaussianFeature()) -> torch.Tensor:
        return monte_carlo_grid(model, x, y, lambda out, _: out[:, 0], fault, levels, draws, KEY, memory_mib=memory_mib)

    found = grid([0.0, 0.1, 0.2], range(2))
    assert torch.equal(found, grid([0.0, 0.1, 0.2], range(2), memory_mib=1))
    assert torch.equal(found[1:, 1:], grid([0.1, 0.2], range(1, 2)))  # nothing depends on other levels and draws
    assert found[0, 0] == found[0, 1] and found[1, 0] != found[1, 1]
    assert len(grid([0.0], range(3), fault=MiBB()).unique()) == 1
    with struck(model, GaussianFeature(), 0.1, KEY, 1):
        expected = torch.cat([model(part)[:, 0] for part in x.split(128)]).mean()
    assert found[1, 1].item() == pytest.approx(expected.item(), abs=1e-5)


def test_no_hook_is_left_when_a_score_fails():
    model = small()

    def fails(outputs, labels):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        monte_carlo(model, activation(5, 2, 6, 6), torch.zeros(5), fails, MiBB(), 1e-3, [0], KEY)
    assert hooks(model) == 0


def test_training_under_a_fault_of_activations_reaches_every_parameter():
    model, x, y = small().train(), activation(5, 2, 6, 6), torch.tensor([0, 1, 0, 1, 0])
    gradient = drift_gradient(MiBB(), 1e-2, "all")
    torch.manual_seed(0)
    gradient(model, nn.functional.cross_entropy, x, y)
    first = [theta.grad.clone() for theta in model.parameters()]
    assert all(g.isfinite().all() and g.any() for g in first) and hooks(model) == 0
    model.zero_grad()
    torch.manual_seed(0)
    gradient(model, nn.functional.cross_entropy, x, y)
    assert all(torch.equal(a, theta.grad) for a, theta in zip(first, model.parameters(), strict=True))
