"""Algorithm 1 on a tiny problem: what it logs, what it chooses, and that it can be killed."""

import math

import pytest
import torch

from bayesft.methods import load
from bayesft.search.algorithm1 import search, train_row
from bayesft.training import Checkpoint, Diverged
from tests.problems import same
from tests.search.searches import (
    Nothing,
    Told,
    Watched,
    assert_same_result,
    make_problem,
    make_settings,
    run,
    told,
)


@pytest.fixture(scope="module")
def result():
    return run(make_settings())


@pytest.fixture(scope="module")
def random_result():
    return run(make_settings(trials=6, strategy="random"))


def test_every_trial_is_logged_with_rates_within_bounds(result, random_result):
    for found, count in ((result, 4), (random_result, 6)):
        assert [trial.number for trial in found.trials] == list(range(count))
        for trial in found.trials:
            assert len(trial.values) == len(found.best.values) == 2
            assert all(0.1 <= rate <= 0.7 for rate in trial.values)
            assert 0 <= trial.objective <= 1 and trial.standard_error >= 0
            assert not trial.stopped and not trial.failed
        assert len({trial.values for trial in found.trials}) == count


@pytest.mark.parametrize("weights, expected", [("inherit", [3, 6, 9]), ("scratch", [3, 3, 3])])
def test_epochs_behind_the_weights_are_logged(weights, expected):
    found = run(make_settings(weights=weights, trials=3, epochs=3, strategy="random"))
    assert [trial.cumulative_epochs for trial in found.trials] == expected
    assert found.best_model.about["epochs"] == found.best.cumulative_epochs
    assert found.about["epochs_search"] == 9  # all that the search spent, whatever the weights


def test_best_trial_is_the_one_of_the_best_objective(result, random_result):
    for found in (result, random_result):
        assert found.best.objective == max(trial.objective for trial in found.trials)
        assert found.best == found.trials[found.best.number]
        about = found.best_model.about
        assert about["trial"] == found.best.number
        assert about["rates"] == dict(zip(("2", "4"), found.best.values, strict=True))


@pytest.mark.parametrize("top", [1, 3, 5])
def test_top_trials_are_measured_again_and_the_best_of_those_is_chosen(top):
    found = run(make_settings(trials=6, top=top, strategy="random"))
    again = [trial for trial in found.trials if trial.recheck is not None]
    assert len(again) == top
    worst_again = min(trial.objective for trial in again)
    assert all(trial.objective <= worst_again for trial in found.trials if trial.recheck is None)
    assert tuple(found.values.values()) == max(again, key=lambda trial: trial.recheck).values
    assert all(trial.recheck_error >= 0 for trial in again)


def test_search_of_fewer_trials_than_are_measured_again():
    found = run(make_settings(trials=1))
    assert len(found.trials) == 1 and found.trials[0].recheck is not None
    assert tuple(found.values.values()) == found.trials[0].values == found.best.values


def test_chosen_rates_follow_the_second_measurement_of_twice_the_draws():
    # First 0.1, 0.5, 0.4, 0.6, 0.2; measured again, 3, 1 and 2 (the top in order) are worth 0.3, 0.2 and 0.9.
    said = {("trial", n): u for n, u in enumerate([0.1, 0.5, 0.4, 0.6, 0.2])}
    said |= {("recheck", 3): 0.3, ("recheck", 1): 0.2, ("recheck", 2): 0.9}
    draws = {}

    def noting(purpose, count):
        draws[purpose] = count
        return told(said)(purpose, count)

    found = run(make_settings(trials=5, strategy="random"), problem=make_problem(Told, told=noting))
    assert found.best.number == 3 and found.best_model.about["trial"] == 3
    assert tuple(found.values.values()) == found.trials[2].values
    assert draws.keys() == said.keys()
    rechecks = [0 if trial.recheck is None else trial.recheck for trial in found.trials]
    assert rechecks == pytest.approx([0, 0.2, 0.9, 0.3, 0])
    assert all(count == (6 if purpose[0] == "recheck" else 3) for purpose, count in draws.items())


def test_both_strategies_share_their_first_trials_with_their_draws_and_part_later(result, random_result):
    for n in range(2):
        mine, control = result.trials[n], random_result.trials[n]
        assert (mine.values, mine.objective, mine.standard_error) == (
            control.values, control.objective, control.standard_error,
        )  # fmt: skip
    assert result.trials[2].values != random_result.trials[2].values


def test_trials_of_equal_training_meet_draws_of_their_own_unless_they_are_common():
    for common, count in ((True, 1), (False, 4)):
        settings = make_settings(weights="scratch", common_draws=common, strategy="random", objective="neg_loss")
        assert len({trial.objective for trial in run(settings, Nothing()).trials}) == count


@pytest.mark.parametrize("weights", ["inherit", "scratch"])
def test_weights_go_on_from_trial_to_trial_or_start_afresh(weights):
    method = Watched()
    found = run(make_settings(weights=weights, strategy="random"), method)
    fresh = make_problem().fresh().state_dict()
    assert same(method.starts[0], fresh)
    for n in range(1, 4):
        assert same(method.starts[n], method.ends[n - 1] if weights == "inherit" else fresh)
    assert method.rates_given == [trial.values for trial in found.trials]
    assert same(found.best_model.members[0], method.ends[found.best.number])


def test_a_trial_from_fresh_weights_is_trained_by_the_recipe_and_one_that_inherits_at_a_constant_step():
    # One epoch of a trial at the step size of nothing changes nothing; the recipe's own is another.
    for weights, moves in (("inherit", False), ("scratch", True)):
        method = Watched()
        run(make_settings(weights=weights, lr=1e-30, trials=1), method)
        assert same(method.starts[0], method.ends[0]) != moves


def test_result_depends_on_the_seed(random_result):
    other = run(make_settings(trials=6, strategy="random"), problem=make_problem(seed=1))
    assert not {trial.values for trial in other.trials} & {trial.values for trial in random_result.trials}


def test_the_objective_can_be_the_loss():
    found = run(make_settings(objective="neg_loss", sigmas=(0.3,)))
    assert len(found.trials) == 4
    assert all(trial.objective < 0 for trial in found.trials)
    assert found.best.objective == max(trial.objective for trial in found.trials)


def test_layers_of_a_stage_can_share_a_rate():
    found = run(make_settings(trials=2, strategy="random"), problem=make_problem(granularity="stage"))
    assert list(found.values) == list(found.best_model.about["rates"]) == ["features"]


def test_any_method_can_be_searched_with_its_other_settings_fixed():
    class Half(type(load("drift_dropout"))):
        def hyperparameters(self, problem):
            return super().hyperparameters(problem)[1:]

    found = run(make_settings(trials=2), Half(), fixed={"rate": 0.25})
    assert list(found.values) == ["sigma_train"]
    assert found.best_model.about["rates"] == {"2": 0.25, "4": 0.25}


def test_what_can_not_be_searched_is_refused_before_the_first_trial():
    with pytest.raises(ValueError, match="0 numbers to search"):
        run(make_settings(), load("erm"))
    with pytest.raises(ValueError, match="17 numbers to search"):
        run(make_settings(), Nothing(17))
    with pytest.raises(ValueError, match="trials = 26: 1 number.* room for 25"):
        run(make_settings(trials=26), load("awp"))


# Trials that diverge


@pytest.mark.parametrize("weights", ["inherit", "scratch"])
@pytest.mark.parametrize("diverging", [(0,), (1, 2), (3,)])
def test_a_trial_that_diverges_counts_as_failed_and_the_search_goes_on(weights, diverging):
    method = Watched(diverging=diverging)
    found = run(make_settings(weights=weights), method)
    assert [trial.failed for trial in found.trials] == [n in diverging for n in range(4)]
    for trial in found.trials:
        assert math.isnan(trial.objective) == math.isnan(trial.standard_error) == trial.failed
        assert trial.recheck is None or not trial.failed
    assert not found.best.failed and all(math.isfinite(value) for value in found.values.values())
    assert all(tensor.isfinite().all() for tensor in found.best_model.members[0].values())
    kept = make_problem().fresh().state_dict()  # what a trial inherits: never the weights of a failed one
    for n in range(4):
        assert same(method.starts[n], kept)
        if weights == "inherit" and n not in diverging:
            kept = method.ends[n - len([d for d in diverging if d < n])]
    assert [entry["objective"] is None for entry in found.about["trials"]] == [n in diverging for n in range(4)]
    behind = 0  # a failed trial leaves nothing behind
    for trial in found.trials:
        behind = (behind if weights == "inherit" else 0) + (0 if trial.failed else trial.epochs)
        assert trial.cumulative_epochs == behind


def test_a_trial_whose_score_is_not_finite_counts_as_failed_and_one_measured_so_again_is_not_chosen():
    said = {("trial", n): [0.1, math.nan, 0.9, 0.5][n] for n in range(4)}
    said |= {("recheck", 2): math.inf, ("recheck", 3): 0.4, ("recheck", 0): 0.2}
    found = run(make_settings(weights="scratch", top=3), Nothing(), make_problem(Told, told=told(said)))
    assert [trial.failed for trial in found.trials] == [False, True, False, False]
    assert tuple(found.values.values()) == found.trials[3].values
    assert found.trials[2].recheck is None


def test_a_search_whose_trials_all_diverge_says_so():
    with pytest.raises(Diverged, match="tiny search seed 0: no trial ended with finite scores; lower the lr"):
        run(make_settings(), Watched(diverging=range(4)))


# Killed searches


def killed_and_resumed(tmp_path, settings, kill_at, **rest):
    """The result of a search that is killed in trial number `kill_at`, and how many trainings it took in all."""
    first, second = Watched(interrupted=kill_at, **rest), Watched(**{
        name: tuple(n - kill_at for n in numbers) for name, numbers in rest.items()
    })  # fmt: skip
    with Checkpoint(tmp_path / f"{kill_at}") as checkpoint, pytest.raises(KeyboardInterrupt):
        run(settings, first, make_problem(checkpoint=checkpoint))
    with Checkpoint(tmp_path / f"{kill_at}") as checkpoint:
        found = run(settings, second, make_problem(checkpoint=checkpoint))
    return found, len(first.starts) + len(second.starts)


@pytest.mark.parametrize("kill_at", range(6))
def test_killed_random_search_resumes_to_the_same_result(tmp_path, random_result, kill_at):
    found, trainings = killed_and_resumed(tmp_path, make_settings(trials=6, strategy="random"), kill_at)
    assert_same_result(found, random_result)
    assert trainings == 7  # six, of which one twice


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_killed_search_with_the_surrogate_resumes_to_the_same_result(tmp_path, result, kill_at):
    found, trainings = killed_and_resumed(tmp_path, make_settings(), kill_at)
    assert_same_result(found, result)
    assert trainings == 5


def test_killed_search_from_scratch_resumes_to_the_same_result(tmp_path):
    settings = make_settings(weights="scratch")
    found, trainings = killed_and_resumed(tmp_path, settings, 2)
    assert_same_result(found, run(settings))
    assert trainings == 5


def test_killed_search_with_a_failed_trial_resumes_to_the_same_result(tmp_path):
    found, _ = killed_and_resumed(tmp_path, make_settings(trials=5), 3, diverging=(1,))
    assert_same_result(found, run(make_settings(trials=5), Watched(diverging=(1,))))


def test_killed_search_that_stops_early_resumes_to_the_same_result(tmp_path):
    settings = make_settings(weights="scratch", stop_early=True, trials=6, epochs=4, strategy="random")
    found, _ = killed_and_resumed(tmp_path, settings, 4)
    assert_same_result(found, run(settings))


def test_search_that_is_killed_while_measuring_again_trains_nothing_again(tmp_path):
    def mortal(purpose, draws):
        if purpose[0] == "recheck":
            raise KeyboardInterrupt
        return purpose[1] / 10, 0.01

    settings, method = make_settings(strategy="random"), Watched()
    kept = {"told": lambda purpose, draws: (purpose[1] / 10, 0.01)}
    with Checkpoint(tmp_path / "c") as checkpoint, pytest.raises(KeyboardInterrupt):
        run(settings, method, make_problem(Told, told=mortal, checkpoint=checkpoint))
    with Checkpoint(tmp_path / "c") as checkpoint:
        found = run(settings, method, make_problem(Told, **kept, checkpoint=checkpoint))
    assert len(method.starts) == 4
    assert_same_result(found, run(settings, problem=make_problem(Told, **kept)))


def test_a_damaged_log_is_named_and_the_search_begins_anew(tmp_path, result, capsys):
    with Checkpoint(tmp_path / "c") as checkpoint:
        run(make_settings(), problem=make_problem(checkpoint=checkpoint))
        (log,) = (tmp_path / "c").iterdir()
        log.write_bytes(log.read_bytes()[:-9])
        assert_same_result(run(make_settings(), problem=make_problem(checkpoint=checkpoint)), result)
    assert str(log) in capsys.readouterr().out


def test_a_longer_search_goes_on_from_a_shorter_one(tmp_path, result):
    with Checkpoint(tmp_path / "c") as checkpoint:
        problem, method = make_problem(checkpoint=checkpoint), Watched()
        run(make_settings(trials=3), method, problem)
        assert_same_result(run(make_settings(), method, problem), result)
    assert len(method.starts) == 4


def test_two_searches_share_a_checkpoint_without_mixing(tmp_path, result):
    with Checkpoint(tmp_path / "c") as checkpoint:
        problem = make_problem(checkpoint=checkpoint)
        run(make_settings(strategy="random"), problem=problem, name="random")
        assert_same_result(run(make_settings(), problem=problem), result)


# Rows of a report


def test_a_row_with_given_hyperparameters_is_the_methods_own_training():
    problem, method = make_problem(), load("uniform")
    row = train_row(problem, method, {"rate": 0.3}, {}, name="uniform-twice")
    own = method.train(problem, {"rate": 0.3}, {})["uniform"]
    assert row.keys() == {"uniform-twice"}
    assert same(row["uniform-twice"].members[0], own.members[0]) and row["uniform-twice"].about == own.about


def test_a_row_that_is_searched_is_trained_under_what_the_search_chose_and_says_so():
    problem, method = make_problem(), load("uniform")
    found = search(problem, method, make_settings(), fixed={"rate": 0.5})
    row = train_row(problem, method, {"rate": 0.5}, {}, found, "uniform-tuned")["uniform-tuned"]
    own = method.train(problem, found.values, {})["uniform"]
    assert same(row.members[0], own.members[0])
    assert row.about == {**own.about, **found.about}
    assert [entry["number"] for entry in row.about["trials"]] == list(range(4))


def test_the_published_algorithm_ends_with_the_network_of_its_best_trial():
    problem, method = make_problem(), load("algorithm1")
    found = search(problem, method, make_settings())
    row = train_row(problem, method, {}, {}, found)["algorithm1"]
    assert same(row.members[0], found.best_model.members[0])
    assert row.about["epochs"] == found.best.cumulative_epochs and len(row.about["trials"]) == 4


def test_further_networks_of_a_method_keep_their_names():
    problem = make_problem()
    erm = train_row(problem, load("erm"), {}, {})
    values = {"sigma_device": 0.5, "rounds": 1, "devices": 2}
    assert train_row(problem, load("reram_v"), values, erm, name="repaired").keys() == {"repaired", "erm-programmed"}


def test_a_search_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(make_settings(trials=2))
    assert torch.equal(torch.get_rng_state(), before)
