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
from bayesft.models import build, dropout, find_sites
from bayesft.settings import Recipe
from bayesft.training import Checkpoint, Diverged, accuracy, fit, plain_gradient
from tests.problems import RECIPE, patterns, same, tiny

PLAIN = {"network": "mlp", "inputs": 16, "hidden": [12, 8], "outputs": 4}
STEPS = 3  # of an epoch: 40 images in batches of at most 16


class Interrupted(Exception):
    pass


def checkpoint_at(folder):
    """A checkpoint into which a training saves its state after every epoch."""
    return Checkpoint(folder, save_after_s=0)


class Counted:
    """The plain gradient, which counts its calls and raises at call number `stop`."""

    def __init__(self, stop: int | None = None):
        self.calls, self.stop = 0, stop

    def __call__(self, model, loss, x, y, progress):
        self.calls += 1
        if self.calls == self.stop:
            raise Interrupted
        return plain_gradient(model, loss, x, y)


def test_a_gradient_is_told_how_much_of_the_training_is_done(tmp_path):
    told, resumed = [], []

    def telling(into, stop=None):
        def gradient(model, loss, x, y, progress):
            into.append(progress)
            if len(into) == stop:
                raise Interrupted
            return plain_gradient(model, loss, x, y)

        return gradient

    fit(build(PLAIN, 0), patterns(40), RECIPE, seed=0, label="t", gradient=telling(told))
    steps = len(told)
    assert told == pytest.approx([step / steps for step in range(steps)])
    with checkpoint_at(tmp_path / "c") as checkpoint, pytest.raises(Interrupted):
        options = {"seed": 0, "label": "t", "checkpoint": checkpoint}
        fit(build(PLAIN, 0), patterns(40), RECIPE, gradient=telling([], steps // RECIPE.epochs + 2), **options)
    with checkpoint_at(tmp_path / "c") as checkpoint:
        options = {"seed": 0, "label": "t", "checkpoint": checkpoint}
        fit(build(PLAIN, 0), patterns(40), RECIPE, gradient=telling(resumed), **options)
    assert resumed == told[steps // RECIPE.epochs :]


def test_a_measurement_that_leaves_eval_mode_does_not_stop_dropout():
    modes = []

    def gradient(model, loss, x, y, progress):
        modes.append(model.training)
        return plain_gradient(model, loss, x, y)

    model = build(PLAIN, 0)
    fit(model, patterns(40), RECIPE, seed=0, label="t", gradient=gradient, after_epoch=lambda _: not model.eval())
    assert len(modes) > RECIPE.epochs and all(modes)


def test_fit_learns_a_separable_problem():
    train, held_out = patterns(40), patterns(40, part=1)
    model = build(PLAIN, 0)
    before = F.cross_entropy(model(train.images), train.labels).item()
    returned = fit(model, train, RECIPE.model_copy(update={"epochs": 20}), seed=0, label="t")
    assert returned is model
    model.eval()
    assert F.cross_entropy(model(train.images), train.labels).item() < before / 5
    assert accuracy(model, held_out) >= 0.95


def test_same_seed_gives_the_same_bits_and_another_seed_does_not():
    def run(seed, noise):
        torch.manual_seed(noise)  # must not matter
        return fit(build(PLAIN, 0), patterns(40), RECIPE, seed=seed, label="t").state_dict()

    first = run(seed=1, noise=1)
    assert same(first, run(seed=1, noise=2))
    assert not same(first, run(seed=2, noise=1))


@pytest.mark.parametrize("stop", [None, 5])
def test_fit_leaves_the_global_generator_alone_even_when_it_raises(stop):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with pytest.raises(Interrupted) if stop else nullcontext():
        fit(build(PLAIN, 0), patterns(40), RECIPE, seed=1, label="t", gradient=Counted(stop))
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


@pytest.mark.parametrize("kind", [torch.float32, torch.complex64])
def test_a_training_is_adam_with_weight_decay(kind):
    # The quadratic |w − target|², whose gradient does not depend on the images.
    target = torch.tensor([1.0, -2.0, 0.5]).to(kind)

    class Point(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3, dtype=kind))

        def forward(self, x):
            return (self.w - target).abs().square().sum()

    data = Split(torch.zeros(12, 1), torch.zeros(12, dtype=torch.int64))
    recipe = Recipe(epochs=2, batch_size=4, lr=0.1, weight_decay=0.01, clip_norm=1.0, schedule="constant")
    found = fit(Point(), data, recipe, seed=0, label="t", loss=lambda out, _: out)

    model = Point()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.01)
    for _ in range(6):
        optimizer.zero_grad()
        model(None).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(found.w, model.w)
    assert not torch.allclose(found.w, torch.zeros(3).to(kind), atol=0.1)


def test_gradient_norm_is_clipped():
    model, norms = build(PLAIN, 0), []

    def note():
        norms.append(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))

    recipe = Recipe(epochs=1, batch_size=16, lr=0.01, weight_decay=0, clip_norm=0.1)
    steep = lambda out, y: 1000 * F.cross_entropy(out, y)  # noqa: E731
    fit(model, patterns(40), recipe, seed=0, label="t", loss=steep, after_step=note)
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
def test_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, kind, schedule):
    data, recipe = patterns(40), RECIPE.model_copy(update={"schedule": schedule})
    whole = train_network(kind, data, recipe, Counted()).state_dict()
    total = recipe.epochs * STEPS
    for stop in range(1, total + 1):
        killed, resumed = Counted(stop), Counted()
        with checkpoint_at(tmp_path / f"{stop}") as checkpoint, pytest.raises(Interrupted):
            train_network(kind, data, recipe, killed, checkpoint)
        with checkpoint_at(tmp_path / f"{stop}") as checkpoint:
            model = train_network(kind, data, recipe, resumed, checkpoint)
        assert same(model.state_dict(), whole), f"interrupted at step {stop}"
        finished = killed.calls - 1
        assert finished + resumed.calls == total + finished % STEPS  # only the interrupted epoch is repeated


def test_resumed_convolutions_keep_their_bits(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = Split(torch.randn(8, 1, 28, 28, generator=generator), torch.arange(8))
    recipe = Recipe(epochs=3, batch_size=4, lr=0.01, weight_decay=1e-4, clip_norm=1.0)

    def run(gradient, checkpoint=None):
        return fit(
            build({"network": "lenet5"}, 0), data, recipe, seed=0, label="t", gradient=gradient, checkpoint=checkpoint
        ).state_dict()

    with checkpoint_at(tmp_path / "c") as checkpoint:
        with pytest.raises(Interrupted):
            run(Counted(4), checkpoint)
        assert same(run(Counted(), checkpoint), run(Counted()))


def test_a_short_training_saves_nothing_where_saves_are_a_second_apart(tmp_path):
    with Checkpoint(tmp_path / "c", save_after_s=60) as checkpoint:
        train_network("plain", patterns(40), RECIPE, Counted(), checkpoint)
        assert list((tmp_path / "c").iterdir()) == []


def test_a_damaged_state_is_named_and_its_training_begins_anew(tmp_path, capsys):
    whole = train_network("plain", patterns(40), RECIPE, Counted()).state_dict()
    with checkpoint_at(tmp_path / "c") as checkpoint:
        with pytest.raises(Interrupted):
            train_network("plain", patterns(40), RECIPE, Counted(2 * STEPS), checkpoint)
        (state,) = (tmp_path / "c").iterdir()
        state.write_bytes(state.read_bytes()[:-5])
        again = Counted()
        assert same(train_network("plain", patterns(40), RECIPE, again, checkpoint).state_dict(), whole)
    assert again.calls == RECIPE.epochs * STEPS
    assert str(state) in capsys.readouterr().out


def test_tied_weights_can_be_checkpointed(tmp_path):
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    model[2].weight = model[0].weight
    data = Split(patterns(8).images.flatten(1), torch.arange(8))
    with checkpoint_at(tmp_path / "tied") as checkpoint:
        fit(model, data, RECIPE, seed=0, label="tied", checkpoint=checkpoint)
        tensors, _ = checkpoint.load("tied")
    assert torch.equal(tensors["model.0.weight"], model[0].weight)


def test_finished_training_is_not_repeated(tmp_path):
    again = Counted()
    with checkpoint_at(tmp_path / "c") as checkpoint:
        first = train_network("plain", patterns(40), RECIPE, Counted(), checkpoint)
        second = train_network("plain", patterns(40), RECIPE, again, checkpoint)
    assert again.calls == 0
    assert same(first.state_dict(), second.state_dict())


def test_repeatedly_interrupted_training_still_ends_with_the_same_bits(tmp_path):
    data, interruptions = patterns(40), 0
    with checkpoint_at(tmp_path / "c") as checkpoint:
        while True:
            try:
                model = train_network("dropout by hooks", data, RECIPE, Counted(STEPS + 2), checkpoint)
                break
            except Interrupted:
                interruptions += 1
    assert interruptions == RECIPE.epochs - 1
    assert same(model.state_dict(), train_network("dropout by hooks", data, RECIPE, Counted()).state_dict())


def poisoned(at: int, value: float):
    """The plain gradient, whose loss at step `at` is `value`."""
    steps = []

    def gradient(model, loss, x, y, progress):
        steps.append(progress)
        result = plain_gradient(model, loss, x, y)
        return torch.tensor(value) if len(steps) == at + 1 else result

    return gradient


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", range(STEPS, 2 * STEPS))
def test_loss_that_is_not_finite_stops_the_training_at_the_end_of_its_epoch_and_is_named(value, step):
    label, epochs = tiny(task="mlp-mnist", seed=3).label("awp"), []
    said = re.escape(f"mlp-mnist awp seed 3: the loss is {value} and") + rf".* at step {step} \(epoch 1\); lower the lr"
    with pytest.raises(Diverged, match=said):
        fit(
            build(PLAIN, 0), patterns(40), RECIPE, seed=0, label=label, gradient=poisoned(step, value),
            after_epoch=epochs.append,
        )  # fmt: skip
    assert epochs == [1]


def test_a_gradient_that_is_not_finite_is_named_where_the_loss_still_is():
    def gradient(model, loss, x, y, progress):
        for p in model.parameters():
            p.grad = torch.full_like(p, float("nan"))
        return torch.tensor(0.5)

    with pytest.raises(Diverged, match=r"a task: the loss is 0.5 and its gradient's norm nan at step 0 \(epoch 0\)"):
        fit(build(PLAIN, 0), patterns(8), RECIPE, seed=0, label="a task", gradient=gradient)


def test_a_training_that_diverged_is_not_saved(tmp_path):
    with checkpoint_at(tmp_path / "c") as checkpoint:
        with pytest.raises(Diverged):
            options = {"seed": 0, "label": "t", "checkpoint": checkpoint}
            fit(build(PLAIN, 0), patterns(40), RECIPE, gradient=poisoned(2 * STEPS, math.nan), **options)
        tensors, value = checkpoint.load("t")
    assert value["epochs"] == 2 and all(tensor.isfinite().all() for tensor in tensors.values())


def test_images_that_are_not_finite_are_reported_as_divergence():
    data = patterns(40)
    broken = Split(data.images.clone(), data.labels)
    broken.images[7] = math.nan
    with pytest.raises(Diverged, match="tiny erm.*nan.*epoch 0"):
        fit(build(PLAIN, 0), broken, RECIPE, seed=0, label="tiny erm")


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


def test_outputs_that_are_not_finite_are_wrong():
    labels = torch.tensor([0, 0, 1, 1])
    images = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [0.0, float("inf")], [0.0, 1.0]])
    assert accuracy(nn.Identity(), Split(images, labels)) == 0.5


def test_accuracy_is_measured_without_dropout():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.99), nn.Linear(16, 4)).train()
    data = patterns(40)
    assert len({accuracy(model.train(), data) for _ in range(5)}) == 1
