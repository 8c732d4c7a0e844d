"""Trials side by side, trials that end early, and other ways to propose and to compare them."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bayesft.drift import LogNormalDrift
from bayesft.models import find_sites
from bayesft.search import algorithm1
from bayesft.search.algorithm1 import search
from bayesft.search.surrogate import CLOSEST, grid_point, propose, propose_batch
from bayesft.training import Checkpoint, awp, dropout_rates
from bayesft.training.tunable import Dimension, Tunable

FAULT = LogNormalDrift()
ROOT = Path(__file__).parents[2]


def run(problem, settings, tunable=None, **options):
    sites = find_sites(problem.fresh(), problem.train.images[:1])
    return search(problem, tunable or dropout_rates.tunable(sites, settings.bounds), settings, FAULT, **options)


@pytest.fixture(scope="module")
def batched(make_settings):
    """Seven trials in batches of three, from fresh weights."""
    return make_settings(weights="scratch", batch=3, trials=7)


def test_a_batch_of_one_is_the_next_proposal():
    points, values = np.random.default_rng(0).random((6, 2)), np.arange(6) / 6
    one = propose_batch(1, points, values, np.full(6, 0.01), 2, seed=3)
    assert np.array_equal(one[0], propose(points, values, np.full(6, 0.01), 2, seed=3))


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 8), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**31), st.sampled_from(["gp", "random"])
)
def test_points_of_a_batch_keep_their_distance(told, count, dimensions, seed, strategy):
    random = np.random.default_rng(seed)
    points = random.random((told, dimensions))
    batch = propose_batch(
        count, points, random.random(told), np.full(told, 0.01), dimensions, seed, strategy=strategy, initial=2
    )
    assert batch.shape == (count, dimensions) and ((batch >= 0) & (batch <= 1)).all()
    everything = np.vstack([points, batch])
    for i in range(told, told + count):
        assert i == 0 or np.linalg.norm(everything[:i] - everything[i], axis=1).min() >= CLOSEST


def test_the_lie_sends_the_next_point_elsewhere():
    # One clear peak: asked again without a lie, the surrogate would stay on it.
    points = np.array([[a, b] for a in (0.1, 0.5, 0.9) for b in (0.1, 0.5, 0.9)])
    values = 1 - ((points - [0.7, 0.3]) ** 2).sum(1)
    batch = propose_batch(4, points, values, np.full(9, 1e-3), 2, seed=0)
    assert np.linalg.norm(batch[0] - [0.7, 0.3]) < 0.25
    assert max(np.linalg.norm(batch[1:] - batch[0], axis=1)) > 0.1


def test_processes_change_no_number(make_problem, batched):
    alone, together = run(make_problem(), batched), run(make_problem(), batched, n_jobs=2)
    assert alone.trials == together.trials and alone.values == together.values
    assert len(alone.trials) == 7


def test_a_batch_knows_the_trials_before_it_alone(monkeypatch, make_problem, batched):
    asked, real = [], algorithm1.propose_batch

    def spy(count, points, *rest, **options):
        asked.append((count, len(points)))
        return real(count, points, *rest, **options)

    monkeypatch.setattr(algorithm1, "propose_batch", spy)
    run(make_problem(), batched)
    assert asked == [(3, 0), (3, 3), (1, 6)]


@pytest.mark.parametrize("kill_at", [1, 4])
def test_a_search_killed_within_a_batch_resumes_to_the_same_result(
    tmp_path, monkeypatch, make_problem, batched, kill_at
):
    real, calls = algorithm1.fit, []

    def mortal(*arguments, **options):
        calls.append(1)
        if len(calls) == kill_at + 1:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(algorithm1, "fit", mortal)
    with Checkpoint(tmp_path / "c") as checkpoint, pytest.raises(KeyboardInterrupt):
        run(make_problem(checkpoint=checkpoint), batched)
    with Checkpoint(tmp_path / "c") as checkpoint:
        found = run(make_problem(checkpoint=checkpoint), batched)
    assert len(calls) == 8  # seven, of which the killed one twice
    assert found.trials == run(make_problem(), batched).trials


@pytest.mark.parametrize("wrong", [{"batch": 2}, {"stop_early": True}])
def test_trials_that_inherit_can_neither_run_side_by_side_nor_end_early(make_settings, wrong):
    with pytest.raises(ValidationError, match="weights = scratch"):
        make_settings(weights="inherit", **wrong)


def test_a_trial_of_one_epoch_has_no_half(make_settings):
    with pytest.raises(ValidationError, match="epochs > 1"):
        make_settings(weights="scratch", stop_early=True, epochs=1)


@pytest.fixture(scope="module")
def stopping(make_problem, make_settings):
    """A search over one number, which worsens the result: trials half-way and at the end as the test says."""
    halfway = [0.5, 0.6, 0.7, 0.2, 0.59, 0.62, 0.1]
    end = [0.7, 0.8, 0.9, None, 0.75, 0.95, None]

    def told(model, problem, settings, fault, purpose, draws, parameters):
        kind, number = purpose
        return {"halfway": halfway, "trial": end, "recheck": end}[kind][number], 0.01

    chosen = make_settings(weights="scratch", stop_early=True, epochs=4, trials=7, strategy="random")
    return run(make_problem(), chosen, measure=told)


def test_a_hopeless_trial_ends_half_way(stopping):
    # Trials 0-2 can't be compared yet; 3 and 6 are below the others' median, 0.6 and 0.6; 4 is within two errors of it.
    assert [trial.stopped for trial in stopping.trials] == [False, False, False, True, False, False, True]
    assert [trial.epochs for trial in stopping.trials] == [4, 4, 4, 2, 4, 4, 2]
    assert stopping.about["epochs_search"] == 24
    assert [trial.halfway for trial in stopping.trials] == [0.5, 0.6, 0.7, 0.2, 0.59, 0.62, 0.1]


def test_a_trial_that_ended_early_counts_as_what_the_others_would_have_gained(stopping):
    assert stopping.trials[3].objective == pytest.approx(0.2 + 0.2)  # the first three gained 0.2 each
    assert stopping.trials[3].standard_error == pytest.approx(0.01)
    gains = [0.2, 0.2, 0.2, 0.16, 0.33]
    assert stopping.trials[6].objective == pytest.approx(0.1 + np.mean(gains))
    assert stopping.trials[6].standard_error == pytest.approx(np.hypot(0.01, np.std(gains, ddof=1)))


def test_a_trial_that_ended_early_is_never_chosen(stopping):
    again = [trial.number for trial in stopping.trials if trial.recheck is not None]
    assert sorted(again) == [1, 2, 5]
    assert stopping.best.number == 5


def test_common_draws_give_equal_trials_equal_estimates(make_problem, make_settings):
    # The number does nothing, so trials differ by their draws and the order of images alone.
    idle = Tunable(
        (Dimension("nothing", 0.0, 1.0),), lambda model, _: awp.tunable().training(model, (0.01,)), lambda _: {}
    )
    for common, count in ((True, 1), (False, 4)):
        chosen = make_settings(weights="scratch", common_draws=common, strategy="random", objective="neg_loss")
        assert len({trial.objective for trial in run(make_problem(), chosen, idle).trials}) == count


@pytest.mark.parametrize("trials, dimensions, levels", [(12, 2, 4), (9, 2, 3), (12, 1, 12), (20, 4, 3), (5, 16, 2)])
def test_a_grid_has_equal_steps_in_every_dimension_and_no_point_twice(trials, dimensions, levels):
    points = np.array([grid_point(n, trials, dimensions, 7) for n in range(trials)])
    assert set(points.ravel().round(9)) <= {round((i + 0.5) / levels, 9) for i in range(levels)}
    assert len(np.unique(points, axis=0)) == trials


def test_a_search_on_a_grid(make_problem, make_settings):
    found = run(make_problem(), make_settings(strategy="grid", bounds=(0.0, 0.8)))
    assert sorted(trial.values for trial in found.trials) == [
        pytest.approx(point) for point in [(0.2, 0.2), (0.2, 0.6), (0.6, 0.2), (0.6, 0.6)]
    ]


@pytest.mark.parametrize("count", [0, 17])
def test_more_numbers_than_a_search_can_tell_apart_are_refused(make_problem, make_settings, count):
    many = Tunable(tuple(Dimension(str(i), 0.0, 1.0) for i in range(count)), None, None)
    with pytest.raises(ValueError, match=f'{count} numbers to search.*1 to 16.*granularity = "stage"'):
        run(make_problem(), make_settings(), many)


def test_more_trials_than_there_is_room_for_are_refused_before_the_first(make_problem, make_settings):
    one = Tunable((Dimension("rate", 0.0, 1.0),), None, None)
    with pytest.raises(ValueError, match="trials = 26: 1 number.* room for 25"):
        run(make_problem(), make_settings(trials=26), one)


@pytest.mark.parametrize("strategy", ["gp", "random"])
def test_there_is_room_for_as_many_trials_as_are_allowed_in_one_dimension(strategy):
    for seed in range(3):
        points = np.zeros((0, 1))
        for n in range(25):
            values = np.sin(5 * points[:, 0])
            new = propose(points, values, np.full(n, 0.01), 1, seed, strategy=strategy, initial=20)
            points = np.vstack([points, new])


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an optional extra")
def test_trials_run_on_a_ray_cluster(tmp_path):
    done = subprocess.run(
        [sys.executable, "tests/search/on_ray.py", tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"cpus": 2.0, "workers": 2, "same": True}
