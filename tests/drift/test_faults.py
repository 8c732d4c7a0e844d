"""Log-normal drift: its moments, and what it must leave alone."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from bayesft.drift import FAULT_MODELS, LogNormalDrift

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
COUNT = 200_000

# Values whose drifted copies neither overflow nor underflow at the levels used here.
magnitudes = st.floats(2**-10, 2**10, width=32)
values = st.one_of(st.just(0.0), magnitudes, magnitudes.map(lambda value: -value))
parameters = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: arrays.arrays(
        dtype, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5), elements=values
    )
)


def seeded(seed: int, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def log_factors(sigma: float, seed: int = 0, dtype: torch.dtype = torch.float64) -> np.ndarray:
    theta = torch.full((COUNT,), -0.7, dtype=dtype)
    return (LogNormalDrift().perturb(theta, sigma, seeded(seed)) / theta).log().double().numpy()


def test_lognormal_is_the_registered_model():
    assert FAULT_MODELS["lognormal"] is LogNormalDrift


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.5])
def test_log_factor_has_mean_zero_and_deviation_sigma(sigma, dtype):
    log = log_factors(sigma, dtype=dtype)
    # Four standard errors of the mean, and of the deviation, of so many normal numbers.
    assert abs(log.mean()) < 4 * sigma / math.sqrt(COUNT)
    assert abs(log.std() - sigma) < 4 * sigma / math.sqrt(2 * COUNT)


def test_log_factor_is_normal_and_independent_for_every_scalar():
    log = log_factors(0.8) / 0.8
    assert stats.kstest(log, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(log[1:], log[:-1])[0, 1]) < 4 / math.sqrt(COUNT)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_mean_factor_is_exp_of_half_the_variance(sigma):
    factor = np.exp(log_factors(sigma))
    expected = math.exp(sigma**2 / 2)
    standard_error = expected * math.sqrt(math.expm1(sigma**2) / COUNT)
    assert abs(factor.mean() - expected) < 4 * standard_error


@pytest.mark.parametrize("device", DEVICES)
@given(theta=parameters, sigma=st.floats(0, 2), seed=st.integers(0, 2**62))
@settings(max_examples=60, deadline=None)
def test_copy_keeps_shape_dtype_device_signs_and_zeros_and_theta_is_untouched(device, theta, sigma, seed):
    theta = torch.from_numpy(theta).to(device)
    before = theta.clone()
    copy = LogNormalDrift().perturb(theta, sigma, seeded(seed, device))
    assert (copy.shape, copy.dtype, copy.device) == (theta.shape, theta.dtype, theta.device)
    assert torch.equal(copy.sign(), theta.sign())
    assert torch.equal(theta, before)
    assert copy.numel() == 0 or copy.data_ptr() != theta.data_ptr()


@given(
    theta=arrays.arrays(np.float64, arrays.array_shapes(max_dims=3, max_side=5), elements=magnitudes),
    sigmas=st.tuples(st.floats(0.01, 2), st.floats(0.01, 2)),
    seed=st.integers(0, 2**62),
)
@settings(max_examples=60, deadline=None)
def test_equal_generators_at_two_levels_give_the_same_fault_scaled(theta, sigmas, seed):
    theta = torch.from_numpy(theta)
    first, second = ((LogNormalDrift().perturb(theta, s, seeded(seed)) / theta).log() / s for s in sigmas)
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_level_zero_changes_no_bit(dtype):
    theta = torch.randn(50, 7, generator=seeded(3), dtype=dtype)
    assert torch.equal(LogNormalDrift().perturb(theta, 0.0, seeded(1)), theta)


def test_randomness_comes_from_the_generator_alone():
    theta = torch.ones(100)
    state = torch.random.get_rng_state()
    first = LogNormalDrift().perturb(theta, 0.5, seeded(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(LogNormalDrift().perturb(theta, 0.5, seeded(1)), first)
    assert not torch.equal(LogNormalDrift().perturb(theta, 0.5, seeded(2)), first)


def test_memory_format_does_not_change_the_draw():
    theta = torch.randn(4, 3, 5, 5, generator=seeded(0))
    innermost = theta.to(memory_format=torch.channels_last)
    assert torch.equal(
        LogNormalDrift().perturb(theta, 0.5, seeded(1)), LogNormalDrift().perturb(innermost, 0.5, seeded(1))
    )
