"""When a trial ends half-way, and what it then counts as."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bayesft.search.early_stop import EarlyStop
from bayesft.search.objective import Estimate
from bayesft.search.trial import Trial
from tests.search.searches import Told, make_problem, make_settings, run, told

STOPPING = {"weights": "scratch", "stop_early": True, "epochs": 4}


def trial(number: int, halfway: float | None, objective: float, **changes) -> Trial:
    return Trial(number, (0.1,), objective, 0.01, 4, 4, halfway, **changes)


def rule(*trials: Trial) -> EarlyStop:
    return EarlyStop.after(trials, make_settings(**STOPPING))


def test_only_the_settings_that_ask_for_it_stop_early():
    assert EarlyStop.after([], make_settings()) is None
    assert not rule().stops(Estimate(-9.0, 0.0))


def test_a_trial_is_stopped_below_the_median_by_more_than_two_errors_and_after_three():
    three = [trial(0, 0.5, 0.7), trial(1, 0.6, 0.8), trial(2, 0.7, 0.9)]
    assert not rule(*three[:2]).stops(Estimate(0.0, 0.0))
    assert rule(*three).stops(Estimate(0.57, 0.01))
    assert not rule(*three).stops(Estimate(0.59, 0.01))
    assert not rule(*three).stops(Estimate(0.0, 0.4))


def test_a_stopped_trial_is_credited_with_the_average_gain():
    three = rule(trial(0, 0.5, 0.7), trial(1, 0.6, 0.9), trial(2, 0.7, 0.8))
    mean, error = three.predicted(Estimate(0.2, 0.03))
    assert mean == pytest.approx(0.2 + 0.2)
    assert error == pytest.approx(np.hypot(0.03, np.std([0.2, 0.3, 0.1], ddof=1)))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=9), st.floats(0, 1))
def test_trials_that_were_stopped_or_failed_are_no_measure(finished, halfway):
    trials = [trial(i, *pair) for i, pair in enumerate(finished)]
    others = [trial(90, 0.0, 0.0, stopped=True), trial(91, None, float("nan"), failed=True)]
    alone, among = rule(*trials), rule(*trials, *others)
    assert alone.stops(Estimate(halfway, 0.01)) == among.stops(Estimate(halfway, 0.01))
    assert alone.predicted(Estimate(halfway, 0.01)) == among.predicted(Estimate(halfway, 0.01))


@pytest.mark.parametrize("wrong", [{"batch": 2}, {"stop_early": True}])
def test_trials_that_inherit_can_neither_run_side_by_side_nor_end_early(wrong):
    with pytest.raises(ValidationError, match="weights = scratch"):
        make_settings(weights="inherit", **wrong)


def test_a_trial_of_one_epoch_has_no_half():
    with pytest.raises(ValidationError, match="epochs > 1"):
        make_settings(weights="scratch", stop_early=True, epochs=1)


@pytest.fixture(scope="module")
def stopping():
    """A search whose trials reach, half-way and at the end, what is said here."""
    halfway = [0.5, 0.6, 0.7, 0.2, 0.59, 0.62, 0.1]
    end = {0: 0.7, 1: 0.8, 2: 0.9, 4: 0.75, 5: 0.95}
    said = {("halfway", n): value for n, value in enumerate(halfway)}
    said |= {(kind, n): value for n, value in end.items() for kind in ("trial", "recheck")}
    settings = make_settings(**STOPPING, trials=7, strategy="random")
    return run(settings, problem=make_problem(Told, told=told(said)))


def test_a_hopeless_trial_of_a_search_ends_half_way(stopping):
    # Trials 0-2 can't be compared yet; 3 and 6 are below the others' median, 0.6 and 0.6; 4 is within two errors of it.
    assert [trial.stopped for trial in stopping.trials] == [False, False, False, True, False, False, True]
    assert [trial.epochs for trial in stopping.trials] == [4, 4, 4, 2, 4, 4, 2]
    assert stopping.about["epochs_search"] == 24
    assert [trial.halfway for trial in stopping.trials] == pytest.approx([0.5, 0.6, 0.7, 0.2, 0.59, 0.62, 0.1])


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
