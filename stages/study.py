"""Stage `study`: what the search is worth on a task: strategies by epochs spent, and options one by one."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import torch

from bayesft.data import Images, Split
from bayesft.drift import FAULT_MODELS
from bayesft.evaluation.grid import accuracy_grid, sigma_grid
from bayesft.files import write_text
from bayesft.search.algorithm1 import search
from bayesft.settings import SearchSettings
from bayesft.training import Checkpoint, Problem, Trained, uniform
from bayesft.training.tunable import train
from stages.common import data_file, run, stage, study_file
from stages.parameters import Parameters
from stages.problem import load_problem
from stages.tune import declared


@dataclass(frozen=True)
class Work:
    """What every run of the study needs."""

    problem: Problem
    test: Split
    sigmas: list[float]
    p: Parameters
    folder: Path

    def measured(self, trained: Trained) -> list[float]:
        """The accuracy on test images at each σ, a mean over the draws."""
        budget, drift = self.p.budget(self.problem.task).evaluate, self.p.drift
        fault, key = FAULT_MODELS[drift.model], (self.problem.task, self.problem.seed)
        values = accuracy_grid(
            trained, self.test, fault, self.sigmas, budget.draws, key, parameters=drift.parameters, label="study"
        )
        return values.mean(1).round(9).tolist()


def main(task: str, seed: int) -> None:
    """Run all strategies and options on one task with one seed."""

    def matters(p):
        return p.recipe(task), p.specification(task), p.drift, p.study, p.study_settings(task), p.budget(task).evaluate

    with stage("study", f"{task}-{seed}", matters, (data_file(task),)) as s:
        p, images = s.parameters, Images.load(data_file(task))
        problem = replace(load_problem(s, task, seed, p.specification(task)), checkpoint=None)
        sigmas = sigma_grid(p.study.sigma_max, p.budget(task).evaluate.sigma_step)
        work = Work(problem, images.standardised(s.device)["test"], sigmas, p, s.checkpoint.folder)
        searches = {**p.study_settings(task), "uniform": ("uniform", None)}
        found = joblib.Parallel(p.study.jobs)(
            joblib.delayed(study)(work, name, *of, p.threads) for name, of in searches.items()
        )
        runs = dict(zip(searches, found, strict=True))
        about = {**images.about, "classes": images.classes}
        write_text(study_file(task, seed), json.dumps({"sigmas": sigmas, "data": about, "runs": runs}, indent=1) + "\n")
        for name, points in runs.items():
            last = points[-1]
            mean = sum(last["accuracy"]) / len(sigmas)
            print(f"{task} seed {seed}: {mean:.3f} after {last['epochs_search']} epochs of search: {name}")


def study(work: Work, name: str, method: str, settings: SearchSettings | None, threads: int) -> list[dict]:
    """One strategy, or the uniform rate that needs none: what a final training is worth, at each length of the search.

    A longer search goes on from the shorter one, so every length is one that the search could have ended with. Kept in
    a checkpoint of its own, where a run that was killed is found again.
    """
    torch.set_num_threads(threads)
    lengths, name = work.p.study.lengths(name, settings), re.sub(r"\W+", "-", name)  # a name for files, too
    with Checkpoint(work.folder / name) as checkpoint:
        problem, points = replace(work.problem, checkpoint=checkpoint), []
        for trials in lengths:
            found = checkpoint.load(f"after {trials} trials")
            points.append(found[1] if found else _point(work, problem, name, method, settings, trials))
            checkpoint.save(f"after {trials} trials", {}, points[-1])
    return points


def _point(work: Work, problem: Problem, name: str, method: str, settings: SearchSettings | None, trials: int) -> dict:
    if settings is None:
        (rate,) = work.p.method_settings(problem.task, method).values()
        return {"trials": 0, "epochs_search": 0, "accuracy": work.measured(uniform.train(work.problem, rate))}
    tunable, drift = declared(method, problem, settings, work.p.drift), work.p.drift
    settings, fault = settings.model_copy(update={"trials": trials}), FAULT_MODELS[drift.model]
    result = search(problem, tunable, settings, fault, parameters=drift.parameters, name=name)
    trained = train(work.problem, tunable, result.values, f"{name} after {trials} trials")
    spent = result.about["epochs_search"]
    return {"trials": trials, "epochs_search": spent, "values": result.values, "accuracy": work.measured(trained)}


if __name__ == "__main__":
    run(main, "task", "seed")
