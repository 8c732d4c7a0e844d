"""Trials side by side, and other ways to propose them."""

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

from bayesft.search.surrogate import CLOSEST, grid_point, propose, propose_batch
from bayesft.seeds import derive_seed
from bayesft.training import Checkpoint
from tests.search.searches import Watched, assert_same_result, make_problem, make_settings, run

ROOT = Path(__file__).parents[2]
BATCHED = make_settings(weights="scratch", batch=3, trials=7)


@pytest.fixture(scope="module")
def batched():
    """Seven trials in batches of three, from fresh weights."""
    return run(BATCHED)


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


def test_processes_change_no_number(batched):
    assert_same_result(run(BATCHED, n_jobs=2), batched)
    assert len(batched.trials) == 7


def test_a_batch_of_a_search_knows_the_trials_before_it_alone(batched):
    points = np.array([[(rate - 0.1) / 0.6 for rate in trial.values] for trial in batched.trials])
    values = np.array([trial.objective for trial in batched.trials])
    errors = np.array([trial.standard_error for trial in batched.trials])
    alone = run(make_settings(weights="scratch", batch=3, trials=3))
    assert repr([trial.objective for trial in alone.trials]) == repr([t.objective for t in batched.trials[:3]])
    seed = derive_seed("tiny", 0)
    for start, count in ((0, 3), (3, 3), (6, 1)):
        known = points[:start], values[:start], errors[:start]
        expected = propose_batch(count, *known, 2, seed, initial=2, trials=7)
        np.testing.assert_allclose(points[start : start + count], expected, atol=1e-9)


@pytest.mark.parametrize("kill_at", [1, 4, 5])
def test_a_search_killed_within_a_batch_resumes_to_the_same_result(tmp_path, batched, kill_at):
    first, second = Watched(interrupted=kill_at), Watched()
    with Checkpoint(tmp_path / "c") as checkpoint, pytest.raises(KeyboardInterrupt):
        run(BATCHED, first, make_problem(checkpoint=checkpoint), n_jobs=1)
    with Checkpoint(tmp_path / "c") as checkpoint:
        found = run(BATCHED, second, make_problem(checkpoint=checkpoint), n_jobs=1)
    assert_same_result(found, batched)
    assert len(first.starts) + len(second.starts) == 8  # seven, of which the killed one twice


@pytest.mark.parametrize("trials, dimensions, levels", [(12, 2, 4), (9, 2, 3), (12, 1, 12), (20, 4, 3), (5, 16, 2)])
def test_a_grid_has_equal_steps_in_every_dimension_and_no_point_twice(trials, dimensions, levels):
    points = np.array([grid_point(n, trials, dimensions, 7) for n in range(trials)])
    assert set(points.ravel().round(9)) <= {round((i + 0.5) / levels, 9) for i in range(levels)}
    assert len(np.unique(points, axis=0)) == trials


def test_a_search_on_a_grid():
    found = run(make_settings(strategy="grid"), problem=make_problem(bounds=(0.0, 0.8)))
    assert sorted(trial.values for trial in found.trials) == [
        pytest.approx(point) for point in [(0.2, 0.2), (0.2, 0.6), (0.6, 0.2), (0.6, 0.6)]
    ]


@pytest.mark.parametrize("strategy", ["gp", "random"])
def test_there_is_room_for_as_many_trials_as_are_allowed_in_one_dimension(strategy):
    for seed in range(3):
        points = np.zeros((0, 1))
        for n in range(25):
            values = np.sin(5 * points[:, 0])
            new = propose(points, values, np.full(n, 0.01), 1, seed, strategy=strategy, initial=20)
            points = np.vstack([points, new])


@pytest.mark.slow
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
    assert found == {"cpus": 2.0, "workers": 2, "same": True, "tune": True, "tune elsewhere": True}
