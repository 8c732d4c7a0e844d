"""Algorithm 1 of BayesFT: hyperparameters α and weights θ, optimised alternately.

    for n = 1 … N:
        α_n from the surrogate of the trials so far           (eqs. 5-9, `optimizer`, `surrogate`)
        θ continues under dropout α_n for E epochs            (or starts afresh: `weights: scratch`)
        u_n = mean over T drifted copies, on validation data  (eqs. 3-4, `objective`)
        the surrogate learns (α_n, u_n)
    return α and θ of the best trial

α is BayesFT's dropout rates, or the hyperparameters of any other method. θ moves by Adam, as everywhere in this study,
at a constant step while it is inherited; each trial starts Adam anew. Two departures give results of their own. With
inherited weights later trials have trained longer, so the epochs behind each trial are logged. The best of N noisy
estimates is partly luck, so the best trials are measured again with fresh draws, and the best of those gives α* for a
final training from a fresh initialisation.

Trials from fresh weights need not wait for one another: `batch` of them are proposed at once and run side by side, in
as many processes as joblib is given.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import joblib
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bayesft.methods import Method
from bayesft.search.early_stop import EarlyStop
from bayesft.search.objective import Estimate, Objective
from bayesft.search.parallel import workers
from bayesft.search.trial import Log, State, Trial
from bayesft.seeds import derive_seed
from bayesft.settings import SearchSettings
from bayesft.training import Diverged, Problem, Trained, fit

__all__ = ["SearchResult", "Trial", "search", "train_row"]


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        trials: All trials, in order.
        values: α*, the chosen hyperparameters, by name.
        best: The trial of the highest u_n, with which Algorithm 1 ends.
        best_model: The network of that trial.
    """

    trials: list[Trial]
    values: dict[str, float]
    best: Trial
    best_model: Trained

    @property
    def about(self) -> dict[str, Any]:
        """What the description of a network trained under α* says of the search."""
        trials = [asdict(trial) for trial in self.trials]
        for trial in trials:
            trial |= {key: None for key in ("objective", "standard_error") if math.isnan(trial[key])}
        return {"epochs_search": sum(trial.epochs for trial in self.trials), "trials": trials}


def search(
    problem: Problem,
    method: Method,
    settings: SearchSettings,
    *,
    fixed: Mapping[str, Any] | None = None,
    n_jobs: int | None = None,
    name: str = "search",
) -> SearchResult:
    """Run Algorithm 1 on `problem` over the hyperparameters of `method`.

    Only training and validation data are touched. A killed search resumes from the problem's checkpoint.

    Args:
        problem: The network, the data, the recipe and the seed.
        method: The method whose hyperparameters are searched.
        settings: The rule and the budget of the search.
        fixed: Settings of the method that are not searched.
        n_jobs: The number of processes for the trials of a batch. It changes no number. None: as
            `joblib.parallel_config` says, which also chooses another backend (a cluster).
        name: Tells several searches of one problem apart.

    Returns:
        The trials and what the search chose.

    Raises:
        ValueError: There is nothing to search, more than a surrogate can tell apart, or no room for so many trials.
        Diverged: No trial ended with finite scores.
    """
    from bayesft.search.optimizer import Optimizer  # scikit-optimize takes seconds to import; most rows have no search

    hyperparameters = method.hyperparameters(problem)
    optimizer = Optimizer(len(hyperparameters), settings, derive_seed(problem.task, problem.seed))
    scores = _Scores(problem, settings.objective)
    objective = Objective(scores, settings.sigmas, settings.draws, (problem.task, problem.seed, "search"))
    work = _Work(replace(problem, checkpoint=None), method, fixed or {}, settings, objective, name)
    log = Log(problem, settings, name)
    if log.trials:
        tqdm.write(f"{problem.label(name)}: resuming after trial {len(log.trials)} of {settings.trials}")
    bar = tqdm(total=settings.trials, initial=len(log.trials), desc=problem.label(name), unit="trial", disable=None)
    with workers(settings.batch, n_jobs) as run:
        for start in range(0, settings.trials, settings.batch):
            points = optimizer.ask(min(settings.batch, settings.trials - start))
            alphas = [
                {h.name: h.value(unit) for h, unit in zip(hyperparameters, point, strict=True)} for point in points
            ]
            stop = EarlyStop.after(log.trials[:start], settings)
            jobs = [
                joblib.delayed(_trial)(work, number, alpha, log.before(number), stop, torch.get_num_threads())
                for number, alpha in enumerate(alphas, start)
                if number >= len(log.trials)  # the others were done before the search was killed
            ]
            for trial, weights in run(jobs):
                log.add(trial, weights)
                bar.update()
            for trial in log.trials[start : start + len(points)]:
                point = [h.unit(value) for h, value in zip(hyperparameters, trial.values, strict=True)]
                optimizer.tell(point, trial.objective, trial.standard_error)
    bar.close()
    return _choose(log, work)


@dataclass(frozen=True)
class _Scores:
    """The scores of drifted copies on the validation part, as `Objective` takes them."""

    problem: Problem
    objective: str

    def __call__(self, model: nn.Module, sigmas: tuple[float, ...], draws: range, key: tuple[Any, ...]) -> Tensor:
        return self.problem.scores(model, sigmas, draws, key, self.objective)


@dataclass(frozen=True)
class _Work:
    """What every trial of a search needs, in any process."""

    problem: Problem
    method: Method
    fixed: Mapping[str, Any]
    settings: SearchSettings
    objective: Objective
    name: str


def _trial(
    work: _Work,
    number: int,
    alpha: dict[str, float],
    before: tuple[State, int] | None,
    stop: EarlyStop | None,
    threads: int,
) -> tuple[Trial, State]:
    """Train under α_n, from the weights of the last trial or fresh ones, and measure u_n: the trial and its weights.

    It depends on its arguments alone, so it can run in any process. `before` are the weights that it inherits, and the
    epochs behind them.
    """
    torch.set_num_threads(threads)  # another number of threads would round otherwise
    problem, settings = work.problem, work.settings
    model, recipe = problem.fresh(), problem.recipe.model_copy(update={"epochs": settings.epochs})
    if settings.weights == "inherit":
        recipe = recipe.model_copy(update={"lr": settings.lr, "schedule": "constant"})
        if before is not None:
            model.load_state_dict(before[0])
    own = () if settings.common_draws else (number,)
    halfway: list[Estimate] = []

    def hopeless(done: int) -> bool:
        if stop is None or done != settings.epochs // 2:
            return False
        halfway.append(work.objective(model, ("halfway", *own)))
        return stop.stops(halfway[0])

    label, seed = f"{problem.label(work.name)}, trial {number}", derive_seed(problem.seed, "trial", *own)
    epochs, stopped, failed = settings.epochs, False, False
    try:
        with work.method.training(model, problem, {**work.fixed, **alpha}) as gradient:
            fit(
                model,
                problem.train,
                recipe,
                seed=seed,
                label=label,
                loss=problem.loss,
                gradient=gradient,
                after_epoch=hopeless,
            )
        if stop is not None and halfway and stop.stops(halfway[0]):
            u, epochs, stopped = stop.predicted(halfway[0]), settings.epochs // 2, True
        else:
            u = work.objective(model, ("trial", *own))
    except Diverged as error:
        tqdm.write(f"{error} (this trial counts as failed, and the search goes on)")
        u, failed = Estimate(math.nan, math.nan), True
        model = problem.fresh()
        if before is not None:
            model.load_state_dict(before[0])
    behind = (before[1] if before else 0) + (0 if failed else epochs)
    reached = halfway[0].mean if halfway else None
    weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    trial = Trial(number, tuple(alpha.values()), u.mean, u.standard_error, behind, epochs, reached, stopped, failed)
    return trial, weights


def _choose(log: Log, work: _Work) -> SearchResult:
    """Measure the best trials again with fresh draws, and choose α* among them."""
    problem, trials = work.problem, list(log.trials)
    model, top = problem.fresh(), log.best()
    rechecked: dict[int, float] = {}
    for trial in top:
        model.load_state_dict(log.weights[trial.number])
        try:
            again = work.objective(model, ("recheck", trial.number), 2 * work.settings.draws)
        except Diverged as error:
            tqdm.write(f"{problem.label(work.name)}, trial {trial.number}: {error} (it is not chosen)")
            continue
        rechecked[trial.number] = again.mean
        trials[trial.number] = replace(trial, recheck=again.mean, recheck_error=again.standard_error)
    if not rechecked:
        raise Diverged(f"{problem.label(work.name)}: no trial ended with finite scores; lower the lr")
    names = [h.name for h in work.method.hyperparameters(problem)]
    chosen = trials[max(rechecked, key=rechecked.__getitem__)]
    best = trials[top[0].number]
    model.load_state_dict(log.weights[best.number])
    about = {
        "epochs": best.cumulative_epochs,
        **work.method.about(problem, {**work.fixed, **dict(zip(names, best.values, strict=True))}),
        "trial": best.number,
    }
    trained = Trained.of(model, problem.specification, **about)
    return SearchResult(trials, dict(zip(names, chosen.values, strict=True)), best, trained)


def train_row(
    problem: Problem,
    method: Method,
    values: Mapping[str, Any],
    given: Mapping[str, Trained],
    found: SearchResult | None = None,
    name: str | None = None,
) -> dict[str, Trained]:
    """Train what a row of the report shows: with given hyperparameters, or with those that a search has found.

    Args:
        problem: The network, the data, the recipe and the seed.
        method: The method.
        values: The method's settings.
        given: The trained networks that the method needs, by name.
        found: The search of its hyperparameters, or None where `values` gives them.
        name: The row's name, where it is not the method's.

    Returns:
        The trained network under the row's name, and further networks of the method under names of their own.

    Raises:
        Diverged: The loss or its gradient is no longer finite.
    """
    name = name or method.name
    if found is None:
        trained = method.train(problem, values, given)
    else:
        if method.final_training:
            trained = method.train(problem, {**values, **found.values}, given)
        else:
            trained = {method.name: found.best_model}
        network = trained[method.name]
        trained[method.name] = replace(network, about={**network.about, **found.about})
    return {name if key == method.name else key: network for key, network in trained.items()}
