"""The search: what it tries, its budget, its storage, its failures."""

import time

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from bayesft import evaluate, tune
from bayesft.hardening.tuning import Study
from tests.hardening.conftest import Net, data, seeded

TRAINED: list[dict] = []
SAME = {"levels": (0.0, 0.5), "draws": 2, "progress": False}


def shifted(values: dict) -> nn.Module:
    """A network whose score falls with the distance of `shift` from 0.3, at level 0 at least."""
    TRAINED.append(values)
    net = seeded(Net)
    net.b.bias.data[0] += 20 * abs(values["shift"] - 0.3)
    return net


def failing(values: dict) -> nn.Module:
    if values["shift"] > 0.5:
        raise FloatingPointError("the loss is nan")
    net = shifted(values)
    if values["shift"] < 0.1:
        net.b.bias.data[0] = float("inf")
    return net


def first(outputs, targets):
    return -outputs[:, 0]


@pytest.fixture(autouse=True)
def none_yet():
    TRAINED.clear()


SPACE = {"shift": (0.0, 1.0)}


def numbers(study: Study) -> str:
    return study.frame().drop(columns="seconds").to_string()


def test_it_finds_the_best_values_and_measures_as_evaluate_does():
    study = tune(shifted, data(), space=SPACE, trials=9, score=first, **SAME)
    assert abs(study.best.values["shift"] - 0.3) < 0.1 and len(TRAINED) == len(study.trials) == 9
    found = evaluate(shifted(study.best.values), data(), score=first, **SAME)
    assert study.best.objective == pytest.approx(found.area)
    areas = found.scores.mean(0)  # two levels: the mean over them is the area
    assert study.best.standard_error == pytest.approx(areas.std(ddof=1) / 2**0.5)
    assert study.network.b.bias.equal(shifted(study.best.values).b.bias) and not study.interrupted
    frame = study.frame()
    assert list(frame) == ["number", "shift", "objective", "standard_error", "seconds", "failed"]
    assert frame.number.tolist() == list(range(9)) and (frame.seconds > 0).all()
    ax = study.plot()
    assert ax.get_xlabel() == "trial" and str(study).count("\n") == 9


def test_values_of_a_log_range_and_of_a_grid():
    space = {"shift": (1e-4, 1.0, "log"), "other": (2, 4)}
    study = tune(shifted, data(), space=space, trials=9, strategy="grid", **SAME)
    shifts = sorted({round(t.values["shift"], 9) for t in study.trials})
    np.testing.assert_allclose(np.log10(shifts), [-4 + 4 / 6, -2, -4 / 6])
    assert sorted({t.values["other"] for t in study.trials}) == pytest.approx([2 + 1 / 3, 3, 4 - 1 / 3])


def test_processes_and_backends_change_no_number():
    options = {"space": SPACE, "trials": 5, "batch": 2, **SAME}
    alone = tune(shifted, data(), n_jobs=1, **options)
    assert numbers(tune(shifted, data(), n_jobs=2, **options)) == numbers(alone)
    with joblib.parallel_config(backend="threading", n_jobs=1):
        assert numbers(tune(shifted, data(), **options)) == numbers(alone)


def test_a_trial_that_fails_is_counted_and_the_search_goes_on():
    study = tune(failing, data(), space=SPACE, trials=8, score=first, initial=8, **SAME)
    frame = study.frame()
    high, low = frame["shift"] > 0.5, frame["shift"] < 0.1
    assert high.any() and (frame.failed[high] == "FloatingPointError: the loss is nan").all()
    assert frame.objective.isna().equals(high | low) and 0.1 <= study.best.values["shift"] <= 0.5
    with pytest.raises(ValueError, match="none of 1 trials succeeded: FloatingPointError"):
        _ = tune(failing, data(), space={"shift": (0.6, 0.9)}, trials=1, **SAME).best


def test_other_errors_of_the_training_are_errors():
    def broken(values):
        raise KeyError("x")

    with pytest.raises(KeyError):
        tune(broken, data(), space=SPACE, **SAME)
    with pytest.raises(ValueError, match="train gives int"):
        tune(lambda values: 3, data(), space=SPACE, **SAME)


def test_budgets_and_callbacks():
    seen = []

    def third(study):
        seen.append(len(study.trials))
        return len(study.trials) == 3

    study = tune(shifted, data(), space=SPACE, callbacks=[third], **SAME)
    assert seen == [1, 2, 3] and len(study.trials) == 3 and study.interrupted

    def slow(values):
        time.sleep(0.15)
        return shifted(values)

    study = tune(slow, data(), space=SPACE, trials=None, timeout=0.4, **SAME)
    assert 1 <= len(study.trials) <= 3 and not study.interrupted
    assert tune(slow, data(), space=SPACE, trials=9, timeout=0.1, **SAME).interrupted


def test_an_interruption_keeps_the_trials():
    def interrupted(values):
        if len(TRAINED) == 2:
            raise KeyboardInterrupt
        return shifted(values)

    with pytest.warns(UserWarning, match="2 trials are complete"):
        study = tune(interrupted, data(), space=SPACE, **SAME)
    assert len(study.trials) == 2 and study.interrupted and study.network is not None

    def at_once(values):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(at_once, data(), space=SPACE, **SAME)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_storage_continues_a_killed_search_and_takes_more_trials(tmp_path, batch):
    options = {"space": SPACE, "batch": batch, "n_jobs": 1, **SAME}
    expected = tune(shifted, data(), trials=6, **options)
    TRAINED.clear()

    def killed(values):
        if len(TRAINED) == 4:
            raise RuntimeError("killed")
        return shifted(values)

    with pytest.raises(RuntimeError, match="killed"):
        tune(killed, data(), trials=6, storage=tmp_path / "s", **options)
    study = tune(shifted, data(), trials=6, storage=tmp_path / "s", **options)
    assert numbers(study) == numbers(expected) and len(TRAINED) == 6
    more = tune(shifted, data(), trials=7, storage=tmp_path / "s", **options)
    assert len(more.trials) == len(TRAINED) == 7 and numbers(more).startswith(numbers(expected)[:40])


@pytest.mark.parametrize(
    "change, name",
    [
        ({"space": {"shift": (0.0, 2.0)}}, "space"),
        ({"levels": (0.0, 0.6)}, "faults"),
        ({"seed": 1}, "seed"),
        ({"validation": data(seed=3)}, "data"),
        ({"key": "another loss"}, "key"),
        ({"strategy": "random"}, "search"),
        ({"where": "weights"}, "where"),
        ({"calibrate": data(20)[0]}, "calibrate"),
        ({"score": first}, "score"),
    ],
)
def test_a_storage_belongs_to_one_call(tmp_path, change, name):
    options = {"validation": data(), "space": SPACE, "trials": 1, "storage": tmp_path / "s", **SAME}
    tune(shifted, **options)
    with pytest.raises(ValueError, match=f"differs in.*{name}"):
        tune(shifted, **{**options, **change})
    assert len(TRAINED) == 1


@pytest.mark.parametrize(
    "name, value",
    [
        ("train", 3),
        ("space", {}),
        ("space", {"a": 1}),
        ("space", {"a": (1, 1)}),
        ("space", {"a": (0, 1, "log")}),
        ("space", {"a": (0, 1, "square")}),
        ("space", {"a": (0, float("inf"))}),
        ("trials", 0),
        ("trials", 2.5),
        ("trials", 26),
        ("timeout", -1),
        ("batch", 0),
        ("draws", 2.5),
        ("draws", 1),
        ("levels", ()),
        ("fault", "rust"),
        ("initial", 0),
        ("validation", iter([])),
        ("trails", 8),
        ("timeout", "an hour"),
    ],
)
def test_arguments_are_checked_before_any_training(name, value):
    options = {"train": shifted, "validation": data(), "space": SPACE, "trials": 2, **SAME, name: value}
    with pytest.raises(ValueError, match=name):
        tune(**options)
    assert not TRAINED


def test_the_callers_randomness_is_left_alone_and_trials_are_repeatable():
    def random(values):
        net = Net()
        net.b.bias.data[0] += torch.rand(()) * values["shift"]
        return net

    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one = tune(random, data(), space=SPACE, trials=2, **SAME)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    assert numbers(tune(random, data(), space=SPACE, trials=2, **SAME)) == numbers(one)
