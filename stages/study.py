"""Stage `study`: what the search is worth on a task: strategies by epochs spent, options one by one, and the reason."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import torch

from bayesft.data import Images, Split
from bayesft.drift import FAULT_MODELS
from bayesft.evaluation.grid import accuracy_grid, sigma_grid
from bayesft.files import write_text
from bayesft.search.algorithm1 import SearchResult, objective, search
from bayesft.settings import SearchSettings
from bayesft.training import Checkpoint, Problem, Trained
from bayesft.training.tunable import Dimension, Tunable, train
from stages.common import data_file, held, run, stage, study_file
from stages.parameters import Parameters, file_name
from stages.problem import load_problem
from stages.tune import declared

UNSEARCHED = ("uniform", "drift_dropout")  # what the searches are compared with: methods at their default values


@dataclass(frozen=True)
class Work:
    """What every run of the study needs."""

    problem: Problem
    test: Split
    sigmas: list[float]
    p: Parameters
    folder: Path

    @property
    def reference(self) -> SearchSettings:
        """The search of which the options are changes."""
        return self.p.study_settings(self.problem.task)[self.p.study.reference][1]

    def measured(self, trained: Trained) -> list[float]:
        """The accuracy on test images at each σ, a mean over the draws."""
        budget, drift = self.p.budget(self.problem.task).evaluate, self.p.drift
        fault, key = FAULT_MODELS[drift.model], (self.problem.task, self.problem.seed)
        values = accuracy_grid(
            trained, self.test, fault, self.sigmas, budget.draws, key, parameters=drift.parameters, label="study"
        )
        return values.mean(1).round(9).tolist()

    def searched(self, problem: Problem, tunable: Tunable, settings: SearchSettings, name: str) -> SearchResult:
        """A search on `problem`, which has a checkpoint of its own."""
        drift = self.p.drift
        return search(problem, tunable, settings, FAULT_MODELS[drift.model], parameters=drift.parameters, name=name)


def main(task: str, seed: int) -> None:
    """Run all strategies and options on one task with one seed."""

    def matters(p):
        of = p.study.sigma_max, p.study.landscape, p.study.reference, p.budget(task).evaluate
        return p.recipe(task), p.specification(task), p.drift, of

    with stage("study", f"{task}-{seed}", matters, (data_file(task),)) as s:
        p, images = s.parameters, Images.load(data_file(task))
        problem = replace(load_problem(s, task, seed, p.specification(task)), checkpoint=None)
        sigmas = sigma_grid(p.study.sigma_max, p.budget(task).evaluate.sigma_step)
        work = Work(problem, images.standardised(s.device)["test"], sigmas, p, s.checkpoint.folder)
        searches = {**p.study_settings(task), **{method: (method, None) for method in UNSEARCHED}}
        *found, space = joblib.Parallel(p.study.jobs)(
            [joblib.delayed(study)(work, name, *of, p.threads) for name, of in searches.items()]
            + [joblib.delayed(landscape)(work, p.threads)]
        )
        runs = dict(zip(searches, found, strict=True))
        about = {**images.about, "classes": images.classes}
        content = {"sigmas": sigmas, "data": about, "runs": runs, "landscape": space}
        write_text(study_file(task, seed), json.dumps(content, indent=1) + "\n")
        for name, points in runs.items():
            last = points[-1]
            mean = sum(last["accuracy"]) / len(sigmas)
            print(f"{task} seed {seed}: {mean:.3f} after {last['epochs_search']} epochs of search: {name}")


def study(work: Work, name: str, method: str, settings: SearchSettings | None, threads: int) -> list[dict]:
    """One strategy, or a method at its default values: what a final training is worth, at each length of the search.

    A longer search goes on from the shorter one, so every length is one that the search could have ended with. Kept in
    a checkpoint of its own, where a run that was killed is found again.
    """
    torch.set_num_threads(threads)
    lengths, name = work.p.study.lengths(name, settings), file_name(name)
    about = settings.model_dump() if settings else work.p.method_settings(work.problem.task, method)
    digest = hashlib.sha256(repr((method, about)).encode()).hexdigest()[:8]
    with held(Checkpoint(work.folder / f"{name}-{digest}")) as checkpoint:
        problem, points = replace(work.problem, checkpoint=checkpoint), []
        for trials in lengths:
            found = checkpoint.load(f"after {trials} trials")
            points.append(found[1] if found else _point(work, problem, name, method, settings, trials))
            checkpoint.save(f"after {trials} trials", {}, points[-1])
    return points


def _point(work: Work, problem: Problem, name: str, method: str, settings: SearchSettings | None, trials: int) -> dict:
    tunable = declared(method, problem, settings or work.reference, work.p.drift)
    if settings is None:
        given = work.p.method_settings(problem.task, method)
        values = [given[dimension.name] for dimension in tunable.dimensions]
        trained = train(work.problem, tunable, values, name)
        return {"trials": 0, "epochs_search": 0, "values": values, "accuracy": work.measured(trained)}
    result = work.searched(problem, tunable, settings.model_copy(update={"trials": trials}), name)
    trained = train(work.problem, tunable, result.values, f"{name} after {trials} trials")
    spent = result.about["epochs_search"]
    return {"trials": trials, "epochs_search": spent, "values": result.values, "accuracy": work.measured(trained)}


def landscape(work: Work, threads: int) -> dict:
    """What there is to find, and how well one trial can see it.

    Along the line of equal rates at all sites: the objective of a trial; what it would be of a trial as long as the
    final training; the accuracy of that training (on test images; no search sees it). Then the objectives of trials
    that differ by chance alone (order of the images, dropout, drift), and those of trials whose rates are random: if
    they spread alike, the objective tells little of the rates.
    """
    torch.set_num_threads(threads)
    p, settings, fault = work.p, work.reference, FAULT_MODELS[work.p.drift.model]
    plain = {"weights": "scratch", "strategy": "random", "top": 1, "batch": 1}
    random = settings.model_copy(update={**plain, "stop_early": False, "common_draws": False})
    line = random.model_copy(update={"strategy": "grid", "trials": p.study.landscape})
    digest = hashlib.sha256(repr(random.model_dump()).encode()).hexdigest()[:8]
    with held(Checkpoint(work.folder / f"the space-{digest}")) as checkpoint:  # no search has a blank in its name here
        problem = replace(work.problem, checkpoint=checkpoint)
        everywhere, rates = (declared(method, problem, settings, p.drift) for method in ("uniform", "bayesft"))
        middle = [sum(settings.bounds) / 2] * len(rates.dimensions)
        chance = Tunable((Dimension("chance", 0.0, 1.0),), lambda model, _: rates.training(model, middle), lambda _: {})
        along = sorted(work.searched(problem, everywhere, line, "equal rates").trials, key=lambda trial: trial.values)
        whole, accuracy = [], []
        for trial in along:
            name = f"final training {trial.number}"
            if not (found := checkpoint.load(name)):
                trained = train(work.problem, everywhere, trial.values, name)
                purpose, (network,) = ("whole", trial.number), trained.networks(work.test.labels.device)
                u, _ = objective(network, problem, line, fault, purpose, line.draws, p.drift.parameters)
                found = {}, [u, work.measured(trained)]
                checkpoint.save(name, *found)
            whole.append(found[1][0])
            accuracy.append(found[1][1])
        return {
            "rates": [trial.values[0] for trial in along],
            "objective": [trial.objective for trial in along],
            "whole_objective": whole,
            "accuracy": accuracy,
            "equal_trials": _seen(work.searched(problem, chance, random, "equal trials")),
            "random_trials": _seen(work.searched(problem, rates, random, "random trials")),
        }


def _seen(result: SearchResult) -> dict:
    return {
        "objective": [trial.objective for trial in result.trials],
        "standard_error": [trial.standard_error for trial in result.trials],
    }


if __name__ == "__main__":
    run(main, "task", "seed")
