"""Algorithm 1 on a tiny problem: what it logs, what it chooses, and that it can be killed."""

from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from bayesft.drift import LogNormalDrift, drifted_parameters
from bayesft.models import build, find_sites
from bayesft.search import algorithm1, surrogate
from bayesft.search.algorithm1 import objective, search
from bayesft.training import Checkpoint, Problem, dropout_rates

FAULT = LogNormalDrift()


def run(problem, settings, random=False, **options):
    settings = settings.model_copy(update={"strategy": "random"}) if random else settings
    sites = find_sites(problem.fresh(), problem.train.images[:1], settings.granularity)
    tunable = dropout_rates.tunable(sites, settings.bounds, problem.gradient)
    return search(problem, tunable, settings, FAULT, name="random" if random else "gp", **options)


@pytest.fixture(scope="module")
def result(make_problem, make_settings):
    return run(make_problem(), make_settings())


@pytest.fixture(scope="module")
def random_result(make_problem, make_settings):
    return run(make_problem(), make_settings(trials=6), random=True)


def same_weights(first, second) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_every_trial_is_logged_with_rates_within_bounds(result, random_result):
    for found, count in ((result, 4), (random_result, 6)):
        assert [trial.number for trial in found.trials] == list(range(count))
        for trial in found.trials:
            assert len(trial.values) == len(found.best.values) == 2
            assert all(0.1 <= rate <= 0.7 for rate in trial.values)
            assert 0 <= trial.objective <= 1 and trial.standard_error >= 0
        assert len({trial.values for trial in found.trials}) == count


@pytest.mark.parametrize("weights, expected", [("inherit", [3, 6, 9]), ("scratch", [3, 3, 3])])
def test_epochs_behind_the_weights_are_logged(make_problem, make_settings, weights, expected):
    settings = make_settings(weights=weights, trials=3, epochs=3)
    found = run(make_problem(), settings, random=True)
    assert [trial.cumulative_epochs for trial in found.trials] == expected
    assert found.best_model.about["epochs"] == found.best.cumulative_epochs
    assert found.best_model.about["epochs_search"] == 9  # all that the search spent, whatever the weights


def test_best_trial_is_the_one_of_the_best_objective(result, random_result):
    for found in (result, random_result):
        assert found.best.objective == max(trial.objective for trial in found.trials)
        assert found.best.values == found.trials[found.best.number].values
        about = found.best_model.about
        assert about["trial"] == found.best.number
        assert tuple(about["rates"].values()) == found.best.values
        assert list(about["rates"]) == ["2", "4"]


@pytest.mark.parametrize("top", [1, 3, 5])
def test_top_trials_are_measured_again_and_the_best_of_those_is_chosen(make_problem, make_settings, top):
    found = run(make_problem(), make_settings(trials=6, top=top), random=True)
    again = [trial for trial in found.trials if trial.recheck is not None]
    assert len(again) == top
    worst_again = min(trial.objective for trial in again)
    assert all(trial.objective <= worst_again for trial in found.trials if trial.recheck is None)
    assert found.values == max(again, key=lambda trial: trial.recheck).values
    assert all(trial.recheck_error >= 0 for trial in again)


def test_search_of_fewer_trials_than_are_measured_again(make_problem, make_settings):
    found = run(make_problem(), make_settings(trials=1))
    assert len(found.trials) == 1 and found.trials[0].recheck is not None
    assert found.values == found.trials[0].values == found.best.values


def test_chosen_rates_follow_the_second_measurement(monkeypatch, make_problem, make_settings):
    # First 0.1, 0.5, 0.4, 0.6, 0.2; measured again, 3, 1 and 2 (the top in order) are worth 0.3, 0.2 and 0.9.
    said = {("trial", n): u for n, u in enumerate([0.1, 0.5, 0.4, 0.6, 0.2])}
    said |= {("recheck", 3): 0.3, ("recheck", 1): 0.2, ("recheck", 2): 0.9}
    draws = {}

    def told(model, problem, settings, fault, purpose, count, parameters):
        draws[purpose] = count
        return said[purpose], 0.01

    monkeypatch.setattr(algorithm1, "objective", told)
    found = run(make_problem(), make_settings(trials=5), random=True)
    assert found.best.number == 3 and found.best_model.about["trial"] == 3
    assert found.values == found.trials[2].values
    assert draws.keys() == said.keys()
    assert [trial.recheck for trial in found.trials] == [None, 0.2, 0.9, 0.3, None]
    assert all(count == (6 if purpose[0] == "recheck" else 3) for purpose, count in draws.items())


def test_both_strategies_share_their_first_trials_and_part_later(result, random_result):
    for n in range(2):
        mine, control = result.trials[n], random_result.trials[n]
        assert (mine.values, mine.objective, mine.standard_error) == (
            control.values, control.objective, control.standard_error,
        )  # fmt: skip
    assert result.trials[2].values != random_result.trials[2].values


def test_random_search_needs_no_surrogate(monkeypatch, make_problem, make_settings):
    def forbidden(*_, **__):
        raise AssertionError("fitted")

    monkeypatch.setattr(surrogate, "Surrogate", forbidden)
    run(make_problem(), make_settings(), random=True)
    with pytest.raises(AssertionError, match="fitted"):
        run(make_problem(), make_settings())


@pytest.mark.parametrize("weights", ["inherit", "scratch"])
def test_weights_go_on_from_trial_to_trial_or_start_afresh(monkeypatch, make_problem, make_settings, weights):
    problem, settings = make_problem(), make_settings(weights=weights)
    starts, ends, recipes, seeds, given, rates = [], [], [], [], [], []
    fit, dropout = algorithm1.fit, dropout_rates.dropout

    def snapshot(model):
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def spy(model, data, recipe, *, seed, label, **rest):
        starts.append(snapshot(model))
        recipes.append(recipe)
        seeds.append(seed)
        given.append(data)
        fit(model, data, recipe, seed=seed, label=label, **rest)
        ends.append(snapshot(model))

    @contextmanager
    def noting(model, sites, wanted):
        rates.append(tuple(wanted))
        with dropout(model, sites, wanted):
            yield model

    monkeypatch.setattr(algorithm1, "fit", spy)
    monkeypatch.setattr(dropout_rates, "dropout", noting)
    found = run(problem, settings, random=True)
    fresh = problem.fresh().state_dict()
    assert len(starts) == 4 and len(set(seeds)) == 4
    assert all(data is problem.train for data in given)
    assert same_weights(starts[0], fresh)
    for n in range(1, 4):
        assert same_weights(starts[n], ends[n - 1] if weights == "inherit" else fresh)
    assert rates == [trial.values for trial in found.trials]
    same_steps = {(recipe.epochs, recipe.lr, recipe.schedule) for recipe in recipes}
    assert same_steps == {(2, 0.01, "constant") if weights == "inherit" else (2, 0.02, "one_cycle")}
    assert same_weights(found.best_model.members[0], ends[found.best.number])


def test_no_test_data_is_in_reach_and_only_validation_images_are_measured(monkeypatch, make_problem, make_settings):
    tensors = {field.name for field in fields(Problem) if isinstance(getattr(make_problem(), field.name), tuple)}
    assert tensors == {"train", "validation"}
    measured, monte_carlo = [], algorithm1.monte_carlo

    def spy(model, images, labels, *rest):
        measured.append((images, labels))
        return monte_carlo(model, images, labels, *rest)

    monkeypatch.setattr(algorithm1, "monte_carlo", spy)
    problem = make_problem()
    run(problem, make_settings(), random=True)
    assert len(measured) == (4 + 3) * 2  # trials and second measurements, at two levels
    assert all(x is problem.validation.images and y is problem.validation.labels for x, y in measured)


def test_training_ends_without_dropout_left_on_the_network(monkeypatch, make_problem, make_settings):
    problem, left = make_problem(), []

    def spy(model, *_):
        left.append(sum(len(module._forward_hooks) for module in model.modules()))
        return 0.5, 0.1

    monkeypatch.setattr(algorithm1, "objective", spy)
    run(problem, make_settings(), random=True)
    assert left == [0] * 7


def killed_and_resumed(tmp_path, monkeypatch, problem_with, settings, kill_at, **options):
    """The result of a search that is killed in training number `kill_at`, and how many trainings it took in all."""
    fit, calls = algorithm1.fit, []

    def mortal(model, *arguments, **rest):
        calls.append(1)
        fit(model, *arguments, **rest)  # so the weights are no longer what they were
        if len(calls) == kill_at + 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(algorithm1, "fit", mortal)
        with Checkpoint(tmp_path / f"{kill_at}") as checkpoint, pytest.raises(KeyboardInterrupt):
            run(problem_with(checkpoint=checkpoint), settings, **options)
        with Checkpoint(tmp_path / f"{kill_at}") as checkpoint:
            found = run(problem_with(checkpoint=checkpoint), settings, **options)
    return found, len(calls)


def assert_same_result(first, second):
    assert first.trials == second.trials
    assert (first.values, first.best) == (second.values, second.best)
    assert first.best_model.about == second.best_model.about
    assert same_weights(first.best_model.members[0], second.best_model.members[0])


@pytest.mark.parametrize("kill_at", range(6))
def test_killed_random_search_resumes_to_the_same_result(
    tmp_path, monkeypatch, make_problem, make_settings, random_result, kill_at
):
    found, trainings = killed_and_resumed(
        tmp_path, monkeypatch, make_problem, make_settings(trials=6), kill_at, random=True
    )
    assert_same_result(found, random_result)
    assert trainings == 7  # six, of which one twice


def test_killed_search_with_the_surrogate_resumes_to_the_same_result(
    tmp_path, monkeypatch, make_problem, make_settings, result
):
    found, trainings = killed_and_resumed(tmp_path, monkeypatch, make_problem, make_settings(), 3)
    assert_same_result(found, result)
    assert trainings == 5


def test_killed_search_from_scratch_resumes_to_the_same_result(tmp_path, monkeypatch, make_problem, make_settings):
    settings = make_settings(weights="scratch")
    found, trainings = killed_and_resumed(tmp_path, monkeypatch, make_problem, settings, 2, random=True)
    assert_same_result(found, run(make_problem(), settings, random=True))
    assert trainings == 5


def test_search_that_is_killed_while_measuring_again_trains_nothing_again(
    tmp_path, monkeypatch, make_problem, make_settings, random_result
):
    fit, real, trainings = algorithm1.fit, algorithm1.objective, []

    def mortal(model, problem, settings, fault, purpose, *rest):
        if purpose[0] == "recheck":
            raise KeyboardInterrupt
        return real(model, problem, settings, fault, purpose, *rest)

    def counted(*arguments, **rest):
        trainings.append(1)
        return fit(*arguments, **rest)

    settings = make_settings(trials=6)
    monkeypatch.setattr(algorithm1, "fit", counted)
    with Checkpoint(tmp_path / "c") as checkpoint:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(algorithm1, "objective", mortal)
            run(make_problem(checkpoint=checkpoint), settings, random=True)
        found = run(make_problem(checkpoint=checkpoint), settings, random=True)
    assert len(trainings) == 6
    assert_same_result(found, random_result)


def test_two_strategies_share_a_checkpoint_without_mixing(tmp_path, make_problem, make_settings, result):
    with Checkpoint(tmp_path / "c") as checkpoint:
        run(make_problem(checkpoint=checkpoint), make_settings(), random=True)
        assert_same_result(run(make_problem(checkpoint=checkpoint), make_settings()), result)


def test_result_depends_on_the_seed(make_problem, make_settings, random_result):
    other = run(make_problem(seed=1), make_settings(trials=6), random=True)
    assert not {trial.values for trial in other.trials} & {trial.values for trial in random_result.trials}


def test_search_on_negative_loss(make_problem, make_settings):
    found = run(make_problem(), make_settings(objective="neg_loss", sigmas=(0.3,)))
    assert len(found.trials) == 4
    assert all(trial.objective < 0 for trial in found.trials)
    assert found.best.objective == max(trial.objective for trial in found.trials)


def test_search_with_one_rate_a_stage(make_problem, make_settings):
    found = run(make_problem(), make_settings(granularity="stage", trials=2), random=True)
    assert list(found.best_model.about["rates"]) == ["features"]
    assert all(len(trial.values) == 1 for trial in found.trials)


@pytest.mark.parametrize("kind", ["accuracy", "neg_loss"])
def test_objective_is_the_mean_over_draws_and_levels_worked_out_by_hand(make_problem, make_settings, kind):
    problem, settings = make_problem(), make_settings(objective=kind)
    model, data = problem.fresh(), problem.validation
    per_draw = []
    for draw in range(5):
        scores = []
        for sigma in settings.sigmas:
            copy = drifted_parameters(model, FAULT, sigma, ("tiny", 0, "search", "trial", 2), draw)
            outputs = functional_call(model, copy, (data.images,)).detach()
            right = (outputs.argmax(1) == data.labels).float().mean()
            scores.append(float(right if kind == "accuracy" else -F.cross_entropy(outputs, data.labels)))
        per_draw.append(sum(scores) / len(scores))
    per_draw = torch.tensor(per_draw, dtype=torch.float64)
    mean, error = objective(model, problem, settings, FAULT, ("trial", 2), 5, "all")
    assert mean == pytest.approx(float(per_draw.mean()), rel=1e-5)
    assert error == pytest.approx(float(per_draw.std(correction=1)) / 5**0.5, rel=1e-4)
    assert error > 0


def test_objective_has_fresh_draws_for_each_purpose_that_repeat(make_problem, make_settings):
    problem, settings = make_problem(), make_settings(objective="neg_loss")
    model = problem.fresh()
    purposes = [("trial", 0), ("trial", 1), ("trial", 10), ("recheck", 0), ("recheck", 1)]
    values = [objective(model, problem, settings, FAULT, purpose, 4, "all") for purpose in purposes]
    assert len(set(values)) == len(purposes)
    torch.manual_seed(99)
    assert [objective(model, problem, settings, FAULT, purpose, 4, "all") for purpose in purposes] == values


def test_objective_drifts_the_chosen_parameters_alone(make_problem, make_settings):
    # A network whose only parameters are biases that decide: "weights" leaves its answers alone.
    problem = make_problem(specification={"network": "mlp", "inputs": 16, "hidden": [], "outputs": 4})
    model = build(problem.specification, 0)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 1.001, 1.002, 1.003]))
    settings = make_settings(objective="neg_loss")
    clean = -float(F.cross_entropy(model(problem.validation.images), problem.validation.labels).detach())
    still, _ = objective(model, problem, settings, FAULT, ("trial", 0), 4, "weights")
    moved, _ = objective(model, problem, settings, FAULT, ("trial", 0), 4, "all")
    assert still == pytest.approx(clean, rel=1e-6)
    assert moved < clean - 0.01
