"""Stage `tune`: a method whose numbers a search finds, and the final training under them."""

from bayesft.drift import FAULT_MODELS
from bayesft.models import find_sites
from bayesft.search.algorithm1 import search
from bayesft.settings import SearchSettings
from bayesft.training import Problem, awp, drift_aware, drift_dropout, dropout_rates, uniform
from bayesft.training.drift_aware import drift_gradient
from bayesft.training.tunable import Tunable, train
from stages.common import data_file, models_folder, run, stage
from stages.parameters import TUNED, Drift
from stages.problem import load_problem


def declared(method: str, problem: Problem, settings: SearchSettings, drift: Drift) -> Tunable:
    """What `method` declares as tunable on a problem; dropout rates are between the bounds of the search."""
    sites = find_sites(problem.fresh(), problem.train.images[:1], settings.granularity)
    fault, parameters = FAULT_MODELS[drift.model], drift.parameters
    return {
        "awp": lambda: awp.tunable(),
        "drift_aware": lambda: drift_aware.tunable(fault, parameters),
        "uniform": lambda: uniform.tunable(sites, settings.bounds),
        "drift_dropout": lambda: drift_dropout.tunable(
            sites, settings.bounds, lambda sigma: drift_gradient(fault, sigma, parameters, drift_dropout.RISE)
        ),
        "bayesft": lambda: dropout_rates.tunable(sites, settings.bounds),
    }[method]()


def main(task: str, method: str, seed: int) -> None:
    """Tune one method on one task with one seed."""
    row = method + TUNED

    def matters(p):
        return p.recipe(task), p.specification(task), p.drift, p.tuning_settings(task)

    with stage("tune", f"{task}-{row}-{seed}", matters, (data_file(task),)) as s:
        p = s.parameters
        problem, settings = load_problem(s, task, seed, p.specification(task)), p.tuning_settings(task)
        tunable, fault = declared(method, problem, settings, p.drift), FAULT_MODELS[p.drift.model]
        result = search(problem, tunable, settings, fault, parameters=p.drift.parameters, name=f"{row} search")
        train(problem, tunable, result.values, row, **result.about).save(
            models_folder(task, seed) / row / f"{row}.safetensors"
        )
        chosen = ", ".join(f"{d.name} {v:.3g}" for d, v in zip(tunable.dimensions, result.values, strict=True))
        print(f"{task}-{row}-{seed}: best objective {result.best.objective:.4f}, chosen {chosen}")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
