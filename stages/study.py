"""Stage `study`: what the search is worth on a task: strategies by epochs spent, options one by one, and the reason."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bayesft.data import Split
from bayesft.evaluation.grid import accuracy_grid, sigma_grid
from bayesft.files import write_json
from bayesft.methods import Hyperparameter, Method, load
from bayesft.methods.bayesft import BayesFT
from bayesft.search.algorithm1 import SearchResult, search
from bayesft.search.objective import Objective
from bayesft.settings import SearchSettings
from bayesft.training import Checkpoint, Problem, Trained
from stages.common import RESULTS, Item, Stage, run
from stages.problem import load_images, load_problem


def main() -> None:
    """Run the strategies and options of the study, and look at the space that they search."""
    stage = Stage("study", RESULTS / "study")
    stage.work(study, stage.items)


def study(stage: Stage, item: Item) -> str:
    """One strategy, one method with given hyperparameters, or the landscape, on one task with one seed."""
    name = f"{item['task']}-{item['seed']}-{item['name']}.json"
    shutil.copyfile(finished(stage, item) / "found.json", RESULTS / "study" / name)
    return item["kind"]


def finished(stage: Stage, item: Item) -> Path:
    """The folder of an item's result in the store."""

    def build(folder: Path, checkpoint: Checkpoint) -> None:
        work = Work(load_problem(stage, item, checkpoint), item, load_images(item).standardised(stage.device)["test"])
        content = landscape(work) if item["kind"] == "landscape" else {"points": points(work)}
        write_json(folder / "found.json", content)

    return stage.made(item, build)


@dataclass(frozen=True)
class Work:
    """What every part of the study needs."""

    problem: Problem
    item: Item
    test: Split

    def measured(self, trained: Trained) -> list[float]:
        """The accuracy on test images at each σ of the study's own grid, a mean over the draws."""
        item, problem = self.item, self.problem
        sigmas = sigma_grid(item["sigma_max"], item["sigma_step"])
        key = (problem.task, problem.seed)
        values = accuracy_grid(
            trained, self.test, problem.fault, sigmas, item["draws"], key, parameters=problem.parameters, label="study"
        )
        return values.mean(1).round(9).tolist()

    def final(self, method: Method, values: Mapping[str, Any], name: str) -> Trained:
        """A final training, resumed under a name of its own.

        Args:
            method: The method.
            values: Its hyperparameters, which change the item's settings.
            name: The name.

        Returns:
            The trained network.
        """
        problem = replace(self.problem, task=f"{self.problem.task} {name}")
        return method.train(problem, {**self.item["values"], **values}, {})[method.name]


def points(work: Work) -> list[dict]:
    """What a final training is worth at each length of a search.

    A longer search goes on from the shorter one, so every length is one that the search could have ended with.
    """
    item, method, kept = work.item, load(work.item["method"]), work.problem.checkpoint
    if item["search"] is None:
        accuracy = work.measured(work.final(method, {}, "given"))
        return [{"trials": 0, "epochs_search": 0, "accuracy": accuracy}]
    found = []
    for trials in item["lengths"]:
        # A killed study finds the points that it had: its search may have more trials by now.
        before = kept.load(f"after {trials} trials")
        point = before[1] if before else _point(work, method, trials)
        kept.save(f"after {trials} trials", {}, point)
        found.append(point)
    return found


def _point(work: Work, method: Method, trials: int) -> dict:
    settings = SearchSettings(**{**work.item["search"], "trials": trials})
    result = search(work.problem, method, settings, fixed=work.item["values"])
    accuracy = work.measured(work.final(method, result.values, f"after {trials} trials"))
    values = list(result.values.values())
    return {"trials": trials, "epochs_search": result.about["epochs_search"], "values": values, "accuracy": accuracy}


class _Chance(BayesFT):
    """BayesFT at equal rates, whatever is searched: its trials differ by chance alone."""

    def hyperparameters(self, problem: Problem) -> tuple[Hyperparameter, ...]:
        return (Hyperparameter("chance", 0.0, 1.0),)

    def rates(self, problem: Problem, values: Mapping[str, Any]) -> tuple[float, ...]:
        return (sum(problem.bounds) / 2,) * len(problem.sites)


def landscape(work: Work) -> dict:
    """What there is to find, and how well one trial can see it.

    Along the line of equal rates at all sites: the objective of a trial; what it would be of a trial as long as the
    final training; the accuracy of that training (on test images; no search sees it). Then the objectives of trials
    that differ by chance alone (order of the images, dropout, drift), and those of trials whose rates are random: if
    they spread alike, the objective tells little of the rates.
    """
    plain = {"weights": "scratch", "strategy": "random", "top": 1, "batch": 1, "stop_early": False}
    random = SearchSettings(**{**work.item["search"], **plain, "common_draws": False})
    line = random.model_copy(update={"strategy": "grid", "trials": work.item["landscape"]})
    uniform, p = load("uniform"), work.problem
    along = sorted(_searched(work, uniform, line, "equal rates").trials, key=lambda trial: trial.values)
    u: Callable = Objective(p.scores, line.sigmas, line.draws, (p.task, p.seed, "search"))
    whole, accuracy = [], []
    for trial in along:
        trained = work.final(uniform, {"rate": trial.values[0]}, f"final training {trial.number}")
        (network,) = trained.networks(work.test.labels.device)
        whole.append(u(network, ("whole", trial.number)).mean)
        accuracy.append(work.measured(trained))
    return {
        "rates": [trial.values[0] for trial in along],
        "objective": [trial.objective for trial in along],
        "whole_objective": whole,
        "accuracy": accuracy,
        "equal_trials": _seen(_searched(work, _Chance(), random, "equal trials")),
        "random_trials": _seen(_searched(work, load("bayesft"), random, "random trials")),
    }


def _searched(work: Work, method: Method, settings: SearchSettings, name: str) -> SearchResult:
    return search(work.problem, method, settings, fixed=work.item["values"], name=name)


def _seen(result: SearchResult) -> dict:
    return {
        "objective": [trial.objective for trial in result.trials],
        "standard_error": [trial.standard_error for trial in result.trials],
    }


if __name__ == "__main__":
    run(main)
