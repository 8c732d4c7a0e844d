"""What every registered fault model must do, and what a composite of them does."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bayesft.drift import faults
from bayesft.drift.faults import (
    FAULT_MODELS,
    Composite,
    DeviceToDevice,
    GaussianNoise,
    Int8BitFlips,
    LogNormalDrift,
    PhaseChangeMemory,
    Quantise,
    ReramWan2022,
    Retention,
    StuckCells,
)

COMPOSITE = Composite(
    parts=(
        (StuckCells(), 0.08),
        (Retention(), None),
        (GaussianNoise(), 0.05),
        (Quantise(), 0.0),
        (DeviceToDevice(), 0.1),
    )
)
FAULTS = [cls() for name, cls in FAULT_MODELS.items() if name != "composite"]
FAULTS += [COMPOSITE, GaussianNoise(relative=True), Quantise(3, "uniform"), Retention(by_conductance=True)]
every_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: repr(fault)[:40])

magnitudes = st.floats(2**-10, 2**10, width=32)
values = st.one_of(st.just(0.0), magnitudes, magnitudes.map(lambda value: -value))
shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
thetas = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]).flatmap(
    lambda dtype: arrays.arrays(np.float32, shapes, elements=values).map(lambda x: torch.from_numpy(x).to(dtype))
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(*shape or (64, 9), generator=seeded(5))


@every_fault
@given(theta=thetas, seed=st.integers(0, 2**62), place=st.integers(0, 9))
@settings(max_examples=15, deadline=None)
def test_a_copy_keeps_shape_and_dtype_and_repeats_and_theta_is_untouched(fault, theta, seed, place):
    level = fault.traits.grid[place % len(fault.traits.grid)]
    before = theta.clone()
    copy, again = (fault.perturb(theta, level, seeded(seed)) for _ in range(2))
    assert (copy.shape, copy.dtype, copy.device) == (theta.shape, theta.dtype, theta.device)
    assert torch.equal(copy.nan_to_num(), again.nan_to_num())
    assert torch.equal(theta, before)
    assert theta.numel() == 0 or copy.data_ptr() != theta.data_ptr()
    if fault.traits.differentiable:
        assert copy.isfinite().all()


@every_fault
def test_level_zero_is_the_identity_where_the_traits_say_so_and_nowhere_else(fault):
    traits = fault.traits
    if 0.0 in traits.grid:
        copy = fault.perturb(weights(), 0.0, seeded())
        assert torch.equal(copy, weights()) == traits.identity_at_zero
    else:
        assert not traits.identity_at_zero


@every_fault
def test_the_level_acts_and_so_does_the_seed(fault):
    level, theta = fault.traits.grid[-1], weights(300, 20)
    copy = fault.perturb(theta, level, seeded(1))
    assert not torch.equal(copy, theta)
    if not isinstance(fault, Quantise):
        assert not torch.equal(copy, fault.perturb(theta, level, seeded(2)))
        assert not torch.equal(copy, fault.perturb(theta, fault.traits.grid[0], seeded(1)))


@every_fault
def test_as_many_numbers_are_drawn_at_every_level(fault):
    states = []
    for level in fault.traits.grid:
        generator = seeded(3)
        fault.perturb(weights(), level, generator)
        if level > 0 or not fault.traits.identity_at_zero:
            states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)


@every_fault
def test_the_global_stream_is_left_alone(fault):
    state = torch.random.get_rng_state()
    fault.perturb(weights(), fault.traits.grid[-1], seeded())
    assert torch.equal(torch.random.get_rng_state(), state)


@every_fault
def test_the_memory_format_changes_no_value(fault):
    theta, level = weights(4, 3, 5, 5), fault.traits.grid[-1]
    innermost = fault.perturb(theta.to(memory_format=torch.channels_last), level, seeded())
    torch.testing.assert_close(fault.perturb(theta, level, seeded()), innermost, rtol=1e-6, atol=0)


@every_fault
@pytest.mark.parametrize("level", [-0.1, math.nan, math.inf, -math.inf])
def test_levels_that_are_no_levels_are_refused_by_name(fault, level):
    with pytest.raises(ValueError, match=rf"{fault.traits.symbol} = {level}: must be "):
        fault.perturb(weights(), level, seeded())


@pytest.mark.parametrize("name", [name for name, cls in FAULT_MODELS.items() if name.startswith(("stuck", "bitflip"))])
def test_a_share_above_one_is_refused(name):
    with pytest.raises(ValueError, match=r"p = 1.5: must be from 0 to 1"):
        FAULT_MODELS[name]().perturb(weights(), 1.5, seeded())


@every_fault
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_other_than_floating_point_is_refused(fault, dtype):
    with pytest.raises(ValueError, match=f"a tensor has dtype {dtype}: must be floating-point"):
        fault.perturb(torch.ones(3, dtype=dtype), fault.traits.grid[-1], seeded())


@every_fault
def test_zeros_stay_zeros(fault):
    for dtype in (torch.float32, torch.float16):
        copy = fault.perturb(torch.zeros(6, 5, dtype=dtype), fault.traits.grid[-1], seeded())
        assert torch.equal(copy, torch.zeros(6, 5, dtype=dtype))


@every_fault
def test_gradients_are_finite_and_reach_almost_every_weight(fault):
    if fault.traits.differentiable:
        for theta in (weights(), torch.cat([weights(), torch.zeros(64, 9)])):
            theta.requires_grad_()
            for level in fault.traits.grid:
                (gradient,) = torch.autograd.grad(fault.perturb(theta, level, seeded()).sum(), theta)
                assert gradient.isfinite().all()
                assert (gradient[:64] != 0).double().mean() > 0.75


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if isinstance(f, (Quantise, Int8BitFlips))], ids=lambda fault: repr(fault)[:40]
)
def test_rounding_has_the_gradient_one(fault):
    theta = weights().requires_grad_()
    (gradient,) = torch.autograd.grad(fault.perturb(theta, fault.traits.grid[-1], seeded()).sum(), theta)
    assert torch.equal(gradient, torch.ones(64, 9))


@every_fault
def test_a_fault_can_be_sent_to_another_process_compared_and_printed(fault):
    copy = pickle.loads(pickle.dumps(fault))
    assert copy == fault and hash(copy) == hash(fault)
    assert eval(repr(fault), vars(faults)) == fault


@given(
    theta=arrays.arrays(np.float32, arrays.array_shapes(max_dims=3, max_side=6), elements=values).map(torch.from_numpy),
    levels=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 2**62),
)
@settings(max_examples=30, deadline=None)
def test_stuck_weights_stay_in_range_and_are_among_those_of_a_higher_level(theta, levels, seed):
    low, high = (StuckCells().perturb(theta, level, seeded(seed)) for level in sorted(levels))
    assert (low.abs() <= theta.abs().max()).all() and (high.abs() <= theta.abs().max()).all()
    masks = [StuckCells()._masks(theta.expand(2, *theta.shape), level, seeded(seed)) for level in sorted(levels)]
    for fewer, more in zip(*masks, strict=True):
        assert not (fewer & ~more).any()


@pytest.mark.parametrize("scale", ["power_of_two", "uniform"])
@given(
    theta=arrays.arrays(np.float64, (7,), elements=values).map(torch.from_numpy),
    bits=st.integers(2, 16),
    seed=st.integers(0, 2**62),
)
@settings(max_examples=40, deadline=None)
def test_quantising_twice_is_quantising_once_to_few_values_nearby(scale, theta, bits, seed):
    fault = Quantise(bits, scale)
    once = fault.perturb(theta, 0.0, seeded(seed))
    torch.testing.assert_close(fault.perturb(once, 0.0, seeded(seed)), once, rtol=1e-12, atol=0)
    largest = theta.abs().max()
    step = 4 * largest / 2**bits if scale == "power_of_two" else largest / (2 ** (bits - 1) - 1)
    assert ((once - theta).abs() <= step / 2 + 1e-12 * largest).all()


def parts(*pairs) -> Composite:
    return Composite(parts=pairs)


def test_a_composite_of_one_part_is_that_part_through_cells():
    for fault, level in ((Retention(), 3600.0), (PhaseChangeMemory(), 60.0), (ReramWan2022(), 1.0)):
        seed = int(torch.randint(2**62, (), generator=seeded(4)))
        assert torch.equal(
            parts((fault, None)).perturb(weights(), level, seeded(4)), fault.perturb(weights(), level, seeded(seed))
        )
    # Log-normal drift of both cells, of which one is zero.
    factors = parts((LogNormalDrift(), None)).perturb(weights(), 0.7, seeded()) / weights()
    assert (factors > 0).all() and abs(factors.log().std() - 0.7) < 0.1


def test_a_part_at_the_end_changes_no_draw_of_the_others():
    two = parts((Retention(), None), (GaussianNoise(), 0.05))
    three = parts((Retention(), None), (GaussianNoise(), 0.05), (StuckCells(share_at_one=0.0), 0.02))
    theta = weights(300, 20)
    first, second = two.perturb(theta, 60.0, seeded()), three.perturb(theta, 60.0, seeded())
    assert 0.9 < torch.isclose(first, second, rtol=1e-6, atol=1e-7).double().mean() < 0.99


def test_parts_act_in_the_order_of_a_memory_however_they_are_listed():
    for listed in (
        ((Retention(deviation=0.0), None), (StuckCells(share_at_one=1.0), 1.0), (Quantise(), 0.0)),
        ((StuckCells(share_at_one=1.0), 1.0), (Quantise(), 0.0), (Retention(deviation=0.0), None)),
    ):  # both cells stuck at one, after the decay: the weights are exactly zero
        assert torch.equal(parts(*listed).perturb(weights(), 3600.0, seeded()), torch.zeros(64, 9))
    theta = torch.tensor([1.0, 0.3])  # 0.3 is quantised before it decays, not after
    coarse = parts((Retention(deviation=0.0), None), (Quantise(2), 0.0)).perturb(theta, 3600.0, seeded())
    torch.testing.assert_close(coarse, torch.tensor([1.0, 0.5]) * 181**-0.05)


def test_read_noise_comes_after_retention_and_programming_noise_before():
    theta = torch.ones(20_000)
    for stage, deviation in (("programming", 0.05 * 181**-0.2), ("read", 0.05)):
        fault = parts((Retention(mean=0.2, deviation=0.0), None), (GaussianNoise(stage=stage), 0.05))
        positive = fault.perturb(theta, 3600.0, seeded())
        expected = deviation * math.hypot(1, math.sqrt(0.5 - 0.5 / math.pi))  # the other cell's noise is cut at zero
        assert abs(positive.std() / expected - 1) < 4 / math.sqrt(40_000)


def test_a_composite_has_the_traits_of_the_part_on_the_axis():
    assert COMPOSITE.traits.symbol == "t" and not COMPOSITE.traits.identity_at_zero
    assert parts((StuckCells(), None)).traits == StuckCells.traits
    assert parts((StuckCells(), None), (LogNormalDrift(), 0.0)).traits.identity_at_zero


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ((), "at least 1 item"),
        (((Retention(), 1.0),), "exactly one part"),
        (((Retention(), None), (StuckCells(), None)), "exactly one part"),
        (((Retention(), None), (StuckCells(), 1.5)), "p = 1.5: must be from 0 to 1"),
        (((Retention(), None), (ReramWan2022(), 2.0)), "must be 1, 86400 or 172800"),
        (((Int8BitFlips(), None),), "instance of CellFault"),
        (((COMPOSITE, None),), "instance of CellFault"),
    ],
)
def test_composites_that_are_none_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        Composite(parts=pairs)
