"""evaluate: against a loop by hand, for data and networks of all kinds; what it leaves behind; what it refuses."""

import random
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from bayesft.drift import LogNormalDrift, monte_carlo
from bayesft.drift.faults import Quantise, StuckCells, Traits
from bayesft.hardening import measure
from bayesft.hardening.measure import evaluate
from bayesft.hardening.sites import find_sites
from bayesft.training.trained import accuracy_score
from tests.hardening.conftest import Net, by_hand, data, seeded

LEVELS = (0.0, 0.8)


def run(model, given, **changes):
    return evaluate(model, given, **{"levels": LEVELS, "draws": 3, "progress": False, **changes})


def check(model, x, y, result, **more):
    for i, level in enumerate(result.levels):
        for draw in range(result.scores.shape[1]):
            assert result.scores[i, draw] == pytest.approx(by_hand(model, x, y, level, draw, **more), abs=1e-9)


# The numbers


def test_the_scores_are_those_of_a_loop_and_of_monte_carlo(net):
    x, y = data(300)
    result = run(net, (x, y), levels=(0, 0.4, 1.2), draws=4)
    check(net, x, y, result)
    for i, level in enumerate(result.levels):
        theirs = monte_carlo(net, x, y, accuracy_score, LogNormalDrift(), level, range(4), ("evaluate", 0))
        assert np.allclose(result.scores[i], theirs)
    assert np.allclose(result.examples.mean(1), result.mean) and result.examples.shape == (3, 300)


def test_batches_groups_and_one_shot_iterators_change_nothing(net, monkeypatch):
    x, y = data(70)
    whole = run(net, (x, y))
    batches = list(zip(x.split(16), y.split(16), strict=True))
    for given in (batches, DataLoader(TensorDataset(x, y), batch_size=9), TensorDataset(x, y), iter(batches)):
        assert np.allclose(run(net, given).scores, whole.scores)
    monkeypatch.setattr(measure, "MEMORY", 1)  # a copy at a time
    alone = run(net, batches)
    assert np.allclose(alone.scores, whole.scores) and np.allclose(alone.examples, whole.examples)
    with pytest.raises(ValueError, match="data: an iterator"):
        run(net, iter(batches))


def test_a_shuffled_loader_with_augmentation_gives_the_same_batches_at_each_reading(net, monkeypatch):
    class Noisy(TensorDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + 0.1 * torch.randn(8) + 0.1 * random.random() + 0.1 * np.random.rand(), y

    for generator in (None, torch.Generator().manual_seed(5)):
        loader = DataLoader(Noisy(*data()), batch_size=16, shuffle=True, generator=generator)
        together = run(net, loader)
        with monkeypatch.context() as patch:
            patch.setattr(measure, "MEMORY", 1)
            assert np.array_equal(run(net, loader).scores, together.scores)


def test_data_in_another_order_at_each_reading_are_refused(net, monkeypatch):
    class Changing:
        readings = 0

        def __iter__(self):
            self.readings += 1
            x, y = data(20, seed=self.readings)
            yield x, y

    monkeypatch.setattr(measure, "MEMORY", 1)
    with pytest.raises(ValueError, match="shuffle=False"):
        run(net, Changing())


@dataclass
class Batch:
    x: torch.Tensor
    labels: torch.Tensor


def test_batches_of_every_kind(net):
    x, y = data()
    right = run(net, (x, y)).scores
    pair = namedtuple("pair", "x label")
    for given in (
        [{"x": x, "labels": y}],
        [{"x": x, "label": y}],
        [Batch(x, y)],
        [pair(x, y)],
        [[x, y]],
    ):
        assert np.allclose(run(net, given).scores, right), given
    graph = SimpleNamespace(x=x, y=y)  # an object is itself the input

    class OnObjects(Net):
        def forward(self, batch):
            return super().forward(batch.x)

    assert np.allclose(run(seeded(OnObjects), [graph]).scores, right)
    own = run(net, [("id", {"pixels": x}, y)], forward=lambda model, batch: (model(batch[1]["pixels"]), batch[2]))
    assert np.allclose(own.scores, right)


def test_streams_of_a_dataset_without_a_length(net):
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(*data(), strict=True)

    assert np.allclose(run(net, Stream()).scores, run(net, data()).scores)


def test_outputs_with_logits_tuples_and_maps_of_labels():
    class Output(dict):
        __getattr__ = dict.__getitem__

    class Wrapped(Net):
        how = staticmethod(lambda o: o)

        def forward(self, x):
            return self.how(super().forward(x))

    x, y = data()
    right = run(seeded(Net), (x, y)).scores
    for how in (lambda o: Output(logits=o), lambda o: (o, None), lambda o: {"logits": o, "aux": o.mean()}):
        model = seeded(Wrapped)
        model.how = how
        assert np.allclose(run(model, (x, y)).scores, right)
    pixels = seeded(lambda: nn.Conv2d(2, 4, 1))
    maps, classes = torch.randn(10, 2, 5, 5), torch.arange(250).reshape(10, 5, 5) % 4
    value = run(pixels, (maps, classes), levels=(0,))
    assert value.mean[0] == pytest.approx((pixels(maps).argmax(1) == classes).double().mean().item())
    tokens, tags = torch.randn(10, 7, 8), torch.arange(70).reshape(10, 7) % 3
    tags[:, 5:] = -100
    right = (seeded(Net)(tokens)[:, :5].argmax(2) == tags[:, :5]).double().mean().item()
    assert run(seeded(Net), (tokens, tags), levels=(0,)).mean[0] == pytest.approx(right)


# The score


def test_scores_over_all_outputs_are_computed_over_all_outputs(net):
    x, y = data(75)

    def first_against_all(outputs, targets):  # an example against all others of its batch
        return (outputs[:, 0] > outputs[:, 0].mean()).float()

    def share_of_most_frequent(outputs, targets):
        return outputs.argmax(1).bincount().max().item() / len(outputs)

    def mean(outputs, targets):
        return (outputs.argmax(1) == targets).float().mean()

    batches = list(zip(x.split(16), y.split(16), strict=True))
    for score in (first_against_all, share_of_most_frequent, mean):
        assert np.allclose(run(net, batches, score=score).scores, run(net, (x, y), score=score).scores), score
    assert np.allclose(run(net, batches, score=mean).scores, run(net, batches).scores)
    assert run(net, batches, score=mean).examples.shape == (2, 0)
    assert run(net, batches, score=first_against_all).examples.shape == (2, 75)


def balanced(outputs, targets):
    right = outputs.argmax(1) == targets
    return torch.stack([right[targets == c].float().mean() for c in targets.unique()]).mean().item()


def test_a_score_of_a_saturated_batch_is_still_known_to_compare_examples():
    model, (x, y) = nn.Sequential(nn.Linear(3, 3)), (torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20))
    with torch.no_grad():
        model[0].weight.copy_(5 * torch.eye(3))
        model[0].bias.zero_()

    batches = [(x[:6], y[:6]), (x[6:7], y[6:7]), (x[7:], y[7:])]
    assert np.allclose(run(model, batches, score=balanced).scores, run(model, (x, y), score=balanced).scores)


@pytest.mark.parametrize("memory", [None, 4000])
def test_data_in_the_order_of_their_classes_give_the_score_of_all(net, monkeypatch, memory):
    x, y = data(90)
    order = y.argsort()
    batches = list(zip(x[order].split(15), y[order].split(15), strict=True))
    if memory:  # room for two batches
        monkeypatch.setattr(measure, "MEMORY", memory)
    with torch.no_grad():
        expected = balanced(net(x), y)
    for given in (batches, iter(batches)) if not memory else (batches,):
        assert run(net, given, score=balanced, levels=(0,)).mean[0] == pytest.approx(expected)


def test_a_score_that_adds_up_needs_no_room_for_all_outputs(net, monkeypatch):
    x, y = data(90)
    counts = []

    def loss(outputs, targets):
        counts.append(len(outputs))
        return -F.cross_entropy(outputs, targets)

    batches = list(zip(x.split(15), y.split(15), strict=True))
    whole = run(net, batches, score=loss)
    assert max(counts) == 90
    monkeypatch.setattr(measure, "MEMORY", 6000)
    counts.clear()
    assert np.allclose(run(net, batches, score=loss).scores, whole.scores) and max(counts) < 90


def test_outputs_of_other_lengths_are_scored_batch_by_batch_or_refused():
    def mean(outputs, targets):
        return outputs.mean((1, 2)).mean()

    model = seeded(lambda: nn.Linear(4, 3))
    batches = [(torch.randn(6, 5, 4), torch.zeros(6)), (torch.randn(3, 2, 4), torch.zeros(3))]
    with torch.no_grad():
        expected = (6 * mean(model(batches[0][0]), None) + 3 * mean(model(batches[1][0]), None)) / 9
    assert run(model, batches, score=mean, levels=(0,)).mean[0] == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match="score: it needs all outputs at once"):
        run(model, batches, score=lambda outputs, targets: outputs.std())


@dataclass
class Output:
    logits: torch.Tensor


def test_outputs_that_are_plain_objects_have_scores_of_ones_own(net):
    class Objects(Net):
        def forward(self, x):
            return Output(super().forward(x))

    def by_example(outputs, targets):
        return (outputs.logits.argmax(1) == targets).float()

    def most_frequent(outputs, targets):
        return outputs.logits.argmax(1).bincount().max() / len(targets)

    x, y = data(60)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    for score in (by_example, most_frequent):
        expected = run(net, (x, y), score=lambda outputs, targets, score=score: score(Output(outputs), targets))
        assert np.allclose(run(seeded(Objects), batches, score=score).scores, expected.scores)


def test_inputs_that_are_called_like_targets_reach_the_network():
    class Conditional(Net):
        def forward(self, x, target=None):
            return super().forward(x + (0 if target is None else target[:, None]))

    x, y = data()
    shift, model = torch.linspace(-2, 2, 60), seeded(Conditional)
    right = (model(x, shift).argmax(1) == y).double().mean().item()
    assert run(model, [{"x": x, "target": shift, "labels": y}], levels=(0,)).mean[0] == pytest.approx(right)


def test_labels_in_eight_bits_have_no_mark():
    x, y = torch.eye(200), torch.arange(200)
    with torch.no_grad():
        (model := nn.Linear(200, 200)).weight.copy_(torch.eye(200))
    for kind in (torch.uint8, torch.int64):
        assert run(model, (x, y.to(kind)), levels=(0,)).examples.shape == (1, 200)
        assert run(model, (x, y.to(kind)), levels=(0,)).mean[0] == 1


def test_scores_of_detections_are_lists():
    class Boxes(nn.Linear):
        def forward(self, images):
            return [{"scores": super(Boxes, self).forward(image)} for image in images]

    model, images, truth = seeded(lambda: Boxes(4, 3)), list(torch.randn(6, 4)), [{"class": i % 3} for i in range(6)]
    batches = [(images[:4], truth[:4]), (images[4:], truth[4:])]

    def right(outputs, targets):
        pairs = zip(outputs, targets, strict=True)
        return sum(o["scores"].argmax().item() == t["class"] for o, t in pairs) / len(targets)

    value = run(model, batches, score=right, levels=(0,)).mean[0]
    assert value == pytest.approx(right(model(images), truth))


@pytest.mark.parametrize(
    "score",
    [
        lambda o, t: o,
        lambda o, t: (o.argmax(1) == t).float()[:, None],
        lambda o, t: "high",
        lambda o, t: o.mean(0),
    ],
)
def test_scores_of_a_wrong_shape_are_refused(net, score):
    with pytest.raises(ValueError, match="score"):
        run(net, data(), score=score)


def test_outputs_that_are_not_finite_are_wrong_and_counted():
    class Log(Net):
        def forward(self, x):
            return self.b(torch.log(self.a(x)))

    x, _ = data()
    y = torch.zeros(60, dtype=torch.long)
    for score in ("accuracy", lambda o, t: (o.argmax(1) == t).float()):
        result = run(seeded(Log), (x, y), score=score)
        finite = torch.log(seeded(Log).a(x)).isfinite().all(1).double().mean().item()
        assert result.mean[0] <= finite and result.not_finite[0, 0] == round(60 * (1 - finite)) > 30
        assert result.table().not_finite[0] == 3 * result.not_finite[0, 0] and "not finite" in str(result)
    deep = seeded(lambda: nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)))
    result = run(deep, (x, y), levels=(40.0,))
    assert result.mean[0] < 0.2 and result.not_finite.min() > 40


# The fault


class Coarse:
    """A fault that acts at level 0 already."""

    def perturb(self, theta, level, generator):
        return theta.sign()


def test_a_fault_without_randomness_is_measured_once_at_each_level(net):
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    x, y = data()
    counts = []
    for draws in (1, 20):
        passes.clear()
        found = run(net, (x, y), fault=Quantise(bits=3), levels=(0, 1), draws=draws)
        counts.append(len(passes))
    check(net, x, y, found, fault=Quantise(bits=3))
    assert counts[0] == counts[1]


class Noise:
    """A fault that is random at level 0 already."""

    traits = Traits("age", "t", "hours", grid=(0.0, 1.0))

    def perturb(self, theta, level, generator):
        return theta + (0.5 + level) * torch.randn(theta.shape, generator=generator)


def test_faults_that_act_at_level_zero(net):
    x, y = data()
    for fault in (Coarse(), Noise()):
        result = run(net, (x, y), fault=fault, levels=None if isinstance(fault, Noise) else (0,), draws=4)
        check(net, x, y, result, fault=fault)
    assert len(set(result.scores[0])) > 1 and tuple(result.levels) == Noise.traits.grid
    assert result.about["level"] == "age t (hours)"


def test_without_a_fault_a_copy_is_run_once(net):
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    run(net, data(), levels=(0,), draws=50)
    assert len(calls) < 10


def test_where(net):
    x, y = data()
    for where in ("weights", lambda name, module, theta: name.startswith("b.")):
        result = run(net, (x, y), where=where)
        check(net, x, y, result, where=where)


def test_calibration_between_fault_and_score_is_undone(net):
    x, y = data()
    seen = []

    def calibrate(model):
        seen.append(model.b.bias.detach().clone())
        model.b.bias.data.fill_(0)
        model.b.bias.data[1] = 1e6

    result = run(net, (x, y), calibrate=calibrate)
    assert np.allclose(result.scores, (y == 1).double().mean().item())
    assert len(seen) == 4 and not torch.equal(seen[1], seen[2]) and torch.equal(seen[0], net.b.bias)


# What a network may do


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)
        self.listed, self.head = [self.a.weight], lambda h: self.b(h)

    def forward(self, x):
        return self.head(torch.relu(F.linear(x, self.listed[0], self.a.bias)))


class Writes(Net):
    def forward(self, x):
        x -= 0.5
        x.data /= 2
        return super().forward(x)


class Counts(Net):
    """Changes a buffer, an attribute, a list and a parameter in every pass; its first pass is another one."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mu", torch.zeros(8), persistent=False)
        self.first, self.seen, self.memory = True, [], {"last": torch.zeros(3)}
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        out = super().forward(x - self.mu) * self.scale + self.memory["last"]
        out = out if self.first else -out
        self.mu += x.mean(0)
        self.first = False
        self.seen.append(len(x))
        self.memory["last"] += 100
        self.scale.data.mul_(1.5)
        return out


class Checkpointed(Net):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


class ForcesGradients(Net):
    def forward(self, x):
        with torch.enable_grad():
            return super().forward(x)


class ForbidsGradients(Net):
    @torch.no_grad()
    def forward(self, x):
        return super().forward(x)


class Half(Net):
    def __init__(self):
        super().__init__()
        self.bfloat16()

    def forward(self, x):
        return super().forward(x.bfloat16())


class Caches(Net):
    """Keeps a product of its weights in eval mode."""

    def __init__(self):
        super().__init__()
        self.kept = None

    def forward(self, x):
        if self.kept is None or self.training:
            self.kept = self.a.weight * 1.0
        return self.b(torch.relu(F.linear(x, self.kept, self.a.bias)))


class Integers(Net):
    def __init__(self):
        super().__init__()
        self.ids = nn.Parameter(torch.arange(3), requires_grad=False)


class View(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.f = nn.Conv2d(1, 4, (1, 3)), nn.Linear(24, 3)

    def forward(self, x):
        h = torch.relu(self.c(x[:, None, None]))
        return self.f(h.view(h.size(0), -1))


class Experts(Net):
    """An expert is used by examples of one kind alone, of which the first few are none."""

    def __init__(self):
        super().__init__()
        self.rare = nn.Linear(8, 3)

    def forward(self, x):
        out, rare = super().forward(x), x[:, 0] > 1.2
        return out.index_put((rare,), self.rare(x[rare])) if rare.any() else out


KINDS = [
    Experts,
    Tied, Writes, Counts, Checkpointed, ForcesGradients, ForbidsGradients, Half, Caches, Integers, View,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_kind_are_measured_right_and_left_alone(kind):
    x, y = data()
    model, again = seeded(kind).train(), seeded(kind)
    model.act = getattr(model, "act", nn.ReLU()).eval()
    kept = x.clone()
    torch.manual_seed(4)
    np.random.seed(4)
    random.seed(4)
    expected = torch.rand(3), np.random.rand(), random.random()
    torch.manual_seed(4)
    np.random.seed(4)
    random.seed(4)
    result = run(model, (x, y))
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(), random.random()) == expected[1:]
    assert torch.equal(x, kept)
    assert model.training and not model.act.training
    for (name, one), (_, two) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, two) and one.requires_grad == two.requires_grad and one.grad is None, name
    for (name, one), (_, two) in zip(model.named_buffers(), again.named_buffers(), strict=True):
        assert torch.equal(one, two), name
    for name in ("first", "seen", "kept"):
        assert getattr(model, name, None) == getattr(again, name, None)
    assert torch.equal(getattr(model, "memory", {"last": x})["last"], getattr(again, "memory", {"last": x})["last"])
    for i, level in enumerate(result.levels):
        for draw in range(3):
            assert result.scores[i, draw] == pytest.approx(by_hand(seeded(kind), x, y, level, draw), abs=1e-9)


def test_a_cache_that_was_filled_before_is_refused_by_name():
    for mode in (torch.no_grad(), torch.enable_grad()):
        model = seeded(Caches).eval()
        with mode:
            model(data()[0])
        with pytest.raises(ValueError, match=r"'a\.weight'.*cache"):
            run(model, data())


class Adapter(nn.Linear):
    """Merges a low-rank part into its weight when it is put into eval mode."""

    def __init__(self, i, o):
        super().__init__(i, o)
        self.down, self.up = nn.Parameter(torch.randn(2, i)), nn.Parameter(torch.randn(o, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * (self.up @ self.down)
            self.merged = not mode
        return self

    def forward(self, x):
        return super().forward(x) + (0 if self.merged else x @ self.down.T @ self.up.T)


def test_what_eval_merges_is_refused_or_measured_and_unmerged_bit_for_bit():
    model = seeded(lambda: nn.Sequential(Adapter(8, 3)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"0\.down.*where="):
        run(model, data())
    merged = run(model, data(), where=lambda name, *_: name in ("0.weight", "0.bias"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and not model[0].merged
    x, y = data()
    assert merged.mean[0] == pytest.approx((model(x).argmax(1) == y).double().mean().item())
    plain = nn.Linear(8, 3)
    plain.load_state_dict({"weight": before["0.weight"] + before["0.up"] @ before["0.down"], "bias": before["0.bias"]})
    check(nn.Sequential(plain), x, y, merged)


def test_a_network_that_is_random_in_eval_mode_is_repeatable():
    class Stochastic(Net):
        def forward(self, x):
            return super().forward(F.dropout(x, 0.5) + 0.1 * random.random())

    first, second = (run(seeded(Stochastic), data()) for _ in range(2))
    assert np.array_equal(first.scores, second.scores) and first.scores[0].std() > 0


def test_a_compiled_network(net):
    torch._dynamo.reset()
    x, y = data()
    assert np.allclose(run(torch.compile(net, backend="eager"), (x, y)).scores, run(net, (x, y)).scores)


def test_inside_of_autocast_and_inference_mode(net):
    x, y = data()
    right = run(net, (x, y)).scores
    with torch.inference_mode():
        assert np.allclose(run(net, (x, y)).scores, right)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.abs(run(net, (x, y)).scores - right).max() < 0.05


def test_a_graph_of_the_callers_survives(net):
    x, y = data()
    loss = F.cross_entropy(net(x), y)
    run(net, (x, y))
    loss.backward()
    other = seeded(Net)
    F.cross_entropy(other(x), y).backward()
    assert torch.equal(net.a.weight.grad, other.a.weight.grad)


def test_a_padding_mask():
    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.e = nn.Embedding(9, 8, padding_idx=0)
            self.t = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
            self.o = nn.Linear(8, 2)

        def forward(self, words):
            return self.o(self.t(self.e(words), src_key_padding_mask=words == 0)[:, 0])

    words = torch.randint(1, 9, (40, 5), generator=torch.Generator().manual_seed(0))
    words[:, 4] = 0
    model, y = seeded(Transformer), words[:, 0] % 2
    check(model, words, y, run(model, (words, y)))


def test_the_last_example_is_never_alone():
    class Squeezes(Net):
        def forward(self, x):
            return super().forward(x).squeeze()

    x, y = data(257)
    check(seeded(Squeezes), x, y, run(seeded(Squeezes), (x, y)))
    with pytest.raises(ValueError, match=r"outputs \(3,\) and labels \(1,\)"):
        run(seeded(Squeezes), [(x[:16], y[:16]), (x[16:17], y[16:17])])


# Ctrl-C


def test_an_interruption_keeps_the_complete_draws(net, monkeypatch):
    x, y = data()
    whole = run(net, (x, y), draws=5)
    monkeypatch.setattr(measure, "MEMORY", 1)
    calls = []

    def forward(model, batch):
        calls.append(1)
        if len(calls) > 7:
            raise KeyboardInterrupt
        return model(batch[0]), batch[1]

    with pytest.warns(UserWarning, match="of 5 draws are complete"):
        part = run(net, (x, y), draws=5, forward=forward)
    done = part.scores.shape[1]
    assert 0 < done < 5 and np.array_equal(part.scores, whole.scores[:, :done]) and "interrupted" in str(part)
    assert np.allclose(part.examples.mean(1), part.mean)
    assert torch.equal(net.a.weight, seeded(Net).a.weight)
    with pytest.raises(KeyboardInterrupt):
        run(net, (x, y), forward=forward)


# What is refused


@pytest.mark.parametrize(
    "name, value",
    [
        ("draws", 2.5), ("draws", 0), ("draws", True), ("seed", 1.5), ("levels", ()), ("levels", (0, float("nan"))),
        ("levels", (float("inf"),)), ("levels", (-0.1,)), ("levels", "high"), ("levels", "12"), ("levels", True),
        ("device", "gpu9"), ("device", "cuda:77"), ("score", "f1"), ("where", "biases"),
        ("fault", 3), ("forward", 3), ("calibrate", 3),
    ],
)  # fmt: skip
def test_arguments_are_checked_before_any_work(net, name, value):
    def forbidden(*_):
        raise AssertionError("the network was run")

    net.forward = forbidden
    with pytest.raises(ValueError, match=name):
        run(net, data(), **{name: value})


def test_numbers_of_numpy_are_numbers(net):
    given = np.float32(0.5), np.int64(1)
    assert run(net, data(), levels=given).levels.tolist() == run(net, data(), levels=(0.5, 1)).levels.tolist()
    assert run(net, data(), levels=np.linspace(0, 1, 3), draws=np.int64(2)).scores.shape == (3, 2)


def test_levels_that_a_fault_does_not_allow(net):
    with pytest.raises(ValueError, match=r"levels = .*from 0 to 1"):
        run(net, data(), fault=StuckCells(), levels=(0, 1.5))


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda x, y: (x, y[:-1]), "lengths"),
        (lambda x, y: (x[:0], y[:0]), "empty"),
        (lambda x, y: [], "no batch"),
        (lambda x, y: x, "data = Tensor"),
        (lambda x, y: (x,), "lengths"),
        (lambda x, y: [{"x": x}], "forward"),
        (lambda x, y: (x.where(x < 2, torch.nan), y), "NaN"),
        (lambda x, y: [(x, y), (x * torch.nan, y)], "NaN"),
        (lambda x, y: (x, y + 1), "labels from 1 to 3: need 0 to 2"),
        (lambda x, y: (x, y - 1), "labels from -1"),
        (lambda x, y: (x, y[:, None]), "do not fit"),
        (lambda x, y: (x, y.float()), "no classes"),
        (lambda x, y: [(x[:0], y[:0])], "no examples"),
        (lambda x, y: {"x": x, "labels": y}, "data = dict"),
        (lambda x, y: 3, "data = int"),
    ],
)
def test_data_are_checked(net, given, message):
    with pytest.raises(ValueError, match=message):
        run(net, given(*data()))


def test_networks_that_can_not_be_measured():
    for model, message in (
        (lambda x: x, "torch.nn.Module"),
        (nn.LazyLinear(3), "lazy"),
        (nn.ReLU(), "no such parameter"),
    ):
        with pytest.raises(ValueError, match=message):
            run(model, data())

    class Unused(Net):
        def __init__(self):
            super().__init__()
            self.spare = nn.Linear(2, 2)

    with pytest.raises(ValueError, match=r"'spare\.weight', 'spare\.bias'"):
        run(seeded(Unused), data())
    x, y = data()
    where = lambda name, *_: "spare" not in name  # noqa: E731
    check(seeded(Unused), x, y, run(seeded(Unused), (x, y), where=where), where=where)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_network_is_moved_and_comes_back(net):
    F.cross_entropy(net(data()[0]), data()[1]).backward()
    memory, gradient = [theta.data_ptr() for theta in net.parameters()], net.a.weight.grad
    assert np.isfinite(run(net, data(), device="cuda").scores).all()
    assert [theta.data_ptr() for theta in net.parameters()] == memory and net.a.weight.grad is gradient
    assert gradient.device.type == "cpu"


# A list of tensors, with a forward of one's own


def test_a_list_of_tensors_is_a_list_of_batches_for_a_forward(net):
    x, y = data()
    rows = torch.cat([x.flatten(1), y[:, None].float()], 1)  # images and label in one tensor

    def forward(model, batch):
        return model(batch[:, :-1].reshape(-1, *x.shape[1:])), batch[:, -1].long()

    expected = run(net, (x, y))
    for batches in ([rows[:20], rows[20:]], [rows]):
        assert np.array_equal(run(net, batches, forward=forward).scores, expected.scores)


# Networks of other kinds


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("make", [lambda net, x: torch.jit.trace(net, x), lambda net, x: torch.jit.script(net)])
def test_a_scripted_network_is_measured_and_comes_back(net, make):
    x, y = data()
    expected, scripted = run(net, (x, y)), make(net, x)
    before = {name: value.clone() for name, value in scripted.state_dict().items()}
    assert np.array_equal(run(scripted, (x, y)).scores, expected.scores)
    assert all(torch.equal(value, before[name]) for name, value in scripted.state_dict().items())
    with pytest.raises(ValueError, match="scripted or traced"):
        find_sites(scripted, x)


def test_an_expanded_parameter_is_refused_by_name(net):
    net.b.bias = nn.Parameter(torch.zeros(1).expand(3))
    with pytest.raises(ValueError, match=r"'b.bias' is expanded"):
        run(net, data())


def test_a_class_is_no_fault_and_meta_no_device(net):
    with pytest.raises(ValueError, match=r"fault = LogNormalDrift: must be an instance"):
        run(net, data(), fault=LogNormalDrift)
    with pytest.raises(ValueError, match="device = 'meta'"):
        run(net, data(), device="meta")


def test_messages_name_the_cause(net):
    x, y = data()
    with pytest.raises(ValueError, match="each copy reads it after it was calibrated"):
        run(net, iter([(x, y)]), calibrate=x)
    for given in ((x.numpy(), y.numpy()), x.numpy()):
        with pytest.raises(ValueError, match="NumPy arrays: must be tensors"):
            run(net, given)
    with torch.inference_mode():
        inside = Net()
    with pytest.raises(ValueError, match="built in torch.inference_mode"):
        run(inside, (x, y))


def test_an_example_that_does_not_fit_is_named(net):
    with pytest.raises(ValueError, match="example: the network fails on it"):
        find_sites(net, torch.zeros(3, 5))


def test_a_score_that_is_no_number_is_refused(net):
    for value in (float("nan"), torch.full((60,), float("nan"))):
        with pytest.raises(ValueError, match="score gives NaN"):
            run(net, data(), score=lambda outputs, targets, value=value: value)


class Spoils(LogNormalDrift):
    """Its `apply` writes into the sample, which serves every level."""

    def apply(self, theta, sample, level):
        return theta * sample.mul_(level).exp_()


class InPlace:
    def perturb(self, theta, level, generator):
        theta += level
        return theta


class Unkeyed:
    def perturb(self, theta, level, generator):
        return theta + level * torch.randn(theta.shape)


@pytest.mark.parametrize("fault", [Spoils(), InPlace(), Unkeyed()])
def test_a_fault_that_draws_elsewhere_or_writes_into_its_arguments_is_refused(net, fault):
    before, state = seeded(Net).state_dict(), torch.get_rng_state()
    with pytest.raises(ValueError, match="must draw from its generator alone, and leave its arguments"):
        run(net, data(), fault=fault, levels=(0.5, 1.0))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
