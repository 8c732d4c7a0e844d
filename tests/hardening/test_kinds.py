"""Kinds of network, data and surroundings in which a wrong number could pass in silence."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesft import Hardening, evaluate, harden, tune
from bayesft.settings import Recipe
from tests.hardening.conftest import Net, data, equal, seeded

RECIPE = Recipe(epochs=4, batch_size=16)
PARTS = data(129), data(65, 1)
SAME = {"levels": (0.0, 0.5), "draws": 3, "progress": False}
TINY = {"recipe": RECIPE, "rate": 0.1, "level": 0.5, **SAME}


class Overlaps(Net):
    """The bias of the second layer is a view of the first layer's."""

    def __init__(self):
        super().__init__()
        self.b.bias = nn.Parameter(self.a.bias.data[:3])


class Aliased(Net):
    """A buffer is a view of a weight."""

    def __init__(self):
        super().__init__()
        self.register_buffer("first", self.a.weight.data[0])


def test_parameters_that_share_memory_are_refused():
    for call in (lambda n: evaluate(n, PARTS[1], **SAME), Hardening, lambda n: harden(n, *PARTS, **TINY)):
        with pytest.raises(ValueError, match=r"'[ab]\.bias' and '[ab]\.bias' share memory"):
            call(Overlaps())
    with pytest.raises(ValueError, match="share memory"):  # a copy of it would be another network
        harden(Aliased, *PARTS, **TINY)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.act, self.b = nn.Linear(8, 16, dtype=torch.complex64), nn.Identity(), nn.Linear(16, 3)

    def forward(self, x):
        return self.b(self.act(self.a(x.to(torch.complex64)).abs()))


@pytest.mark.parametrize("build", [Complex, lambda: Net().double(), lambda: Net().bfloat16()])
def test_other_kinds_of_numbers_learn(build):
    dtype = next(build().parameters()).dtype
    parts = [(x if dtype.is_complex else x.to(dtype), y) for x, y in PARTS]
    found = harden(build, *parts, **{**TINY, "recipe": Recipe(epochs=12, batch_size=16)})
    assert {theta.dtype for theta in found.model.parameters()} == {theta.dtype for theta in build().parameters()}
    assert found.comparison.differences["hardened"].mean[0] > 0.15


class Noisy(Net):
    """Noise from three global streams, in eval mode too."""

    def forward(self, x):
        noise = torch.rand(()) + float(np.random.rand()) + random.random()
        return super().forward(x + 0.1 * noise)


def test_randomness_of_global_streams_is_repeated_and_the_callers_goes_on():
    def states():
        return torch.random.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()

    before = states()
    one, two = (harden(seeded(Noisy), *PARTS, **TINY) for _ in range(2))
    assert states() == before
    torch.rand(3), np.random.rand(), random.random()
    three = harden(seeded(Noisy), *PARTS, **TINY)
    assert equal(one.model, two.model) and equal(one.model, three.model)
    assert one.table().equals(three.table())


class FirstBatch(Net):
    """Its first batch in training sets a scale, kept in plain attributes."""

    def __init__(self):
        super().__init__()
        self.ready, self.scale = False, 1.0

    def forward(self, x):
        if self.training and not self.ready:
            self.scale, self.ready = 1 / float(x.std()), True
        return super().forward(x * self.scale)


def test_flags_of_a_first_batch_are_those_of_the_training():
    parts = [(100 * x, y) for x, y in PARTS]
    net = seeded(FirstBatch)
    found = harden(net, *parts, **TINY)
    assert (net.ready, net.scale) == (False, 1.0) and found.networks["given"].scale == 1.0
    assert 0.009 < found.model.scale < 0.011
    again = evaluate(found.model, parts[1], **SAME)
    assert again.scores == pytest.approx(found.comparison.curves["hardened"].scores)


class Frozen(nn.Module):
    """A train() of its own keeps the batch norm in eval mode."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.act, self.b = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)

    def train(self, mode=True):
        super().train(mode)
        self.n.eval()
        return self

    def forward(self, x):
        return self.b(self.act(self.n(self.a(x))))


def test_a_train_of_the_networks_own_is_kept():
    found = harden(seeded(Frozen), *PARTS, **TINY)
    assert torch.equal(found.model.n.running_mean, torch.zeros(16)) and found.model.n.num_batches_tracked == 0
    assert not torch.equal(found.model.n.weight, torch.ones(16))


class NoGradient(Net):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class HalfGradient(Net):
    def forward(self, x):
        with torch.no_grad():
            h = self.act(self.a(x))
        return self.b(h)


class ForcesGradient(Net):
    def forward(self, x):
        with torch.enable_grad():
            return super().forward(x)


def test_a_forward_that_forces_the_grad_mode():
    with pytest.raises(ValueError, match="loss gives shape .*with a gradient"):
        harden(NoGradient, *PARTS, **TINY)
    curve = evaluate(seeded(Net), PARTS[1], **SAME)
    for kind in (NoGradient, HalfGradient, ForcesGradient):
        assert evaluate(seeded(kind), PARTS[1], **SAME).scores == pytest.approx(curve.scores)
    found = harden(seeded(HalfGradient), *PARTS, sites=["act"], **TINY)
    before, after = seeded(Net), found.model
    assert torch.equal(after.a.weight, before.a.weight) and not torch.equal(after.b.bias, before.b.bias)


def test_inside_of_inference_mode_and_with_inference_tensors():
    plain = harden(seeded(Net), *PARTS, **TINY)
    with torch.inference_mode():
        parts = [(x.clone(), y.clone()) for x, y in PARTS]
        net = seeded(Net)
        found = harden(net, *parts, **TINY)
        study = tune(lambda values: harden(Net, *parts, **TINY).model, parts[1], space={"x": (0, 1)}, trials=1, **SAME)
    assert equal(found.model, plain.model) and not study.trials[0].failed
    assert not any(theta.is_inference() for theta in found.model.parameters())
    with torch.no_grad():
        assert equal(harden(seeded(Net), *PARTS, **TINY).model, plain.model)
    F.cross_entropy(found.model(PARTS[0][0]), PARTS[0][1]).backward()  # it can be trained on


class Tags(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.a, self.act, self.b = nn.Embedding(9, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)

    def forward(self, words):
        return self.b(self.act(self.a(self.e(words))))


def test_labels_that_the_loss_ignores_do_not_count():
    words = torch.randint(0, 9, (60, 5), generator=torch.Generator().manual_seed(0))
    tags = torch.where(words > 6, -100, words % 3)
    tags[:, 0], words[:, 0] = 0, 0  # a label in each row
    found = harden(Tags, (words, tags), (words, tags), **{**TINY, "recipe": Recipe(epochs=20, batch_size=16)})
    net = found.model
    right = (net(words).argmax(2) == tags).double().sum(1) / (tags != -100).sum(1)
    assert found.comparison.curves["hardened"].mean[0] == pytest.approx(right.mean().item()) and right.mean() > 0.8
    void = tags.clone()
    void[5] = -100
    with pytest.raises(ValueError, match="an example has no label"):
        evaluate(net, (words, void), **SAME)
    own = harden(
        Tags, (words, torch.where(tags < 0, 255, tags)), (words, tags), recipe=RECIPE, **SAME,
        loss=lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten(), ignore_index=255), score="accuracy",
    )  # fmt: skip
    assert np.isfinite(own.comparison.curves["hardened"].mean).all()


class Remembers(Net):
    """It keeps its last outputs, as caches do."""

    def forward(self, x):
        self.last = super().forward(x)
        return self.last


def test_what_a_measurement_leaves_behind_can_be_trained_on():
    net = seeded(Remembers)
    evaluate(net, PARTS[1], **SAME)
    assert not hasattr(net, "last")
    found = harden(net, *PARTS, **TINY)
    assert equal(found.model, harden(seeded(Net), *PARTS, **TINY).model)
    F.cross_entropy(net(PARTS[0][0]), PARTS[0][1]).backward()
