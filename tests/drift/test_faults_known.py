"""Known answers of the fault models: values worked out by hand, rates, and standard deviations."""

import math

import pytest
import torch
from torch import Tensor

from bayesft.drift.faults import (
    DeviceToDevice,
    Float32BitFlips,
    GaussianNoise,
    Int8BitFlips,
    PhaseChangeMemory,
    Quantise,
    ReramWan2022,
    Retention,
    StuckBits,
    StuckCells,
)
from bayesft.drift.faults.bits import flip_float32
from bayesft.drift.faults.interface import uniform
from bayesft.drift.faults.pcm import programming_deviation, read_deviation
from bayesft.drift.faults.reram import reram_deviation
from bayesft.drift.faults.retention import pcm_exponent
from bayesft.drift.faults.stuck import with_stuck_cells

THETA = torch.tensor([0.5, -0.3, 0.2, -0.8, 0.0])
MANY = 200_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def within(found: float, expected: float, standard_error: float):
    assert abs(found - expected) < 4 * standard_error


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        (1, None, [0.8, 0.5, 0.8, 0.0, 0.8]),
        (None, 1, [-0.3, -0.8, -0.6, -0.8, -0.8]),
        (0, None, [0.0, -0.3, 0.0, -0.8, 0.0]),
        (None, 0, [0.5, 0.0, 0.2, 0.0, 0.0]),
        (1, 1, [0.0] * 5),
        (1, 0, [0.8] * 5),
        (0, 1, [-0.8] * 5),
        (0, 0, [0.0] * 5),
        (None, None, THETA.tolist()),
    ],
)
def test_stuck_cells_of_a_pair(positive, negative, expected):
    def masks(value: int) -> Tensor:
        return torch.tensor([positive == value, negative == value])[:, None].expand(2, 5)

    torch.testing.assert_close(with_stuck_cells(THETA, masks(1), masks(0)), torch.tensor(expected))


def test_share_of_weights_that_stuck_cells_hit_and_their_gradient():
    theta = (0.1 * torch.randn(400_000, generator=seeded())).requires_grad_()
    faulty = StuckCells().perturb(theta, 0.08, seeded(1))
    hit = faulty != theta
    assert abs(hit.double().mean().item() - 0.0911) < 0.0015
    (gradient,) = torch.autograd.grad(faulty.sum(), theta)
    assert torch.equal(gradient, (~hit).float())


@pytest.mark.parametrize("share_at_one", [0, 1])
def test_all_cells_stuck_alike_leave_zeros(share_at_one):
    assert torch.equal(StuckCells(share_at_one=share_at_one).perturb(THETA, 1.0, seeded()), torch.zeros(5))


def test_gaussian_noise_is_of_the_size_of_the_largest_weight_or_of_each():
    theta = torch.tensor([2.0, -0.5, 0.0], dtype=torch.float64).repeat_interleave(MANY)
    for relative, sizes in ((False, (0.2, 0.2, 0.2)), (True, (0.2, 0.05, 0.0))):
        noise = GaussianNoise(relative=relative).perturb(theta, 0.1, seeded()) - theta
        for part, size in zip(noise.view(3, MANY), sizes, strict=True):
            within(part.mean().item(), 0, size / math.sqrt(MANY) + 1e-12)
            within(part.std().item(), size, size / math.sqrt(2 * MANY) + 1e-12)


def test_an_output_channel_has_one_factor():
    theta = torch.randn(20_000, 2, 1, 3, generator=seeded(), dtype=torch.float64)
    factors = (DeviceToDevice().perturb(theta, 0.4, seeded(1)) / theta).log().flatten(1)
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors))
    within(factors[:, 0].std().item(), 0.4, 0.4 / math.sqrt(40_000))


@pytest.mark.parametrize(
    ("values", "bits", "expected"),
    [
        ([0.3, -0.74, 0.1], 8, [0.296875, -0.7421875, 0.1015625]),
        ([0.3, -0.74, 0.1], 4, [0.25, -0.75, 0.125]),
        ([1.0, -1.0, 0.004], 8, [1.0, -1.0, 0.0078125]),
        ([1.01, 0.3], 8, [1.015625, 0.296875]),
        ([2.0**-25, 0.0], 8, [0.0, 0.0]),  # the scale is that of 1e-5 at least
    ],
)
def test_quantised_by_powers_of_two(values, bits, expected):
    assert Quantise(bits).perturb(torch.tensor(values), 0.0, seeded()).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_power_of_two_is_its_own_range(dtype):
    for exponent in range(-16, 60):
        theta = torch.tensor([2.0**exponent, 2.0**exponent / 4 * 1.25], dtype=dtype)
        assert Quantise(5).perturb(theta, 0.0, seeded())[1] == theta[1], exponent
        above = torch.nextafter(theta[0], theta[0] * 2)[None]
        assert Quantise(16).perturb(torch.cat([above, theta[:1] * 2**-15]), 0.0, seeded())[1] in (0, 2 * 2.0**-15)


def test_quantised_uniformly():
    theta = torch.tensor([1.27, -0.634, 0.004, 0.006])
    expected = torch.tensor([1.27, -0.63, 0.0, 0.01])
    torch.testing.assert_close(Quantise(8, "uniform").perturb(theta, 0.0, seeded()), expected)


@pytest.mark.parametrize(("bit", "expected"), [(7, [-127, -128, -123, 127]), (1, [3, 2, 7, -3]), (0, [0, 1, 4, -2])])
def test_flipped_bits_of_integers(bit, expected):
    q = torch.tensor([1, 0, 5, -1], dtype=torch.int32)
    assert Int8BitFlips().strike(q, torch.full_like(q, 1 << bit)).tolist() == expected


@pytest.mark.parametrize(
    ("value", "bit", "expected"),
    [(1, 7, [-127, -128, -3]), (1, 1, [3, 2, -1]), (0, 7, [1, 0, 125]), (0, 0, [0, 0, -4])],
)
def test_stuck_bits_of_integers(value, bit, expected):
    q = torch.tensor([1, 0, -3], dtype=torch.int32)
    assert StuckBits(value=value).strike(q, torch.full_like(q, 1 << bit)).tolist() == expected


@pytest.mark.parametrize(
    ("theta", "bit", "expected"),
    [(1, 31, -1), (1, 30, math.inf), (1, 23, 0.5), (1, 22, 1.5), (1, 0, 1 + 2**-23), (0.5, 30, 1.7014118346046923e38)],
)
def test_flipped_bits_of_float32(theta, bit, expected):
    mask = torch.tensor([1], dtype=torch.int32) << bit
    assert flip_float32(torch.tensor([float(theta)]), mask).item() == expected


@pytest.mark.parametrize(("fault", "bits"), [(Int8BitFlips(), 8), (Float32BitFlips(), 32)])
def test_rate_of_flipped_bits(fault, bits):
    theta = torch.rand(MANY, generator=seeded()) + 0.5
    theta[0] = 1.5
    p = 1e-3
    clean, faulty = fault.perturb(theta, 0.0, seeded()), fault.perturb(theta, p, seeded(1))
    struck = 1 - (1 - p) ** bits
    within((clean != faulty).double().mean().item(), struck, math.sqrt(struck / MANY))


def test_random_numbers_are_fine_enough_for_small_rates():
    """Those of float32 are multiples of 2⁻²⁴: none lies between 0 and 6e-8, so bits would flip too often at 1e-8."""
    drawn = uniform(torch.ones(MANY), seeded()) * 2**24
    assert (drawn % 1 != 0).double().mean() > 0.99


def test_retention_without_spread_is_a_power_law():
    faulty = Retention(mean=0.05, deviation=0).perturb(THETA, 3600.0, seeded())
    torch.testing.assert_close(faulty, THETA * (3620 / 20) ** -0.05)


def test_retention_has_an_exponent_for_each_weight():
    theta = torch.full((MANY,), -0.5, dtype=torch.float64)
    exponents = -(Retention().perturb(theta, 3600.0, seeded()) / theta).log() / math.log(181)
    within(exponents.mean().item(), 0.05, 0.01 / math.sqrt(MANY))
    within(exponents.std().item(), 0.01, 0.01 / math.sqrt(2 * MANY))


def assert_values(found: Tensor, expected: list[float]):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=1e-5, atol=0)


def test_pcm_deviations_and_exponents():
    g = torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    assert_values(25 * programming_deviation(g), [1.05538, 0.952705, 0.448249])
    mean, deviation = pcm_exponent(g)
    assert_values(mean, [0.049, 0.049, 0.0600901])
    assert_values(deviation, [0.008, 0.008, 0.0228823])
    assert_values(read_deviation(g), [0.0088, 0.0138087, 0.0393082])
    assert read_deviation(torch.zeros(1)) == pytest.approx(0.2)


def test_pcm_decays_as_its_mean_exponent_says():
    theta = torch.ones(MANY, dtype=torch.float64)
    fault = PhaseChangeMemory(programming=0, read=0)
    for t, ratio in ((3600.0, 0.77513), (86400.0, 0.66352)):
        faulty = fault.perturb(theta, t, seeded())
        # The median factor is that of the median exponent; it has 1.25 times the standard error of a mean.
        error = 1.25 * 0.008 * math.log(t / 20 + 1) * ratio / math.sqrt(MANY)
        within(faulty.median().item(), ratio, error + 1e-5 / 4)


def test_pcm_noise_of_programming_and_reading():
    theta = torch.full((MANY,), 0.5, dtype=torch.float64)
    theta[0] = 1.0
    programmed = PhaseChangeMemory(read=0).perturb(theta, 0.0, seeded())[1:]
    negative = 0.26348 / 25 * math.sqrt(0.5 - 0.5 / math.pi)  # half of the noise of the other cell, whose target is 0
    deviation = math.hypot(0.952705 / 25, negative)
    within(programmed.std().item(), deviation, deviation / math.sqrt(2 * MANY))
    read = PhaseChangeMemory(programming=0).perturb(theta, 0.0, seeded())[1:]
    deviation = 0.5 * 0.0138087 * math.sqrt(math.log((20 + 250e-9) / 500e-9))
    within(read.std().item(), deviation, deviation / math.sqrt(2 * MANY))


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (1.0, [0.348, 2.258, 2.023, 1.103]),
        (86400.0, [0.701, 3.721, 3.909, 2.651]),
        (172800.0, [0.782, 3.664, 3.929, 2.677]),
    ],
)
def test_reram_deviations(t, expected):
    g = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(40 * reram_deviation(g, t), torch.tensor(expected).double(), rtol=0, atol=6e-4)


def test_reram_noise_has_the_deviation_of_its_time():
    theta = torch.full((MANY,), 0.5, dtype=torch.float64)
    theta[0] = 1.0
    noise = ReramWan2022().perturb(theta, 86400.0, seeded())[1:]
    deviation = math.hypot(3.909 / 40, 0.701 / 40 * math.sqrt(0.5 - 0.5 / math.pi))
    within(noise.std().item(), deviation, deviation / math.sqrt(2 * MANY) + 1e-3 / 160)


@pytest.mark.parametrize("level", [0, 2.0, 3600, -1, math.nan])
def test_reram_has_the_times_that_were_measured(level):
    with pytest.raises(ValueError, match=f"t = {level}: must be 1, 86400 or 172800 s"):
        ReramWan2022().perturb(THETA, level, seeded())
