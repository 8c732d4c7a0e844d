"""Where the next trial goes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesft.search.surrogate import CLOSEST, propose, sobol_points


def trials(count: int, dimensions: int, seed: int):
    random = np.random.default_rng(seed)
    points = random.random((count, dimensions))
    return points, random.random(count), random.uniform(0.001, 0.1, count)


def assert_new_point_of_the_cube(point, earlier, dimensions):
    assert point.shape == (dimensions,)
    assert ((point >= 0) & (point <= 1)).all()
    if len(earlier):
        assert np.linalg.norm(earlier - point, axis=1).min() >= CLOSEST


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 14), st.integers(1, 5), st.integers(0, 2**31))
def test_random_proposals_are_new_points_of_the_cube(count, dimensions, seed):
    points, values, errors = trials(count, dimensions, seed)
    point = propose(points, values, errors, dimensions, seed, strategy="random")
    assert_new_point_of_the_cube(point, points, dimensions)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 2**31),
    st.sampled_from(["ei", "mean", "lcb"]),
    st.sampled_from(["squared_exponential", "matern52"]),
)
def test_proposals_of_the_surrogate_are_new_points_of_the_cube(count, dimensions, seed, rule, kernel):
    points, values, errors = trials(count, dimensions, seed)
    point = propose(points, values, errors, dimensions, seed, rule=rule, kernel=kernel, initial=1)
    assert_new_point_of_the_cube(point, points, dimensions)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 16), st.integers(1, 5), st.integers(0, 2**31))
def test_points_of_an_even_design_are_new_points_of_the_cube(count, dimensions, seed):
    points = np.zeros((0, dimensions))
    for n in range(count):
        nothing = np.zeros(n), np.full(n, 0.1)
        point = propose(points, *nothing, dimensions, seed, design="sobol", initial=count)
        assert_new_point_of_the_cube(point, points, dimensions)
        points = np.vstack([points, point])


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_an_even_design_has_a_point_in_every_quarter_and_depends_on_the_seed(seed):
    even = sobol_points(0, 1, seed)[:4]
    assert sorted((4 * even[:, 0]).astype(int)) == [0, 1, 2, 3]
    points = np.zeros((0, 1))
    for n in range(4):
        point = propose(points, np.zeros(n), np.full(n, 0.1), 1, seed, design="sobol", initial=4)
        crowded = n and abs(points - even[n]).min() < CLOSEST  # across the border of two quarters
        assert crowded or point == even[n]
        points = np.vstack([points, point])
    assert propose(np.zeros((0, 1)), [], [], 1, seed + 1, design="sobol", initial=4) != points[0]


def test_the_design_is_that_of_the_surrogates_strategy_alone():
    random = propose(np.zeros((0, 2)), [], [], 2, 3, strategy="random", design="sobol")
    assert np.array_equal(random, propose(np.zeros((0, 2)), [], [], 2, 3, strategy="random"))
    assert not np.array_equal(random, propose(np.zeros((0, 2)), [], [], 2, 3, design="sobol"))


@pytest.mark.parametrize("strategy", ["random", "gp"])
def test_a_crowded_line_still_has_room_and_no_proposal_comes_too_close(strategy):
    points, values, errors = np.zeros((0, 1)), [], []
    for _ in range(12):
        point = propose(
            points, np.array(values), np.array(errors), 1, seed=1, strategy=strategy, initial=3, rule="mean"
        )
        assert_new_point_of_the_cube(point, points, 1)
        points = np.vstack([points, point])
        values.append(-((point[0] - 0.5) ** 2))  # the mean rule would like to stay at the top
        errors.append(1e-3)


@pytest.mark.parametrize("strategy", ["random", "gp"])
def test_a_full_line_is_said_to_be_full(strategy):
    points = np.linspace(0, 1, 27)[:, None]  # every point of the line is within 0.02 of one of these
    with pytest.raises(ValueError, match="27 trials leave no room"):
        propose(points, np.sin(9 * points[:, 0]), np.full(27, 0.01), 1, seed=0, strategy=strategy)


def test_proposals_depend_on_trials_and_seed_alone():
    points, values, errors = trials(6, 2, 0)
    np.random.seed(1)
    first = propose(points, values, errors, 2, seed=5)
    np.random.seed(2)
    assert np.array_equal(first, propose(points.copy(), list(values), list(errors), 2, seed=5))
    assert not np.array_equal(first, propose(points, values, errors, 2, seed=6))
    assert not np.array_equal(first, propose(points, values[::-1], errors, 2, seed=5))


def test_first_proposals_are_shared_with_random_search_and_later_ones_are_not():
    points, values, errors = trials(8, 3, 0)
    for n in range(8):
        mine, control = (
            propose(points[:n], values[:n], errors[:n], 3, seed=4, initial=5, strategy=strategy)
            for strategy in ("gp", "random")
        )
        assert np.array_equal(mine, control) == (n < 5)


def test_first_proposals_differ_from_one_another():
    points, values, errors = trials(5, 2, 0)
    proposals = {tuple(propose(points[:n], values[:n], errors[:n], 2, seed=4, initial=5)) for n in range(5)}
    assert len(proposals) == 5


def test_random_search_asks_no_surrogate():
    # Values that no surrogate could take.
    points, values, errors = trials(9, 2, 0)
    nothing = np.full(9, np.nan)
    for n in range(10):
        expected = propose(points[:n], values[:n], errors[:n], 2, seed=0, initial=2, strategy="random")
        found = propose(points[:n], nothing[:n], nothing[:n], 2, seed=0, initial=2, strategy="random")
        assert np.array_equal(found, expected)
    with pytest.raises(ValueError):
        propose(points, nothing, nothing, 2, seed=0, initial=2)


def test_random_search_covers_the_cube_evenly():
    draws = np.array([propose(np.zeros((0, 2)), [], [], 2, seed=seed, strategy="random") for seed in range(300)])
    counts = np.histogram2d(*draws.T, bins=3, range=[[0, 1], [0, 1]])[0]
    # χ² with 8 degrees of freedom: 26.1 is its 0.1 % point
    assert ((counts - 300 / 9) ** 2 / (300 / 9)).sum() < 26.1


@pytest.mark.parametrize("rule", ["mean", "ei"])
def test_surrogate_proposes_near_the_optimum_that_the_trials_show(rule):
    points = np.array([[a, b] for a in (0.1, 0.5, 0.9) for b in (0.1, 0.5, 0.9)])
    values = 1 - ((points - [0.7, 0.3]) ** 2).sum(1)
    point = propose(points, values, np.full(9, 1e-3), 2, seed=0, rule=rule)
    assert np.linalg.norm(point - [0.7, 0.3]) < 0.15
