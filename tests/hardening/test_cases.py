"""Networks, losses and data that once gave a silent wrong number, or an error that told little."""

import collections
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from bayesft import Hardening, LogNormalDrift, evaluate, find_sites, harden
from bayesft.drift import monte_carlo, select
from bayesft.methods.drift_aware import drift_gradient
from bayesft.settings import Recipe
from bayesft.training import plain_gradient
from bayesft.training.trained import accuracy_score
from tests.hardening.conftest import Centres, Net, data, equal, seeded

DRIFT = LogNormalDrift()
PARTS = data(60), data(30, 1)
TINY = {"recipe": Recipe(epochs=2, batch_size=16), "rate": 0.1, "levels": (0.0,), "draws": 2, "progress": False}


def copies(net, x, y, score=accuracy_score, level=0.0, draws=1):
    return monte_carlo(net, x, y, score, DRIFT, level, range(draws), ("k",))


class Standardises(Net):
    def forward(self, x):
        x -= 0.5
        x /= 2
        return super().forward(x)


def test_01_a_forward_that_changes_its_input():
    kept = [tensor.clone() for part in PARTS for tensor in part]
    found = harden(Standardises, *PARTS, loss=F.cross_entropy, **TINY)
    right = -F.cross_entropy(found.networks["given"](kept[2].clone()), kept[3]).item()
    assert found.comparison.curves["given"].mean[0] == pytest.approx(right, abs=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(kept, [t for part in PARTS for t in part], strict=True))


def test_01b_a_first_layer_that_works_in_place():
    layers = nn.ReLU(inplace=True), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)
    net, (x, y) = nn.Sequential(*layers), data()
    before = x.clone()
    copies(net, x, y)
    evaluate(net, (x, y), levels=(0, 0.5), draws=2, progress=False)
    assert torch.equal(x, before)


def test_02_outputs_that_are_not_finite_are_no_class():
    class Logarithm(Net):
        def forward(self, x):
            return self.b(torch.log(self.a(x)))

    net, x = seeded(Logarithm), data()[0]
    zeros = torch.zeros(60, dtype=torch.long)
    assert copies(net, x, zeros, level=0.5).item() == 0
    found = evaluate(net, (x, zeros), levels=(0.5,), draws=2, progress=False)
    assert found.mean[0] == 0 and found.not_finite.tolist() == [[60, 60]]
    wide = seeded(lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)))
    assert copies(wide, x, zeros, level=40.0, draws=4).max() < 1
    assert evaluate(wide, (x, zeros), levels=(40.0,), draws=4, progress=False).not_finite.sum() > 0


def test_03_a_compiled_network_gets_its_dropout():
    net = seeded(Net)
    found = harden(torch.compile(net, backend="eager"), *PARTS, plain=True, **{**TINY, "rate": 0.9, "level": 0.0})
    assert not equal(found.networks["plain"], found.model)


class Block(nn.Module):
    def __init__(self, again: bool):
        super().__init__()
        self.a, self.m, self.b, self.again = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3), again

    def inner(self, h):
        return torch.relu(self.m(h))

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.b(checkpoint(self.inner, h, use_reentrant=False) if self.again else self.inner(h))


def test_04_blocks_that_are_computed_again_in_the_backward_pass():
    gradients, (x, y) = [], data()
    for again in (False, True):
        net = seeded(lambda again=again: Block(again))
        torch.manual_seed(1)
        drift_gradient(DRIFT, 1.0, "all")(net, F.cross_entropy, x, y)
        stepped = seeded(lambda again=again: Block(again))
        with Hardening(stepped, 0.0, 1.0, sites=()).step(1.0):
            F.cross_entropy(stepped(x), y).backward()
        gradients.append((net.a.weight.grad, stepped.a.weight.grad))
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-7)
    clean = seeded(lambda: Block(False))
    plain_gradient(clean, F.cross_entropy, x, y)
    assert not torch.allclose(clean.a.weight.grad, gradients[0][0], rtol=0.01)


def test_05_buffers_outside_of_the_state_dict():
    parts = [(x + 5, y) for x, y in (data(200), data(60, 1))]
    assert harden(Centres, *parts, **{**TINY, "recipe": Recipe(epochs=5, batch_size=16)}).model.mu.mean() > 4


class Adapter(nn.Linear):
    """A low-rank part, which eval mode merges into the weight."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.d, self.u = nn.Parameter(torch.randn(4, inputs) / 2), nn.Parameter(torch.randn(outputs, 4) / 2)
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.u @ self.d)
            self.merged = not mode
        return self

    def forward(self, x):
        h = F.linear(x, self.weight, self.bias)
        return h if self.merged else h + x @ self.d.T @ self.u.T


def test_07_an_adapter_that_eval_merges():
    def build():
        return nn.Sequential(Adapter(8, 16), nn.ReLU(), Adapter(16, 3))

    options = {**TINY, "loss": F.cross_entropy, "search": {"trials": 2, "levels": (1e-6,), "draws": 2}}
    with pytest.raises(ValueError, match=r"'0\.d', '0\.u'.*leave the parameter out"):
        harden(build, *PARTS, **options)
    found = harden(build, *PARTS, where=lambda name, module, theta: name[-1] not in "du", **options)
    assert found.study.best.objective == pytest.approx(found.comparison.curves["hardened"].mean[0], abs=1e-4)


def test_08_a_function_that_closes_over_the_network():
    class Closes(Net):
        def __init__(self):
            super().__init__()
            self.head = lambda h: self.b(h)

        def forward(self, x):
            return self.head(self.act(self.a(x)))

    net = Closes()
    with pytest.raises(ValueError, match=r"'b\.weight' of the original"):
        harden(net, *PARTS, **TINY)
    assert net.b.weight.grad is None


def test_08b_parameters_that_are_also_in_a_list():
    class Listed(Net):
        def __init__(self):
            super().__init__()
            self.listed = [self.a.weight, self.b.weight]

        def forward(self, x):
            return F.linear(torch.relu(F.linear(x, self.listed[0], self.a.bias)), self.listed[1], self.b.bias)

    listed, net, (x, y) = seeded(Listed), seeded(Net), data()
    first = lambda outputs, labels: outputs[:, 0].float()  # noqa: E731
    torch.testing.assert_close(copies(listed, x, y, first, 0.8, 3), copies(net, x, y, first, 0.8, 3))
    options = {"score": first, "levels": (0.8,), "draws": 3, "progress": False}
    found = [evaluate(model, (x, y), **options).scores for model in (listed, net)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_09_a_score_that_compares_examples():
    net = seeded(lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8)))
    x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        t = net(x) + 0.15 * torch.randn(1000, 8, generator=torch.Generator().manual_seed(1))

    def nearest(o, t):
        return ((o @ t.T - 0.5 * (t * t).sum(1)).argmax(1) == torch.arange(len(o))).float()

    found = evaluate(net, (x, t), score=nearest, levels=(0.0, 1e-7), draws=1, progress=False)
    with torch.no_grad():
        right = nearest(net(x), t).mean().item()
    assert found.mean == pytest.approx([right, right], abs=0.005)


def test_11_all_of_an_attention_or_none():
    assert set(select(nn.MultiheadAttention(8, 2), "weights")) == {"in_proj_weight", "out_proj.weight"}


class Signs(nn.Module):
    """One activation between the layers and at the output."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.t = nn.Linear(8, 16), nn.Linear(16, 1), nn.Tanh()

    def forward(self, x):
        return self.t(self.b(self.t(self.a(x))))


def test_12_an_activation_that_also_gives_the_output():
    net, x = seeded(Signs), data()[0]
    sites = find_sites(net, x[:2])
    assert [site.name for site in sites] == ["t"]
    with Hardening(net, 0.5, 0.0, sites=sites).step(1.0):
        outputs = net(x)
    assert not (outputs == 0).any()


WEIGHTS = torch.ones(3)


def weighted(outputs, labels):
    return (F.cross_entropy(outputs, labels, reduction="none") * WEIGHTS[labels]).mean()


def test_13_a_checkpoint_of_another_loss(tmp_path):
    """A complete call leaves nothing behind that a call with another loss could take for its own."""
    global WEIGHTS
    options = {**TINY, "loss": weighted, "score": lambda o, y: (o.argmax(1) == y).float()}
    try:
        harden(Net, *PARTS, checkpoint=tmp_path / "c", **options)
        WEIGHTS = torch.tensor([1.0, 1.0, 50.0])
        again = harden(Net, *PARTS, checkpoint=tmp_path / "c", **options)
        assert equal(again.model, harden(Net, *PARTS, **options).model)
    finally:
        WEIGHTS = torch.ones(3)


def test_15_a_score_of_another_shape():
    (x, y), net = data(300), seeded(Net)
    for labels, score in ((y, lambda o, y: (o.argmax(1) == y).float().mean()), (y[:, None], accuracy_score)):
        with pytest.raises(ValueError, match="score gives the shape"):
            copies(net, x, labels, score)
    right = copies(net, x, y).item()
    mean = evaluate(net, (x, y), score=lambda o, y: (o.argmax(1) == y).float().mean(), levels=(0,), progress=False)
    assert mean.mean[0] == pytest.approx(right, abs=1e-6)
    with pytest.raises(ValueError, match="do not fit"):
        evaluate(net, (x, y[:, None]), levels=(0,), progress=False)


Out = collections.namedtuple("Out", "logits aux")


def test_18_named_tuples_and_scalars_among_the_outputs():
    class Named(Net):
        def forward(self, x):
            logits = super().forward(x)
            return Out(logits, logits.square().mean())

    found = harden(Named, data(300), data(300, 1), loss=lambda o, y: F.cross_entropy(o.logits, y) + o.aux, **TINY)
    with torch.no_grad():
        outputs = found.model(data(300, 1)[0])
    right = F.cross_entropy(outputs.logits, data(300, 1)[1]) + outputs.aux
    assert found.comparison.curves["hardened"].mean[0] == pytest.approx(-right.item(), rel=1e-4)


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.e, self.t, self.o = nn.Embedding(9, 8, padding_idx=0), nn.TransformerEncoder(layer, 1), nn.Linear(8, 2)

    def forward(self, words):
        return self.o(self.t(self.e(words), src_key_padding_mask=words == 0)[:, 0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_19_a_padding_mask():
    words = torch.randint(1, 9, (40, 5), generator=torch.Generator().manual_seed(0))
    words[:, 4] = 0
    found = harden(Padded, (words, words[:, 0] % 2), (words, words[:, 0] % 2), **{**TINY, "levels": (0.0, 0.5)})
    assert found.comparison.curves["hardened"].mean.min() >= 0


def test_20_a_parameter_of_integers():
    class Numbered(Net):
        def __init__(self):
            super().__init__()
            self.ids = nn.Parameter(torch.arange(3), requires_grad=False)

    found = harden(Numbered, *PARTS, **{**TINY, "levels": (0.0, 0.5)})
    assert torch.equal(found.model.ids, torch.arange(3))


def test_21_a_network_that_can_not_take_one_example():
    class Squeezes(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.r, self.p = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
            self.n, self.b = nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(self.n(self.p(self.r(self.c(x))).squeeze()))

    part = torch.randn(65, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(65) % 3
    harden(Squeezes, part, part, **TINY)  # 65 examples in batches of 16
    evaluate(Squeezes(), tuple(torch.cat([t] * 4)[:257] for t in part), levels=(0, 0.5), draws=2, progress=False)


def test_22_a_trial_whose_score_overflows_fails_and_the_search_goes_on():
    class Exponential(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

        def forward(self, x):
            return torch.exp(20 * self.net(x))

    x = data(100)[0]
    part = x, torch.exp(x[:, :1])
    space = {"level": (0.1, 0.3), "lr": (1e-6, 10.0, "log")}
    search = {"trials": 5, "initial": 5, "levels": (0.2,), "draws": 2, "space": space}
    found = harden(Exponential, part, part, loss=F.mse_loss, search=search, **TINY)
    failed = found.study.frame().objective.isna()
    assert failed.any() and math.isfinite(found.study.best.objective)


def test_25_a_view_in_a_network_of_ones_own():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.c, self.f = nn.Conv2d(3, 6, 5), nn.Linear(6 * 16, 4)

        def forward(self, x):
            h = torch.relu(self.c(x))
            return self.f(h.view(h.size(0), -1))

    x, y = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(5) % 4
    net = seeded(Views)
    assert 0 <= copies(net, x, y, level=0.3).item() <= 1
    assert evaluate(net, (x, y), levels=(0.0,), progress=False).mean[0] == pytest.approx(copies(net, x, y).item())


def test_26_half_precision():
    parts = [(x.half(), y) for x, y in (data(200), data(60, 1))]
    found = harden(lambda: Net().half(), *parts, **{**TINY, "recipe": Recipe(epochs=8, batch_size=16), "level": 0.3})
    assert found.model.a.weight.dtype == torch.float16 and found.comparison.curves["hardened"].mean[0] > 0.6
