"""The training loop: learning, repeatability, resuming, divergence."""

import math
import re
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bayesft.data import Split
from bayesft.drift import LogNormalDrift
from bayesft.models import build, dropout, find_sites
from bayesft.settings import Recipe
from bayesft.training import (
    Checkpoint,
    Diverged,
    accuracy,
    awp,
    drift_aware,
    dropout_rates,
    erm,
    fit,
    ftna,
    tunable,
    uniform,
)
from bayesft.training.loop import plain_gradient

PLAIN = {"network": "mlp", "inputs": 16, "hidden": [12, 8], "outputs": 4}
STEPS = 3  # of an epoch: 40 images in batches of at most 16


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Interrupted(Exception):
    pass


class Counted:
    """The plain gradient, which counts its calls and raises at call number `stop`."""

    def __init__(self, stop: int | None = None):
        self.calls, self.stop = 0, stop

    def __call__(self, model, loss, x, y, progress):
        self.calls += 1
        if self.calls == self.stop:
            raise Interrupted
        return plain_gradient(model, loss, x, y)


def test_a_gradient_is_told_how_much_of_the_training_is_done(separable, recipe, tmp_path):
    told, resumed = [], []

    def telling(into, stop=None):
        def gradient(model, loss, x, y, progress):
            into.append(progress)
            if len(into) == stop:
                raise Interrupted
            return plain_gradient(model, loss, x, y)

        return gradient

    fit(build(PLAIN, 0), separable(40), recipe, seed=0, label="t", gradient=telling(told))
    steps = len(told)
    assert told == pytest.approx([step / steps for step in range(steps)])
    with Checkpoint(tmp_path / "c") as checkpoint, pytest.raises(Interrupted):
        options = {"seed": 0, "label": "t", "checkpoint": checkpoint}
        fit(build(PLAIN, 0), separable(40), recipe, gradient=telling([], steps // recipe.epochs + 2), **options)
    with Checkpoint(tmp_path / "c") as checkpoint:
        options = {"seed": 0, "label": "t", "checkpoint": checkpoint}
        fit(build(PLAIN, 0), separable(40), recipe, gradient=telling(resumed), **options)
    assert resumed == told[steps // recipe.epochs :]


def test_a_measurement_that_leaves_eval_mode_does_not_stop_dropout(separable, recipe):
    modes = []

    def gradient(model, loss, x, y, progress):
        modes.append(model.training)
        return plain_gradient(model, loss, x, y)

    model = build(PLAIN, 0)
    fit(model, separable(40), recipe, seed=0, label="t", gradient=gradient, after_epoch=lambda _: not model.eval())
    assert len(modes) > recipe.epochs and all(modes)


def test_fit_learns_a_separable_problem(separable, recipe):
    train, held_out = separable(40), separable(40, part=1)
    model = build(PLAIN, 0)
    before = F.cross_entropy(model(train.images), train.labels).item()
    returned = fit(model, train, recipe.model_copy(update={"epochs": 20}), seed=0, label="t")
    assert returned is model
    model.eval()
    assert F.cross_entropy(model(train.images), train.labels).item() < before / 5
    assert accuracy(model, held_out) >= 0.95


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(separable, recipe):
    def run(seed, noise):
        torch.manual_seed(noise)  # must not matter
        return fit(build(PLAIN, 0), separable(40), recipe, seed=seed, label="t")

    first = run(seed=1, noise=1)
    assert same_weights(first, run(seed=1, noise=2))
    assert not same_weights(first, run(seed=2, noise=1))


@pytest.mark.parametrize("stop", [None, 5])
def test_fit_leaves_the_global_generator_alone_even_when_it_raises(separable, recipe, stop):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with pytest.raises(Interrupted) if stop else nullcontext():
        fit(build(PLAIN, 0), separable(40), recipe, seed=1, label="t", gradient=Counted(stop))
    assert torch.equal(torch.get_rng_state(), before)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 9))
def test_each_epoch_shows_every_image_once_in_batches_of_nearly_equal_size(count, batch_size, seed):
    data = Split(torch.arange(count).float()[:, None], torch.zeros(count, dtype=torch.int64))
    seen: list[list[int]] = []

    def gradient(model, loss, x, y, progress):
        seen.append([int(value) for value in x[:, 0]])
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        return torch.zeros(())

    recipe = Recipe(epochs=2, batch_size=batch_size, lr=0.1, weight_decay=0, clip_norm=1)
    fit(nn.Linear(1, 2), data, recipe, seed=seed, label="t", gradient=gradient)
    steps = math.ceil(count / batch_size)
    assert len(seen) == 2 * steps
    sizes = [len(batch) for batch in seen]
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    epochs = [sum(seen[:steps], []), sum(seen[steps:], [])]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 12:  # equal by chance once in 13!
        assert epochs[0] != epochs[1]


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_step_size_follows_the_schedule(schedule):
    # With a constant gradient, Adam moves a parameter by the step size (in one cycle, whose momentum moves too, about).
    model = nn.Linear(1, 1, bias=False)
    data = Split(torch.zeros(40, 1), torch.zeros(40, dtype=torch.int64))
    positions = [model.weight.item()]

    def gradient(model, loss, x, y, progress):
        model.weight.grad = torch.ones_like(model.weight)
        return torch.zeros(())

    recipe = Recipe(epochs=4, batch_size=4, lr=0.01, weight_decay=0, clip_norm=10, schedule=schedule)
    fit(
        model, data, recipe, seed=0, label="t", gradient=gradient,
        after_step=lambda: positions.append(model.weight.item()),
    )  # fmt: skip
    moves = [before - after for before, after in zip(positions, positions[1:], strict=False)]
    assert len(moves) == 40
    if schedule == "constant":
        assert moves == pytest.approx([0.01] * 40, rel=1e-3)
    else:
        assert moves[0] < 0.001 and moves[-1] < 0.001
        peak = max(range(40), key=moves.__getitem__)
        assert 8 <= peak <= 18 and moves[peak] == pytest.approx(0.01, rel=0.2)


def test_gradient_norm_is_clipped(separable):
    model, norms = build(PLAIN, 0), []

    def note():
        norms.append(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))

    recipe = Recipe(epochs=1, batch_size=16, lr=0.01, weight_decay=0, clip_norm=0.1)
    steep = lambda out, y: 1000 * F.cross_entropy(out, y)  # noqa: E731
    fit(model, separable(40), recipe, seed=0, label="t", loss=steep, after_step=note)
    assert norms == pytest.approx([0.1] * STEPS, rel=1e-3)


NETWORKS = {
    "plain": (PLAIN, None),
    "dropout by hooks": (PLAIN, (0.3, 0.5)),
    "dropout inside": ({**PLAIN, "dropout": ["dropout", 0.4]}, None),
    "batch normalisation": ({**PLAIN, "normalization": "batch"}, None),
}


def train_network(kind, data, recipe, gradient, checkpoint=None):
    specification, rates = NETWORKS[kind]
    model = build(specification, 3)
    with dropout(model, find_sites(model, data.images[:1]), rates) if rates else nullcontext():
        fit(model, data, recipe, seed=5, label="tiny erm", gradient=gradient, checkpoint=checkpoint)
    return model


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, separable, recipe, kind, schedule):
    data, recipe = separable(40), recipe.model_copy(update={"schedule": schedule})
    whole = train_network(kind, data, recipe, Counted())
    total = recipe.epochs * STEPS
    for stop in range(1, total + 1):
        killed, resumed = Counted(stop), Counted()
        with Checkpoint(tmp_path / f"{stop}") as checkpoint, pytest.raises(Interrupted):
            train_network(kind, data, recipe, killed, checkpoint)
        with Checkpoint(tmp_path / f"{stop}") as checkpoint:
            model = train_network(kind, data, recipe, resumed, checkpoint)
        assert same_weights(model, whole), f"interrupted at step {stop}"
        finished = killed.calls - 1
        assert finished + resumed.calls == total + finished % STEPS  # only the interrupted epoch is repeated


def test_resumed_convolutions_keep_their_bits(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = Split(torch.randn(8, 1, 28, 28, generator=generator), torch.arange(8))
    recipe = Recipe(epochs=3, batch_size=4, lr=0.01, weight_decay=1e-4, clip_norm=1.0)

    def run(gradient, checkpoint=None):
        return fit(
            build({"network": "lenet5"}, 0), data, recipe, seed=0, label="t", gradient=gradient, checkpoint=checkpoint
        )

    with Checkpoint(tmp_path / "c") as checkpoint:
        with pytest.raises(Interrupted):
            run(Counted(4), checkpoint)
        assert same_weights(run(Counted(), checkpoint), run(Counted()))


def test_finished_training_is_not_repeated(tmp_path, separable, recipe):
    again = Counted()
    with Checkpoint(tmp_path / "c") as checkpoint:
        first = train_network("plain", separable(40), recipe, Counted(), checkpoint)
        second = train_network("plain", separable(40), recipe, again, checkpoint)
    assert again.calls == 0
    assert same_weights(first, second)


def test_repeatedly_interrupted_training_still_ends_with_the_same_bits(tmp_path, separable, recipe):
    data, interruptions = separable(40), 0
    with Checkpoint(tmp_path / "c") as checkpoint:
        while True:
            try:
                model = train_network("dropout by hooks", data, recipe, Counted(STEPS + 2), checkpoint)
                break
            except Interrupted:
                interruptions += 1
    assert interruptions == recipe.epochs - 1
    assert same_weights(model, train_network("dropout by hooks", data, recipe, Counted()))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_stops_the_training_and_is_named(separable, recipe, make_problem, value):
    model, calls = build(PLAIN, 0), []

    def gradient(model, loss, x, y, progress):
        calls.append({name: p.detach().clone() for name, p in model.named_parameters()})
        result = plain_gradient(model, loss, x, y)
        return result if len(calls) <= 4 else torch.tensor(value)

    label = make_problem(task="mlp-mnist", seed=3).label("awp")
    with pytest.raises(Diverged, match=re.escape("mlp-mnist awp seed 3") + r".* at step 4 \(epoch 1\)"):
        fit(model, separable(40), recipe, seed=0, label=label, gradient=gradient)
    assert len(calls) == 5
    for name, p in model.named_parameters():  # the step of the bad loss was not taken
        assert torch.equal(p, calls[-1][name])


def test_images_that_are_not_finite_are_reported_as_divergence(separable, recipe):
    data = separable(40)
    broken = Split(data.images.clone(), data.labels)
    broken.images[7] = math.nan
    with pytest.raises(Diverged, match="tiny erm.*nan.*epoch 0"):
        fit(build(PLAIN, 0), broken, recipe, seed=0, label="tiny erm")


def train_method(method, problem, trained_erm):
    if method == "dropout_rates":
        sites = find_sites(problem.fresh(), problem.train.images[:1])
        return dropout_rates.train(problem, sites, [0.1, 0.6], "bayesft")
    return {
        "erm": lambda: erm.train(problem),
        "awp": lambda: awp.train(problem, 0.05),
        "drift_aware": lambda: drift_aware.train(problem, LogNormalDrift(), 1.0, "all"),
        "uniform": lambda: uniform.train(problem, 0.5),
        "ftna": lambda: ftna.train(problem, trained_erm),
    }[method]()


def test_all_methods_start_from_the_same_weights_and_see_the_images_in_the_same_order(
    monkeypatch, make_problem, trained_erm
):
    problem = make_problem()
    starts, batches = {}, {}
    for method in ("erm", "awp", "drift_aware", "uniform", "dropout_rates", "ftna"):

        def spy(model, data, recipe, *, gradient=plain_gradient, method=method, **rest):
            starts[method] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            batches[method] = []

            def note(model, loss, x, y, progress):
                batches[method].append(x.clone())
                return gradient(model, loss, x, y, progress)

            return fit(model, data, recipe, gradient=note, **rest)

        for module in (erm, tunable, ftna):
            monkeypatch.setattr(module, "fit", spy)
        train_method(method, problem, trained_erm)
    fresh = problem.fresh().state_dict()
    last = list(fresh)[-2:]  # FTNA's last layer has other outputs
    for method, start in starts.items():
        assert all(torch.equal(start[n], fresh[n]) for n in fresh if method != "ftna" or n not in last), method
        assert len(batches[method]) == problem.recipe.epochs * STEPS
        assert all(torch.equal(a, b) for a, b in zip(batches[method], batches["erm"], strict=True)), method
    assert len(starts) == 6


def test_accuracy_is_the_share_of_right_answers_over_all_batches():
    # The identity as network: the answer is the place of the largest pixel. 1,030 images are three unequal batches.
    model = nn.Identity()
    labels = torch.arange(1030) % 5
    images = F.one_hot(labels, 5).float()
    wrong = torch.arange(1030) >= 1024  # all in the last batch
    images[wrong] = images[wrong].roll(1, dims=1)
    assert accuracy(model, Split(images, labels)) == pytest.approx(1024 / 1030, abs=0)
    assert accuracy(model, Split(images, labels), decode=lambda out: out.roll(-1, dims=1).argmax(1)) == pytest.approx(
        6 / 1030, abs=0
    )


def test_accuracy_is_measured_without_dropout(separable):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.99), nn.Linear(16, 4)).train()
    data = separable(40)
    assert len({accuracy(model.train(), data) for _ in range(5)}) == 1
