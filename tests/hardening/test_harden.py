"""Hardening in one call: what is trained, what it gains, what is kept, what is refused."""

import copy
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from bayesft import Hardening, LogNormalDrift, ReramWan2022, StuckCells, evaluate, harden
from bayesft.hardening import harden as api
from bayesft.hardening import training
from bayesft.hardening.harden import Hardened
from bayesft.hardening.tuning import Study
from bayesft.settings import Recipe
from bayesft.training import Diverged
from tests.hardening.conftest import Centres, Net, data, equal, seeded

RECIPE = Recipe(epochs=2, batch_size=16)
TINY = {"recipe": RECIPE, "levels": (0.0, 0.6), "draws": 3, "progress": False}
PARTS = data(60), data(30, 1), data(40, 2)


@pytest.fixture(scope="module")
def given() -> nn.Module:
    """A trained network."""
    options = {**TINY, "recipe": Recipe(epochs=8, batch_size=8)}
    return harden(Net, *PARTS, rate=0.0, level=0.0, sites=(), **options).model


@pytest.fixture(scope="module")
def found(given) -> Hardened:
    return harden(given, *PARTS, plain=True, **TINY)


def test_the_gain_is_over_the_network_that_was_given(given, found):
    assert list(found.networks) == ["given", "plain", "hardened"] and equal(found.networks["given"], given)
    assert found.networks["given"] is not given and not equal(found.model, given)
    table = found.table().set_index(["network", "level"])
    for name in found.networks:
        curve = evaluate(found.networks[name], PARTS[2], levels=(0, 0.6), draws=3, progress=False)
        assert table["mean"][name, 0.6] == pytest.approx(curve.mean[1])
    assert table.gain["hardened", 0.6] == pytest.approx(table["mean"]["hardened", 0.6] - table["mean"]["given", 0.6])
    assert found.measured_on == "test" and found.study is None
    assert found.settings["rates"] == {"act": 0.3} and found.settings["level"] == 1.0
    assert found.plot().get_legend_handles_labels()[1] == ["given", "plain", "hardened"]
    assert "hardened minus given" in str(found) and "act 0.30" in str(found)
    assert not any(m._forward_hooks or m._forward_pre_hooks or m.training for m in found.model.modules())


def test_it_is_the_loop_that_the_pages_show(given, found):
    """The same weights as a loop of one's own with `Hardening`, Adam and the one-cycle schedule."""
    net = copy.deepcopy(given).train()
    h = Hardening(net, 0.3, 1.0)
    optimizer = torch.optim.Adam(net.parameters(), RECIPE.lr, weight_decay=RECIPE.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RECIPE.lr, total_steps=2 * 4 + 1)
    batches = training.TrainingBatches(PARTS[0], 16, 0)
    for epoch in range(2):
        for i, (x, y) in enumerate(batches.epoch(epoch)):
            optimizer.zero_grad()
            with h.step((4 * epoch + i) / 8):
                F.cross_entropy(net(x), y).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    for name, theta in net.state_dict().items():
        torch.testing.assert_close(theta, found.model.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_nothing_is_trained_that_was_not_asked_for(given, monkeypatch):
    labels = []
    monkeypatch.setattr(api, "trained", lambda task, *a, label, **k: labels.append(label) or copy.deepcopy(task.start))
    harden(given, *PARTS, **TINY)
    assert labels == ["hardened"]
    harden(given, *PARTS, plain=True, **TINY)
    assert labels == ["hardened", "plain", "hardened"]
    harden(given, *PARTS, search={"trials": 2}, **TINY)
    assert labels[3:] == ["trial", "trial"]


def test_a_search_trains_each_trial_and_takes_the_best():
    search = {"trials": 3, "space": {"level": (0.1, 1.5), "act": (0.0, 0.6), "lr": (1e-3, 1e-1, "log")}}
    found = harden(Net, *PARTS, search=search, **TINY)
    best = found.study.best
    assert len(found.study.trials) == 3 and found.settings["rates"] == {"act": best.values["act"]}
    assert found.settings["level"] == best.values["level"] and found.settings["recipe"]["lr"] == best.values["lr"]
    objective = evaluate(found.model, PARTS[1], levels=(0, 0.6), draws=10, progress=False).area
    assert best.objective == pytest.approx(objective)  # on validation data; the table is of test data
    again = harden(
        Net, *PARTS, rate=best.values["act"], level=best.values["level"],
        **{**TINY, "recipe": RECIPE.model_copy(update={"lr": best.values["lr"]})},
    )  # fmt: skip
    assert equal(again.model, found.model)


def test_everything_is_repeatable_and_the_callers_things_are_left_alone(given, found):
    before, state = copy.deepcopy(given.state_dict()), torch.random.get_rng_state()
    modes = [module.training for module in given.modules()]
    kept = [tensor.clone() for part in PARTS for tensor in part]
    again = harden(given, *PARTS, plain=True, **TINY)
    assert all(equal(again.networks[name], found.networks[name]) for name in found.networks)
    assert again.table().equals(found.table()) and torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(before[name], theta) for name, theta in given.state_dict().items())
    assert modes == [m.training for m in given.modules()] and all(p.grad is None for p in given.parameters())
    assert all(torch.equal(a, b) for a, b in zip(kept, [t for part in PARTS for t in part], strict=True))
    assert not equal(harden(given, *PARTS, seed=1, **TINY).model, found.model)


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(*PARTS[0], strict=True)


def test_forms_of_data(given):
    """Tensors and a dataset of them train alike; a list, a loader and a stream are read as they are."""
    x, y = PARTS[0]
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 60, 16)]
    alike = [harden(given, train, *PARTS[1:], **TINY).model for train in (PARTS[0], TensorDataset(x, y))]
    assert equal(*alike)
    named = [{"x": a, "labels": b} for a, b in batches]
    loader = DataLoader(TensorDataset(x, y), 16)
    read = [harden(given, train, *PARTS[1:], **TINY).model for train in (batches, loader, Stream(), named)]
    assert all(equal(read[0], other) for other in read[1:]) and not equal(read[0], alike[0])
    shuffled = DataLoader(TensorDataset(x, y), 16, shuffle=True)
    assert equal(*(harden(given, shuffled, *PARTS[1:], **TINY).model for _ in range(2)))


class Pair(NamedTuple):
    logits: Tensor
    penalty: Tensor


def test_a_loss_a_score_and_a_forward_of_ones_own():
    class Two(Net):
        def forward(self, x, scale):
            logits = super().forward(x * scale)
            return Pair(logits, logits.square().mean())

    def forward(model, batch):
        return model(batch["x"], scale=2.0), (batch["y"],)

    def loss(outputs, targets):
        return F.cross_entropy(outputs.logits, targets[0]) + 0.01 * outputs.penalty

    batches = [{"x": x, "y": y} for x, y in (PARTS[0], PARTS[1])]
    found = harden(Two, batches, batches, loss=loss, forward=forward, **TINY)
    net, total = found.model, 0.0
    with torch.no_grad():
        for batch in batches:
            total += float(loss(*forward(net, batch))) * len(batch["y"])
    clean = found.comparison.curves["hardened"].mean[0]
    assert clean == pytest.approx(-total / 90, rel=1e-5)  # without a score it is minus the loss
    assert found.comparison.curves["hardened"].about["score"] == "minus loss"


def test_a_file_holds_everything(given, found, tmp_path):
    found.save(tmp_path / "h.safetensors")
    again = Hardened.load(tmp_path / "h.safetensors", given)
    assert str(again) == str(found) and again.settings == found.settings and again.measured_on == "test"
    assert all(equal(again.networks[name], found.networks[name]) for name in found.networks)
    searched = harden(Net, *PARTS[:2], search={"trials": 2}, **TINY)
    searched.save(tmp_path / "s.safetensors")
    assert Hardened.load(tmp_path / "s.safetensors", given).study.trials == searched.study.trials
    with pytest.raises(ValueError, match="do not fit"):
        Hardened.load(tmp_path / "h.safetensors", nn.Linear(8, 3))
    evaluate(given, PARTS[1], levels=[0], draws=1, progress=False).save(tmp_path / "r.safetensors")
    save_file(given.state_dict(), tmp_path / "w.safetensors")
    for name in ("r", "w"):
        with pytest.raises(ValueError, match="no saved Hardened"):
            Hardened.load(tmp_path / f"{name}.safetensors", given)
    with pytest.raises(ValueError, match="there is no such file"):
        Hardened.load(tmp_path / "typo.safetensors", given)


def test_a_search_that_was_interrupted_stays_so_in_a_file(given, found, tmp_path):
    from dataclasses import replace

    replace(found, study=Study([], True)).save(tmp_path / "h.safetensors")
    assert Hardened.load(tmp_path / "h.safetensors", given).study.interrupted


class Stops(LogNormalDrift):
    """A drift that stops the process at its copy number `at`."""

    at = 0
    copies = 0

    def perturb(self, theta, level, generator):
        Stops.copies += 1
        if Stops.copies == Stops.at:
            raise KeyboardInterrupt
        return super().perturb(theta, level, generator)

    def __repr__(self):
        return "Stops"


def test_a_killed_training_goes_on_where_it_was(given, tmp_path, monkeypatch):
    monkeypatch.setattr("bayesft.training.Checkpoint.__init__.__defaults__", (0.0,))
    options = {**TINY, "fault": Stops(), "recipe": Recipe(epochs=6, batch_size=16)}
    Stops.at, Stops.copies = 0, 0
    expected = harden(given, *PARTS, **options)
    total = Stops.copies
    Stops.at, Stops.copies = 120, 0
    with pytest.raises(KeyboardInterrupt):
        harden(given, *PARTS, checkpoint=tmp_path / "c", **options)
    Stops.at, Stops.copies = 0, 0
    again = harden(given, *PARTS, checkpoint=tmp_path / "c", **options)
    assert equal(again.model, expected.model) and Stops.copies < total - 30
    assert not (tmp_path / "c").exists()  # the call is complete


def test_a_search_goes_on_where_it_was(tmp_path):
    seen = []

    def stop(study):
        seen.append(len(study.trials))
        if len(seen) == 2:
            raise RuntimeError("killed")

    expected = harden(Net, *PARTS, search={"trials": 3}, **TINY)
    with pytest.raises(RuntimeError):
        harden(Net, *PARTS, search={"trials": 3, "callbacks": [stop]}, checkpoint=tmp_path / "c", **TINY)
    again = harden(Net, *PARTS, search={"trials": 3, "callbacks": [stop]}, checkpoint=tmp_path / "c", **TINY)
    assert seen == [1, 2, 3] and equal(again.model, expected.model)


@pytest.mark.parametrize(
    "change, differs",
    [
        ({"train": data(60, 5)}, "data"),
        ({"validation": data(30, 5)}, "data"),
        ({"model": seeded(Net, 3)}, "weights"),
        ({"level": 0.5}, "settings"),
        ({"rate": 0.1}, "settings"),
        ({"recipe": Recipe(epochs=3, batch_size=16)}, "settings"),
        ({"where": "weights"}, "where"),
        ({"loss": lambda outputs, y: 2 * F.cross_entropy(outputs, y), "score": "accuracy"}, "loss of the first batch"),
        ({"key": "mine"}, "key"),
    ],
)
def test_a_checkpoint_belongs_to_one_call(given, tmp_path, monkeypatch, change, differs):
    def killed(*_, **__):
        raise RuntimeError("killed")

    options = {"model": given, "train": PARTS[0], "validation": PARTS[1], "checkpoint": tmp_path / "c", **TINY}
    monkeypatch.setattr(api, "trained", killed)
    with pytest.raises(RuntimeError):
        harden(**options)
    with pytest.raises(ValueError, match=f"differs in.*{differs}"):
        harden(**{**options, **change})


def test_state_outside_of_the_state_dict_is_kept_and_never_saved_half(tmp_path):
    parts = [(x + 5, y) for x, y in PARTS]
    found = harden(Centres, *parts, **{**TINY, "recipe": Recipe(epochs=12, batch_size=16)})
    assert found.model.mu.mean() > 4  # the mean of the data is 5
    with pytest.raises(ValueError, match="outside of its state_dict"):
        found.save(tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match="checkpoint: the network keeps state outside"):
        harden(Centres, *parts, checkpoint=tmp_path / "c", **TINY)


def test_a_training_that_diverges_says_so_and_as_a_trial_it_fails():
    def loss(outputs, y):
        return F.cross_entropy(outputs, y) * (1.0 if outputs.detach().abs().max() < 30 else float("nan"))

    wild = Recipe(epochs=3, batch_size=16, lr=1e3, schedule="constant")
    with pytest.raises(Diverged, match="hardened: the loss is nan.* lower the lr"):
        harden(Net, *PARTS, loss=loss, score="accuracy", **{**TINY, "recipe": wild})
    space = {"lr": (1e-3, 1e3, "log")}
    found = harden(Net, *PARTS, loss=loss, score="accuracy", search={"trials": 4, "space": space, "initial": 4}, **TINY)
    assert found.study.frame().failed.str.contains("Diverged").any() and found.study.best.values["lr"] < 10


def test_a_compiled_network_is_trained_itself():
    net = torch.compile(seeded(Net), backend="eager")
    found = harden(net, *PARTS, **TINY)
    assert type(found.model) is Net and equal(found.model, harden(seeded(Net), *PARTS, **TINY).model)


class Closes(Net):
    def __init__(self):
        super().__init__()
        self.head = lambda h: self.b(h)

    def forward(self, x):
        return self.head(self.act(self.a(x)))


ERRORS = {
    "model": ({"model": 3}, "model"),
    "no network": ({"model": lambda: 3}, "model"),
    "frozen": ({"model": lambda: Net().requires_grad_(False)}, "no parameter that learns"),
    "closure": ({"model": Closes()}, "'b.weight' of the original"),
    "one layer": ({"model": lambda: nn.Linear(8, 3)}, "no site"),
    "an iterator": ({"train": iter([PARTS[0]])}, "train: an iterator"),
    "an iterator to measure on": ({"test": iter([PARTS[2]])}, "test: an iterator"),
    "an iterator to search on": ({"validation": iter([PARTS[1]]), "search": {}}, "validation: an iterator"),
    "an iterator of both": ({"validation": iter([PARTS[1]]), "test": None}, "validation: an iterator"),
    "no batch": ({"train": []}, "train"),
    "lengths": ({"train": (torch.zeros(4, 8), torch.zeros(5))}, "lengths"),
    "labels out of range": ({"train": (PARTS[0][0], torch.cat([PARTS[0][1][:59], torch.tensor([7])]))}, "labels"),
    "negative labels": ({"train": (PARTS[0][0], PARTS[0][1] - 1)}, "labels"),
    "float labels": ({"train": (PARTS[0][0], PARTS[0][1].float())}, "labels"),
    "NaN": ({"train": (PARTS[0][0].clone().index_fill_(0, torch.tensor([59]), float("nan")), PARTS[0][1])}, "NaN"),
    "validation NaN": ({"validation": (PARTS[1][0] * float("nan"), PARTS[1][1]), "test": None}, "NaN"),
    "test NaN": ({"test": (PARTS[1][0] * float("nan"), PARTS[1][1])}, "NaN"),
    "width": ({"train": (torch.zeros(20, 5), torch.zeros(20).long())}, "train"),
    "rate": ({"rate": 1.0}, "rate"),
    "rates": ({"rate": {"b": 0.1}}, "rate"),
    "level": ({"level": float("inf")}, "level"),
    "level of ftt": ({"method": "ftt", "level": "a"}, "level"),
    "draws": ({"draws": 2.5}, "draws"),
    "levels": ({"levels": (0, float("nan"))}, "levels"),
    "device": ({"device": "gpu"}, "device"),
    "sites": ({"sites": ["c"]}, "'c'"),
    "where": ({"where": "biases"}, "where"),
    "recipe": ({"recipe": {"epochs": 1}}, "recipe"),
    "seed": ({"seed": 0.5}, "seed"),
    "loss": ({"loss": "mse"}, "loss"),
    "a loss for each": ({"loss": lambda o, y: o.sum(1)}, "loss gives shape"),
    "a loss without a gradient": ({"loss": lambda o, y: torch.tensor(1.0)}, "loss"),
    "a loss of nan": ({"loss": lambda o, y: o.sum() * float("nan")}, "loss"),
    "a score": ({"score": lambda o, y: o}, "score gives"),
    "fault": ({"fault": "rust"}, "fault"),
    "forward": ({"forward": lambda m, b: m(b[0])}, "forward gives Tensor: must give a pair"),
    "a level that the fault has not": ({"fault": StuckCells(), "level": 2.0}, "level = 2.0: .* from 0 to 1"),
    "levels that the fault has not": (
        {"fault": StuckCells(), "search": {"space": {"level": (0.1, 2.0)}}},
        "level = 2.0: .* from 0 to 1",
    ),
    "search": ({"search": 3}, "search"),
    "search of another name": ({"search": {"space": {"momentum": (0, 1)}}}, "'momentum'"),
    "search with a fault": ({"search": {"fault": LogNormalDrift()}}, "fault"),
    "a word of search misspelt": ({"search": {"trails": 8}}, "'trails'"),
    "search with data": ({"search": {"validation": PARTS[1]}}, "'validation'"),
    "search with a bar": ({"search": {"progress": False}}, "'progress'"),
    "search without budget": ({"search": {"trials": 0}}, "trials"),
    "unknown": ({"sigma": 3}, "sigma"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong_is_said_before_any_training(case, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a training began")

    monkeypatch.setattr(api, "trained", never)
    changes, message = ERRORS[case]
    arguments = {"model": Net, "train": PARTS[0], "validation": PARTS[1], "test": PARTS[2], **TINY, **changes}
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        harden(**arguments)
    assert raised.type is ValueError or case == "unknown"


def test_a_fault_that_allows_few_levels_is_trained_under_and_searched(given):
    options = {**TINY, "levels": (1, 86400), "draws": 2, "search": {"trials": 1, "space": {"alpha": (0.2, 0.8)}}}
    found = harden(given, *PARTS, method="ftt", fault=ReramWan2022(), **options)
    assert found.settings["level"] == 86400 and len(found.study.trials) == 1


def test_both_contracts_of_a_network_for_calibrated_copies(given):
    found = harden(given, *PARTS, calibrated=True, **TINY)
    assert list(found.networks) == ["given", "hardened"]
    assert list(found.comparison.curves) == ["given", "given, calibrated", "hardened", "hardened, calibrated"]
    assert found.settings["calibrated"] is True
    examples = training.first_batch(PARTS[0], 128, 0)[0]
    for name, network in found.networks.items():
        for end, calibrate in (("", None), (", calibrated", examples)):
            curve = evaluate(network, PARTS[2], levels=(0, 0.6), draws=3, calibrate=calibrate, progress=False)
            assert found.comparison.curves[name + end].table()["mean"].tolist() == curve.table()["mean"].tolist()
    plain = harden(given, *PARTS, **TINY)
    assert list(plain.comparison.curves) == ["given", "hardened"] and not equal(plain.model, found.model)


def test_examples_for_calibration_can_be_given(given):
    found = harden(given, *PARTS, calibrated=True, calibrate=PARTS[0][0][:20], **TINY)
    assert found.comparison.curves["given, calibrated"].about["calibrated"] == "with 20 examples"


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"method": "ftt"}, "needs the method drift_dropout"), ({"forward": lambda m, b: (m(b[0]), b[1])}, "`calibrate`")],
)
def test_what_calibrated_training_needs(given, changed, said):
    with pytest.raises(ValueError, match=said):
        harden(given, *PARTS, calibrated=True, **changed, **TINY)
