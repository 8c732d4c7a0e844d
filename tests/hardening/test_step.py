"""Hardening.step: gradients through the fault, dropout, what stays behind, other people's loops, what is refused."""

import random

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bayesft.drift import LogNormalDrift
from bayesft.drift.copies import perturbed, select
from bayesft.drift.faults import Float32BitFlips, Int8BitFlips, ReramWan2022, Retention, StuckCells
from bayesft.hardening.measure import evaluate
from bayesft.hardening.sites import find_sites
from bayesft.hardening.step import Hardening
from bayesft.seeds import derive_seed
from tests.hardening.conftest import Net, data, seeded

DRIFT = LogNormalDrift()


def drawn(model, fault, bound, number=0, seed=0, where="all"):
    """The faulty copy of a step, with its graph, made by hand."""
    key = ("hardening", seed, number)
    level = bound * float(torch.rand((), generator=torch.Generator().manual_seed(derive_seed(*key, "level"))))
    return {
        name: perturbed(
            fault,
            theta,
            derive_seed(*key, name, tuple(theta.shape)),
            name,
            model,
        )(level)
        for name, theta in select(model, where).items()
    }


def gradients(model):
    return {name: theta.grad for name, theta in model.named_parameters()}


@pytest.mark.parametrize("progress, bound", [(1.0, 0.8), (0.25, 0.4), (0.0, 0.0)])
def test_gradients_are_those_through_the_fault(progress, bound):
    model, by_hand, (x, y) = seeded(Net), seeded(Net), data()
    h = Hardening(model, rate=0.0, level=0.8, sites=())
    with h.step(progress):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
    right = F.cross_entropy(functional_call(by_hand, drawn(by_hand, DRIFT, bound), (x,)), y)
    right.backward()
    assert loss.item() == pytest.approx(right.item(), rel=1e-6)
    for name, gradient in gradients(by_hand).items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)
    for name, theta in model.named_parameters():
        assert torch.equal(theta, seeded(Net).get_parameter(name)) and theta._backward_hooks in (None, {})


def test_gradients_add_up_over_steps_and_after_zero_grad_inside():
    model, (x, y) = seeded(Net), data()
    h = Hardening(model, sites=(), rise=0)
    parts = []
    for _ in range(2):
        model.zero_grad()
        with h.step():
            F.cross_entropy(model(x), y).backward()
        parts.append(model.a.weight.grad.clone())
    assert not torch.equal(*parts)
    h.steps, model.a.weight.grad = 0, torch.full_like(model.a.weight, 7.0)
    with h.step():
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
    torch.testing.assert_close(model.a.weight.grad, parts[0])
    with h.step():
        F.cross_entropy(model(x), y).backward()
    torch.testing.assert_close(model.a.weight.grad, parts[0] + parts[1])


class Blocks(Net):
    """Two blocks that may be checkpointed: their inside is computed again in the backward pass."""

    how = None

    def __init__(self):
        super().__init__()
        self.m, self.act2 = nn.Linear(16, 16), nn.ReLU()

    def block(self, h):
        return self.act2(self.m(h))

    def forward(self, x):
        h = self.act(self.a(x))
        for _ in range(2):
            h = self.block(h) if self.how is None else checkpoint(self.block, h, use_reentrant=self.how)
        return self.b(h)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_with_dropout(reentrant):
    found = []
    for how in (None, reentrant):
        model, (x, y) = seeded(Blocks), data()
        sites = find_sites(model, x[:2])
        model.how = how
        with Hardening(model, rate=0.3, sites=sites, rise=0).step():
            F.cross_entropy(model(x), y).backward()
        found.append(gradients(model))
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_frozen_parameters_fail_too_and_get_no_gradient():
    model, (x, y) = seeded(Net), data()
    model.a.requires_grad_(False)
    with Hardening(model, sites=(), rise=0).step():
        out = model(x)
        F.cross_entropy(out, y).backward()
        assert not torch.equal(model.a.weight, seeded(Net).a.weight)
    right = functional_call(seeded(Net), drawn(seeded(Net), DRIFT, 1.0), (x,))
    torch.testing.assert_close(out, right)
    assert model.a.weight.grad is None and model.b.weight.grad is not None


def test_a_fault_whose_slope_depends_on_the_parameter():
    class Relative:
        """θ′ = θ + level · max|θ| · tanh(θ) · z."""

        def perturb(self, theta, level, generator):
            z = torch.randn(theta.shape, generator=generator)
            return theta + level * theta.abs().max() * theta.tanh() * z

    model, by_hand, (x, y) = seeded(Net), seeded(Net), data()
    with Hardening(model, fault=Relative(), sites=(), rise=0).step():
        F.cross_entropy(model(x), y).backward()
    F.cross_entropy(functional_call(by_hand, drawn(by_hand, Relative(), 1.0), (x,)), y).backward()
    for name, gradient in gradients(by_hand).items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)


def test_sparse_gradients_stay_sparse():
    def build(sparse):
        return seeded(lambda: nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Flatten(), nn.Linear(8, 3)))

    x = torch.tensor([[1, 2], [2, 5]])
    found = []
    for sparse in (True, False):
        model = build(sparse)
        with Hardening(model, sites=(), rise=0, where=lambda name, *_: name == "0.weight").step():
            model(x).square().sum().backward()
        found.append(model[0].weight.grad)
    assert found[0].is_sparse
    torch.testing.assert_close(found[0].to_dense(), found[1])


def test_dropout_acts_at_its_sites_in_a_step_alone():
    model, (x, y) = seeded(Net).train(), data(400)
    seen = []
    model.b.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    h = Hardening(model, rate=0.4, level=0.0, example=x[:2])
    seen.clear()
    with h.step():
        F.cross_entropy(model(x), y).backward()
    model(x)
    alive = seen[1] > 0
    assert (seen[0][alive] == 0).float().mean().item() == pytest.approx(0.4, abs=0.03)
    kept = alive & (seen[0] > 0)
    torch.testing.assert_close(seen[0][kept], seen[1][kept] / 0.6)
    assert [place.name for place in h.sites] == ["act"] and len(model.act._forward_hooks) == 0


def test_rates_by_name_and_chosen_sites():
    model, (x, y) = seeded(Blocks), data()
    seen = {}
    for name in ("m", "b"):
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, given, name=name: seen.__setitem__(name, (given[0] == 0).float().mean().item())
        )
    h = Hardening(model, rate={"act": 0.0, "act2": 0.9}, level=0.0, sites=["act", "act2"], example=x)
    with h.step():
        F.cross_entropy(model(x), y).backward()
    assert seen["m"] > 0.9 and seen["b"] > 0.9  # `m` is called a second time, on the output of `act2`
    for rate in ({"act": 0.1}, {"act": 0.1, "other": 0.2}):
        with pytest.raises(ValueError, match="rate has"):
            Hardening(model, rate=rate, sites=["act", "act2"], example=x)


def test_an_activation_that_also_gives_the_output_drops_no_output():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.t = nn.Linear(8, 16), nn.Linear(16, 1), nn.Tanh()

        def forward(self, x):
            return self.t(self.b(self.t(self.a(x))))

    model, (x, _) = seeded(Shared), data()
    h = Hardening(model, rate=0.5, level=0.0)
    for _ in range(3):
        with h.step():
            out = model(x)
            out.sum().backward()
        assert (out != 0).all()


def test_everything_comes_back_and_the_callers_randomness_is_left_alone():
    class Busy(Blocks):
        def __init__(self):
            super().__init__()
            self.norm, self.drop, self.first = nn.BatchNorm1d(16), nn.Dropout(0.2), True

        def forward(self, x):
            self.first = False
            return self.b(self.drop(self.norm(self.act(self.a(x)))) + self.block(self.act(self.a(x))))

    x, y = data()
    model = seeded(Busy).train()
    model.act.eval()
    streams = []
    for work in (False, True):
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        if work:
            h = Hardening(model, rate=0.2, example=x)
            assert model.first and model.norm.num_batches_tracked == 0 and model.training and not model.act.training
            with h.step(0.5):
                F.cross_entropy(model(x), y).backward()
        streams.append((torch.rand(2).tolist(), np.random.rand(), random.random()))
    assert streams[0] == streams[1]
    assert model.norm.num_batches_tracked == 1 and not model.first  # the caller's own pass counts, and no other
    again = seeded(Busy).train()
    again.act.eval()
    h = Hardening(again, rate=0.2)  # without an example: the checks are made in the first step
    with h.step(0.5):
        F.cross_entropy(again(x), y).backward()
    assert again.norm.num_batches_tracked == 1
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(again.get_parameter(name).grad, gradient)


def test_the_network_comes_back_after_an_error():
    model, (x, _y) = seeded(Net), data()
    h = Hardening(model, example=x[:2])
    with pytest.raises(RuntimeError, match="mine"), h.step():
        model(x)
        raise RuntimeError("mine")
    for name, theta in model.named_parameters():
        assert torch.equal(theta, seeded(Net).get_parameter(name)) and not theta._backward_hooks
    assert not model.act._forward_hooks and not model._forward_pre_hooks


def test_training_is_repeatable_and_hardens():
    """After training in steps, faults cost less than after plain training (the digits, an MLP)."""
    digits = load_digits()
    x, y = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    found = []
    for hardened in (False, True, True):
        model = seeded(
            lambda: nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 10))
        )
        optimizer, h = torch.optim.Adam(model.parameters(), 5e-3), Hardening(model)
        torch.manual_seed(1)
        for step in range(250):
            rows = torch.randint(1200, (32,))
            optimizer.zero_grad()
            if hardened:
                with h.step(step / 250):
                    F.cross_entropy(model(x[rows]), y[rows]).backward()
            else:
                F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        found.append(evaluate(model, (x[1200:], y[1200:]), levels=(0, 0.9), draws=10, progress=False))
    assert np.array_equal(found[1].scores, found[2].scores)
    gain = found[1].minus(found[0]).table()
    assert gain["mean"][1] > gain.over_both[1] > 0 and found[1].mean[0] > 0.8


# What is refused


def test_steps_of_the_optimizer_and_late_backward_passes_are_refused():
    model, (x, y) = seeded(Net), data()
    optimizer, h = torch.optim.SGD(model.parameters(), 0.1), Hardening(model, example=x)
    with pytest.raises(ValueError, match="optimizer.step"), h.step():
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with h.step():
        loss = F.cross_entropy(model(x), y)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


def test_a_fault_without_a_gradient_is_refused():
    class Rounding:
        def perturb(self, theta, level, generator):
            return (theta * 8).round() / 8

    class StraightThrough(Rounding):
        def perturb(self, theta, level, generator):
            return theta + (super().perturb(theta, level, generator) - theta).detach()

    class Detached(Rounding):
        def perturb(self, theta, level, generator):
            return super().perturb(theta.detach(), level, generator)

    model, (x, y) = seeded(Net), data()
    for fault in (Rounding(), Detached()):
        with pytest.raises(ValueError, match="straight through"):
            Hardening(model, fault=fault, example=x)
        with pytest.raises(ValueError, match="straight through"), Hardening(model, fault=fault).step():
            model(x)
    with Hardening(model, fault=StraightThrough(), example=x).step():
        F.cross_entropy(model(x), y).backward()


def test_a_compiled_network_is_refused_with_sites_and_trains_without():
    torch._dynamo.reset()
    model, (x, y) = torch.compile(seeded(Net), backend="eager"), data()
    with pytest.raises(ValueError, match="compiled"):
        Hardening(model, example=x)
    with Hardening(model, sites=(), rise=0).step():
        F.cross_entropy(model(x), y).backward()
    net = seeded(Net)
    compiled = torch.compile(net, backend="eager")
    compiled(x)  # from now on it takes no notice of hooks
    h = Hardening(net, example=x)
    with pytest.raises(ValueError, match="compiled form"), h.step():
        compiled(x)
    plain = seeded(Net)
    assert model._orig_mod.a.weight.grad.abs().sum() > 0 and torch.equal(plain.a.weight, model._orig_mod.a.weight)


def test_sites_and_parameters_that_do_not_act_are_refused_by_name():
    class Odd(Net):
        def __init__(self):
            super().__init__()
            self.spare, self.side = nn.Linear(8, 8), nn.Tanh()

        def forward(self, x):
            self.side(self.a(x))
            return super().forward(x)

    x, _ = data()
    with pytest.raises(ValueError, match=r"'spare\.weight'"):
        Hardening(seeded(Odd), example=x)
    used = dict(where=lambda name, *_: "spare" not in name, example=x)
    with pytest.raises(ValueError, match="site 'side'"):
        Hardening(seeded(Odd), sites=["act", "side"], **used)
    with pytest.raises(ValueError, match="'spare' is no module that a pass"):
        Hardening(seeded(Odd), sites=["spare"], **used)
    Hardening(seeded(Odd), sites=["act"], **used)


def test_parameters_that_share_memory_are_refused_by_name():
    model = seeded(Net)
    model.other = nn.Parameter(model.a.weight.detach()[2:4].T)
    with pytest.raises(ValueError, match=r"'a\.weight' and 'other'.*share memory"):
        Hardening(model)
    Hardening(model, where=lambda name, *_: name != "other")
    model.other = nn.Parameter(model.b.weight.detach()[:0])
    Hardening(model)


@pytest.mark.parametrize(
    "name, value",
    [
        ("rate", 1.0), ("rate", -0.1), ("rate", float("nan")), ("rate", "high"), ("level", -1), ("level", float("inf")),
        ("level", float("nan")), ("rise", 2), ("fault", 3), ("sites", "act"), ("where", "biases"), ("seed", 0.5),
    ],
)  # fmt: skip
def test_arguments_are_checked_before_any_work(name, value):
    with pytest.raises(ValueError, match=name):
        Hardening(seeded(Net), **{name: value})


def test_progress_and_calls_are_checked():
    h = Hardening(seeded(Net))
    for progress in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="progress"), h.step(progress):
            pass
    with pytest.raises(ValueError, match="not called"), h.step():
        pass
    with pytest.raises(ValueError, match="torch.nn.Module"):
        Hardening("network")


def test_calibration_of_a_copy_without_faults_changes_no_gradient():
    net, (x, y) = seeded(Net), data(24)

    def loss() -> Tensor:
        return F.cross_entropy(net(x), y)

    expected = torch.autograd.grad(loss(), list(net.parameters()))
    h = Hardening(net, rate=0.0, level=0.0, calibrated=True, example=x)
    value = h.backward(loss)
    torch.testing.assert_close(value, loss().detach())
    for theta, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(theta.grad, gradient, rtol=1e-4, atol=1e-6)


def test_calibrated_training_is_the_same_with_an_example_and_without():
    found = []
    for example in (None, data(24)[0]):
        net, (x, y) = seeded(Net), data(24)
        h = Hardening(net, calibrated=True, example=example)
        for progress in (0.5, 1.0):
            h.backward(lambda net=net: F.cross_entropy(net(x), y), progress)
        found.append([theta.grad for theta in net.parameters()])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_calibrated_training_is_of_faults_of_parameters_alone_and_by_backward_alone():
    net = seeded(Net)
    with pytest.raises(ValueError, match="alpha = 1"):
        Hardening(net, alpha=0.5, calibrated=True)
    with pytest.raises(ValueError, match="call `backward`"), Hardening(net, calibrated=True).step():
        pass


@pytest.mark.parametrize(
    "fault, level",
    [(DRIFT, 1.0), (Retention(), 86400.0), (StuckCells(), 0.08), (Int8BitFlips(), 1e-3)],
)
def test_without_a_level_it_is_one_that_the_fault_is_used_at(fault, level):
    assert Hardening(seeded(Net), fault=fault).level == level


@pytest.mark.parametrize(
    "fault, level, message",
    [
        (Int8BitFlips(), 2.0, "level = 2.0: .* must be from 0 to 1"),
        (StuckCells(), 2.0, "level = 2.0: .* must be from 0 to 1"),
        (Float32BitFlips(), None, "no gradient to train with"),
        (ReramWan2022(), None, "give fixed=True and rise=0"),
    ],
)
def test_a_level_that_the_fault_does_not_allow_is_refused_at_once(fault, level, message):
    with pytest.raises(ValueError, match=message):
        Hardening(seeded(Net), level=level, fault=fault)


def test_a_fault_that_allows_few_levels_is_trained_under_at_one_of_them():
    model, (x, y) = seeded(Net), data()
    h = Hardening(model, fault=ReramWan2022(), fixed=True, rise=0, example=x, sites=(name for name in ["act"]))
    for progress in (0.0, 1.0):
        with h.step(progress):
            F.cross_entropy(model(x), y).backward()
    assert model.a.weight.grad.abs().sum() > 0 and [place.name for place in h.sites] == ["act"]


def test_a_compiled_network_meets_the_faults_of_the_network():
    (x, y), found = data(), []
    for model in (seeded(Net), torch.compile(seeded(Net), backend="eager")):
        with Hardening(model, rate=0.0, level=0.8, sites=()).step(1.0):
            nn.functional.cross_entropy(model(x), y).backward()
        found.append([theta.grad for theta in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
