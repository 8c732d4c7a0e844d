"""Ask for points, tell what they were worth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesft.search.optimizer import Optimizer
from tests.search.searches import make_settings


def worth(point) -> float:
    return 1 - float(((np.asarray(point) - [0.7, 0.3]) ** 2).sum())


def asked(count: int, batch: int = 1, seed: int = 3, optimizer: Optimizer | None = None, **changes) -> list[tuple]:
    """The points of a search for the maximum of `worth`, from `optimizer` on."""
    optimizer = optimizer or Optimizer(2, make_settings(trials=count, weights="scratch", **changes), seed)
    points = []
    while len(points) < count:
        some = optimizer.ask(min(batch, count - len(points)))
        assert some.shape == (min(batch, count - len(points)), 2) and ((some >= 0) & (some <= 1)).all()
        for point in some:
            optimizer.tell(point, worth(point), 0.01)
        points += [tuple(point) for point in some]
    return points


@pytest.mark.parametrize("strategy", ["gp", "random", "grid"])
def test_a_search_that_resumes_asks_for_the_same_points(strategy):
    whole = asked(7, strategy=strategy)
    for done in (1, 3, 5):
        optimizer = Optimizer(2, make_settings(trials=7, weights="scratch", strategy=strategy), 3)
        for point in whole[:done]:
            optimizer.tell(point, worth(point), 0.01)
        assert asked(7 - done, optimizer=optimizer) == whole[done:]


def test_asking_again_gives_the_same_points_and_another_seed_others():
    optimizer = Optimizer(2, make_settings(), 3)
    assert np.array_equal(optimizer.ask(2), optimizer.ask(2))
    assert not np.array_equal(optimizer.ask(), Optimizer(2, make_settings(), 4).ask())


def test_the_surrogate_finds_the_maximum_and_chance_does_not():
    found = max(map(worth, asked(12, initial=4)))
    assert found > 0.995 > max(map(worth, asked(12, strategy="random")))


def test_the_first_points_are_those_of_random_search_and_later_ones_are_not():
    mine, control = asked(6, initial=4), asked(6, strategy="random")
    assert mine[:4] == control[:4] and mine[4] != control[4]


def test_a_batch_is_asked_for_before_any_of_it_is_told():
    one, three = asked(6, batch=1, initial=2), asked(6, batch=3, initial=2)
    assert len(set(three)) == 6 and three[:2] == one[:2]
    optimizer = Optimizer(2, make_settings(trials=6, weights="scratch"), 3)
    for point in three[:3]:
        optimizer.tell(point, worth(point), 0.01)
    assert [tuple(point) for point in optimizer.ask(3)] == three[3:]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=4), st.integers(0, 9))
@settings(max_examples=10, deadline=None)
def test_a_failed_trial_counts_like_the_worst_of_the_others(values, seed):
    random = np.random.default_rng(seed)
    failing, told = (Optimizer(2, make_settings(initial=1), seed) for _ in range(2))
    for value in values:
        point = random.random(2)
        failing.tell(point, value, 0.1)
        told.tell(point, value, 0.1)
    point = random.random(2)
    failing.tell(point, float("nan"), float("nan"))
    told.tell(point, min(values), 0.0)
    assert np.array_equal(failing.ask(2), told.ask(2))


def test_trials_that_have_all_failed_leave_a_search_that_goes_on():
    optimizer = Optimizer(2, make_settings(initial=1), 0)
    for _ in range(3):
        (point,) = optimizer.ask()
        optimizer.tell(point, float("nan"), float("nan"))
    assert np.isfinite(optimizer.ask()).all()


@pytest.mark.parametrize("count", [0, 17])
def test_more_numbers_than_a_search_can_tell_apart_are_refused(count):
    with pytest.raises(ValueError, match=f'{count} numbers to search.*1 to 16.*granularity = "stage"'):
        Optimizer(count, make_settings(), 0)


def test_more_trials_than_there_is_room_for_are_refused():
    with pytest.raises(ValueError, match="trials = 26: 1 number.* room for 25"):
        Optimizer(1, make_settings(trials=26), 0)
    Optimizer(1, make_settings(trials=25), 0)
    Optimizer(2, make_settings(trials=26), 0)
