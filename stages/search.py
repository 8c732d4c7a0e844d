"""Stage `search`: Algorithm 1, or its random control, and the final training under what it chose."""

from bayesft.drift import FAULT_MODELS
from bayesft.models import find_sites
from bayesft.search.algorithm1 import search
from bayesft.training import dropout_rates
from stages.common import data_file, models_folder, run, stage
from stages.parameters import base_method
from stages.problem import load_problem


def main(task: str, method: str, seed: int) -> None:
    """Search with one strategy, or its variant on the network without batch norm, on one task with one seed."""
    item, folder, strategy = f"{task}-{method}-{seed}", models_folder(task, seed) / method, base_method(method)
    if strategy not in ("bayesft", "random"):
        raise ValueError(f"method {method!r}: must be one of bayesft, random")

    def matters(p):
        return p.recipe(task), p.specification(task, method), p.drift, p.search_settings(task, method)

    with stage("search", item, matters, (data_file(task),)) as s:
        p = s.parameters
        problem, settings = load_problem(s, task, seed, p.specification(task, method)), p.search_settings(task, method)
        sites = find_sites(problem.fresh(), problem.train.images[:1], settings.granularity)
        rates_of_sites = dropout_rates.tunable(sites, settings.bounds, problem.gradient)
        fault = FAULT_MODELS[p.drift.model]
        result = search(
            problem, rates_of_sites, settings, fault, parameters=p.drift.parameters, name=f"{method} search"
        )
        trained = dropout_rates.train(problem, sites, result.values, method, **result.about)
        trained.save(folder / f"{method}.safetensors")
        if method == "bayesft":
            result.best_model.save(folder / "bayesft-alg1.safetensors")
        best = result.best
        rates = ", ".join(f"{site.name} {rate:.2f}" for site, rate in zip(sites, result.values, strict=True))
        found = f"best objective {best.objective:.4f} ± {best.standard_error:.4f}, chosen rates {rates}"
        print(f"{item}: {len(result.trials)} trials, {found}")


if __name__ == "__main__":
    run(main, "task", "method", "seed")
