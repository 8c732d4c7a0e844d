"""Fault models by name, with checked settings, and fault models of one's own."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from bayesft.drift import drifted_parameters, monte_carlo
from bayesft.drift.faults import (
    FAULT_MODELS,
    Composite,
    LogNormalDrift,
    Quantise,
    Retention,
    StuckCells,
    Traits,
    WeightFault,
    fault_model,
    register,
    traits_of,
)


@pytest.fixture(autouse=True)
def registry_as_before(monkeypatch):
    before = dict(FAULT_MODELS)
    yield
    FAULT_MODELS.clear()
    FAULT_MODELS.update(before)


def test_the_default_grids_are_levels_in_order():
    for cls in FAULT_MODELS.values():
        if isinstance(cls.traits, Traits):
            grid = cls.traits.grid
            assert grid == tuple(sorted(set(grid))) and all(0 <= level < math.inf for level in grid)
            assert f"Level: {cls.traits.symbol}, " in cls.__doc__
            for level in grid:
                cls().check_level(level)


def test_fault_models_are_frozen():
    for cls in FAULT_MODELS.values():
        assert dataclasses.is_dataclass(cls)
    with pytest.raises(dataclasses.FrozenInstanceError):
        StuckCells().share_at_one = 0.5


def test_settings_make_the_model_that_they_say():
    assert fault_model("lognormal") == fault_model("lognormal", {}) == LogNormalDrift()
    assert fault_model("stuck", {"share_at_one": 0.5}) == StuckCells(share_at_one=0.5)
    listed = [{"model": "retention", "settings": {"mean": 0.1}}, {"model": "stuck", "level": 0.08}]
    assert fault_model("composite", {"parts": listed}) == Composite(
        parts=((Retention(mean=0.1), None), (StuckCells(), 0.08))
    )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("stuk", {}, "fault model 'stuk': must be one of bitflip_float32, .*, stuck"),
        ("stuck", {"share_at_one": 2}, "'stuck': share_at_one = 2: .*less than or equal to 1"),
        ("stuck", {"share_at_one": math.nan}, "share_at_one = nan"),
        ("stuck", {"share": 0.1}, "share = 0.1: Unexpected keyword argument; its settings: share_at_one"),
        ("lognormal", {"sigma": 1}, "sigma = 1: Unexpected keyword argument; its settings: none"),
        ("quantise", {"bits": 1}, "bits = 1: .*greater than or equal to 2"),
        ("quantise", {"scale": "log"}, "scale = 'log': .*'power_of_two' or 'uniform'"),
        ("retention", {"t0": 0}, "t0 = 0: .*greater than 0"),
        ("stuck_bit", {"value": 2}, "value = 2: .*0 or 1"),
        ("composite", {}, "'composite': parts: Field required"),
        ("composite", {"parts": [{"model": "stuck", "level": 0.1}]}, "'composite': parts: exactly one part"),
        ("composite", {"parts": [{"model": "stuk"}]}, "fault model 'stuk': must be one of"),
        ("composite", {"parts": [{"model": "stuck", "p": 0.1}]}, "a part has the keys model, settings and level"),
        ("composite", {"parts": [{"model": "bitflip_int8"}]}, "instance of CellFault"),
    ],
)
def test_wrong_names_and_settings_are_refused_and_the_allowed_named(name, settings, message):
    with pytest.raises(ValueError, match=message):
        fault_model(name, settings)


def small() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, 0.5)
    nn.init.zeros_(model.bias)
    return model, torch.ones(5, 3), torch.zeros(5)


def estimate(fault, level: float) -> list[float]:
    model, x, y = small()
    return monte_carlo(model, x, y, lambda outputs, _: outputs.sum(1), fault, level, [0, 1], ("a test",)).tolist()


def test_a_fault_of_ones_own_in_five_lines():
    @register("shrink")
    class Shrink(WeightFault):
        power: float = 1.0
        traits = Traits("share that is lost", "ε", grid=(0.0, 0.1, 0.2), identity_at_zero=True)

        def faulty(self, theta, level, generator):
            return theta * (1 - level) ** self.power

    fault = fault_model("shrink", {"power": 2})
    assert estimate(fault, 0.5) == [0.75, 0.75] and estimate(fault, 0.0) == [3.0, 3.0]
    with pytest.raises(ValueError, match="share that is lost: ε = -1: must be finite and at least 0"):
        fault.perturb(torch.ones(2), -1, torch.Generator())
    with pytest.raises(ValueError, match="powr = 2: Unexpected keyword argument; its settings: power"):
        fault_model("shrink", {"powr": 2})


def test_a_fault_with_nothing_but_perturb():
    class Halved:
        def perturb(self, theta, level, generator):
            return theta / 2

    assert estimate(Halved(), 1.0) == [1.5, 1.5]
    assert traits_of(Halved()) == Traits() and not traits_of(Halved()).identity_at_zero
    assert traits_of(Quantise()) is Quantise.traits


def test_a_plain_dataclass_registers_too():
    @register("plain")
    @dataclasses.dataclass(frozen=True)
    class Plain:
        size: float = 1.0

        def perturb(self, theta, level, generator):
            return theta + self.size * level

    assert fault_model("plain", {"size": 2.0}) == Plain(2.0)
    with pytest.raises(ValueError, match="fault model 'plain': .*'sise'; its settings: size"):
        fault_model("plain", {"sise": 2.0})


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="fault model 'stuck': .*StuckCells has this name already"):

        @register("stuck")
        class Other(WeightFault):
            pass


def test_a_fault_without_a_formula_says_so():
    class Nothing(WeightFault):
        traits = Traits()

    with pytest.raises(NotImplementedError, match="Nothing needs a method faulty"):
        Nothing().perturb(torch.ones(2), 0.5, torch.Generator())


@pytest.mark.parametrize("name", [name for name in FAULT_MODELS if name != "composite"])
def test_every_fault_model_serves_monte_carlo(name):
    fault = FAULT_MODELS[name]()
    level = fault.traits.grid[-1]
    model, x, y = small()
    expected = []
    for draw in (0, 1):
        copy = drifted_parameters(model, fault, level, ("a test",), draw)
        expected.append((x @ copy["weight"].T + copy["bias"]).sum(1).double().mean().item())
    if level > 0:
        assert estimate(fault, level) == pytest.approx(expected, rel=1e-5)
